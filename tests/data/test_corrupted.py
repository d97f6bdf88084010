"""Corrupted sources: the ground truth of the clean scenes, the same images each time."""

import pytest
import torch

from econ_pyro.core.corruptions import KINDS, corrupt
from econ_pyro.data.corrupted import CorruptedSource, format_corruptions, parse_corruptions
from econ_pyro.data.ground_truth import PartialTruth
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SceneConfig

ALL = {
    "grey": 1.0, "texture": 0.2, "shading": 0.2, "outline": 1.0, "contrast": 0.5, "blur": 0.5,
    "speckle": 0.1,
    "noise": 0.05, "jpeg": 60.0,
}  # fmt: skip


class Images:
    """The images of a source without ground truth."""

    def __init__(self, source):
        self.size, self.classes, self.images = source.size, (), source.images

    def __len__(self):
        return 12

    def scenes(self, indices):
        return None


@pytest.fixture
def source():
    return GeneratedScenes(SceneConfig(size=16), 3, 12, "valid")


def test_kinds_are_parsed_into_their_order():
    found = parse_corruptions(["jpeg=50", "noise=0.05", "outline=1", "blur=1e0"])
    assert found == {"outline": 1.0, "blur": 1.0, "noise": 0.05, "jpeg": 50.0}
    assert list(found) == ["outline", "blur", "noise", "jpeg"]
    assert format_corruptions(found) == "outline=1 blur=1 noise=0.05 jpeg=50"
    assert parse_corruptions(format_corruptions(ALL).split()) == ALL
    assert parse_corruptions([]) == {}


@pytest.mark.parametrize(
    ("texts", "expected", "got"),
    [
        (["fog=1"], "KIND=STRENGTH, with KIND among grey, ", "'fog=1'"),
        (["noise"], "KIND=STRENGTH", "'noise'"),
        ([""], "KIND=STRENGTH", "''"),
        (["noise=0.1", "blur=1", "noise=0.2"], "one strength of noise", "two"),
        (["noise=much"], "a number from 0 to 1 for noise", "'much'"),
        (["noise="], "a number from 0 to 1 for noise", "''"),
        (["noise=nan"], "a number from 0 to 1 for noise", "'nan'"),
        (["blur=inf"], "a number from 0 to 100 for blur", "'inf'"),
        (["contrast=-0.1"], "a number from 0 to 1 for contrast", "'-0.1'"),
        (["outline=1.1"], "a number from 0 to 1 for outline", "'1.1'"),
        (["jpeg=50.5"], "a whole number from 1 to 100 for jpeg", "'50.5'"),
        (["jpeg=0"], "a whole number from 1 to 100 for jpeg", "'0'"),
        (["jpeg=inf"], "a whole number from 1 to 100 for jpeg", "'inf'"),
    ],
)
def test_what_is_no_corruption_is_an_error(texts, expected, got):
    with pytest.raises(EconError) as error:
        parse_corruptions(texts)
    assert expected in error.value.expected and error.value.got == got


def test_scenes_are_corrupted_and_their_truth_is_not(source):
    indices = torch.tensor([7, 0, 3])
    clean = source.scenes(indices)
    corrupted = CorruptedSource(source, ALL)
    scenes = corrupted.scenes(indices)
    assert (len(corrupted), corrupted.size, corrupted.classes) == (12, 16, source.classes)
    for name in ("region", "mask", "label"):
        assert torch.equal(getattr(scenes, name), getattr(clean, name))
    assert torch.equal(scenes.layers(5), clean.layers(5))
    assert torch.equal(corrupted.images(indices), scenes.image)
    assert torch.equal(clean.image, source.images(indices))  # not changed in place
    assert ((scenes.image - clean.image).abs().amax((1, 2, 3)) > 0.05).all()


def test_textures_follow_the_visible_regions(source):
    """The corruption of one region is what :func:`corrupt` does with the true layers."""
    indices = torch.arange(12)
    scenes = source.scenes(indices)
    outlined = CorruptedSource(source, {"outline": 1.0}).images(indices)
    changed = (outlined != scenes.image).any(1)
    either = corrupt(scenes.image, {"outline": 1.0}, scenes.layers(4)) != scenes.image
    assert torch.equal(changed, either.any(1)) and changed.flatten(1).any(1).all()
    assert not (changed & ~scenes.region.any(1)).any()  # never on the background


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_depend_on_the_others(source, kind):
    state = torch.get_rng_state()
    corrupted = CorruptedSource(source, {kind: ALL[kind]}, seed=5)
    both = corrupted.images(torch.tensor([2, 9]))
    assert torch.equal(corrupted.images(torch.tensor([9])), both[1:])
    every = corrupted.images(torch.arange(12))
    assert torch.equal(every[[2, 9]], both)
    other = CorruptedSource(source, {kind: ALL[kind]}, seed=6).images(torch.arange(12))
    assert torch.equal(other, every) == (kind in ("contrast", "blur", "jpeg"))
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_differs_between_images(source):
    indices = torch.arange(12)
    x = source.images(indices)
    change = CorruptedSource(source, {"noise": 0.02}).images(indices) - x
    assert torch.corrcoef(change.flatten(1)).fill_diagonal_(0).abs().mean() < 0.1


def test_images_without_masks(source):
    indices = torch.arange(12)
    images = Images(source)
    noisy = CorruptedSource(images, {"noise": 0.1, "jpeg": 50.0})
    assert noisy.scenes(indices) is None
    expected = CorruptedSource(source, {"noise": 0.1, "jpeg": 50.0}).images(indices)
    assert torch.equal(noisy.images(indices), expected)
    followed = CorruptedSource(images, {"texture": 0.1, "outline": 0.5, "noise": 0.1})
    with pytest.raises(EconError) as error:
        followed.images(indices)
    assert str(error.value) == (
        "expected images with masks, for texture and outline, got images without: choose among "
        "contrast, blur, speckle, noise, jpeg"
    )


def test_scenes_of_files_may_lack_classes_and_hidden_parts(source):
    full = source.scenes(torch.arange(12))
    partial = PartialTruth(full.image, full.region)

    class Files(Images):
        def scenes(self, indices):
            return partial

    scenes = CorruptedSource(Files(source), {"shading": 0.2}).scenes(torch.arange(12))
    assert scenes.mask is None and scenes.label is None
    assert not torch.equal(scenes.image, full.image)
