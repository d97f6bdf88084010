"""What is said of data whose contents are known."""

import numpy as np
import pytest
import torch

from econ_pyro.data.readers.numpy_files import save_npz
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.evaluation.contact_sheet import contact_sheet
from econ_pyro.evaluation.data_report import advise, flat_share, inspect, report
from econ_pyro.io.layer_files import write_image
from econ_pyro.scene_config import SceneConfig
from helpers.data_files import blocks


def look(path, fit="crop", limit=1000):
    seen = inspect(path, fit, limit)
    return seen, advise(seen, fit)


def test_objects_are_counted_and_decide(tmp_path):
    _, numbers, images = blocks(50, 4, 64, 64)
    np.savez(tmp_path / "a.npz", image=images, mask=numbers)
    seen, advice = look(tmp_path / "a.npz")
    counts = [len(set(n.ravel()) - {0}) for n in numbers]
    assert sum(k * v for k, v in seen.objects.items()) == sum(counts)
    assert advice.slots == max(counts) + 1 and advice.experts == 4
    tiny = np.zeros((50, 128, 128), np.uint8)
    tiny[:, 5:13, 5:13] = 1  # 64 of 16384 pixels: 16 at 64x64 are fewer than 24
    np.savez(tmp_path / "b.npz", image=np.repeat(tiny[..., None], 3, 3), mask=tiny)
    assert look(tmp_path / "b.npz")[1].size == 128
    tiny[:, 5:21, 5:21] = 1  # 64 at 64x64, 16 at 32x32
    np.savez(tmp_path / "b.npz", image=np.repeat(tiny[..., None], 3, 3), mask=tiny)
    seen, advice = look(tmp_path / "b.npz")
    assert advice.size == 64 and advice.slots == 2
    assert "at least 64 pixels" in report(seen, advice, "crop")


@pytest.mark.parametrize(("side", "size"), [(20, 32), (35, 32), (64, 64), (300, 64)])
def test_without_masks_numbers_are_called_guesses(tmp_path, side, size):
    for i in range(3):
        write_image(tmp_path / "own pictures" / f"{i}.png", torch.rand(3, side, side + 10))
    (tmp_path / "own pictures" / "notes.txt").write_text("x")
    with pytest.warns(UserWarning, match="skipped 1"):
        seen, advice = look(tmp_path / "own pictures", "resize")
    assert (advice.size, advice.slots, advice.experts) == (size, 4, 4) and not seen.objects
    text = report(seen, advice, "resize")
    assert text.count("a guess") == 3 and "notes.txt" in text and "stretched" in text
    assert f"--data '{tmp_path}/own pictures'" in text and "--fit resize" in text
    assert (
        "--model.expert.latents.reach 1 " in text
    )  # objects of photographs lie at the edges, too
    assert "truth        none" in text and "few images" in text
    assert contact_sheet(seen.source, size).height > 100


def test_the_sheet_shows_images_and_their_masks(tmp_path):
    numbers = np.zeros((40, 32, 32), np.uint8)
    numbers[:, :16] = 1
    images = np.full((40, 32, 32, 3), 255, np.uint8)
    np.savez(tmp_path / "a.npz", image=images, mask=numbers)
    seen, _ = look(tmp_path / "a.npz", limit=10)
    assert len(seen.source) == 10 and seen.info.truncated
    sheet = np.asarray(contact_sheet(seen.source, 32))
    blue = (np.abs(sheet.astype(int) - (57, 143, 191)).max(-1) < 12).sum()
    assert blue == pytest.approx(10 * 48 * 96, rel=0.02)  # the upper half of ten panels


@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_preset_is_for_objects_of_one_colour_or_of_several(tmp_path, size):
    flat = GeneratedScenes(SceneConfig(kind="random-colours", size=size), 0, 20)
    images = flat.images(torch.arange(20))
    generator = torch.Generator().manual_seed(0)
    spots = torch.rand(20, 1, 16, 16, generator=generator).repeat_interleave(size // 16, 2)
    spotted = torch.where(images > 0.5, spots.repeat_interleave(size // 16, 3), images)
    for name, preset, pixels in (("flat", "quick", images), ("spots", "sprites", spotted)):
        array = (255 * pixels).round().byte().permute(0, 2, 3, 1).numpy()
        np.save(tmp_path / f"{name}.npy", array)
        _, advice = look(tmp_path / f"{name}.npy")
        assert f"svi_train.py {preset} " in advice.command
        assert any(reason.startswith(f"{preset}: ") for reason in advice.reasons)


def test_small_pictures_are_not_enlarged_to_be_looked_at(tmp_path):
    """A pixel of such a picture is one of those that flatness is measured by."""
    scenes = GeneratedScenes(SceneConfig(kind="random-colours"), 0, 20).images(torch.arange(20))
    np.save(tmp_path / "small.npy", scenes.permute(0, 2, 3, 1).numpy())
    seen, _ = look(tmp_path / "small.npy")
    torch.testing.assert_close(seen.source.images(torch.arange(20)), scenes)


@pytest.mark.parametrize(("sizes", "scaled"), [((0.35, 0.35), False), ((0.2, 0.4), True)])
def test_sizes_that_differ_are_told(tmp_path, sizes, scaled):
    config = SceneConfig(object_size=sizes)
    made = GeneratedScenes(config, 0, 60)
    save_npz(tmp_path / "a.npz", made.scenes(torch.arange(60)), made.classes)
    seen, advice = look(tmp_path / "a.npz")
    # uniform from 0.2 to 0.4: the ninth over the first decile is 0.38 over 0.22
    assert seen.size_range == pytest.approx(0.38 / 0.22 if scaled else 1, abs=0.15)
    latents = "--model.expert.latents"
    command = f"{latents}.size {latents}.dim 6 {latents}.shape-dim 3"
    assert (command in advice.command) == scaled
    np.save(tmp_path / "b.npy", np.zeros((40, 32, 32, 3), np.uint8))
    assert look(tmp_path / "b.npy")[0].size_range is None


def test_an_empty_picture_counts_as_flat():
    assert flat_share(torch.zeros(2, 3, 16, 16)) == 1
