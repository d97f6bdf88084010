"""The judge of scenes: segments of images made by hand, and which objects they show."""

import pytest
import torch

from econ_pyro.data.synthetic.renderer import SceneRenderer
from econ_pyro.evaluation.flat_segments import object_segments
from econ_pyro.evaluation.scene_judge import SceneJudge
from econ_pyro.scene_config import SceneConfig
from helpers.decompositions import SIZE, box

RED, GREEN, GREY = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.25, 0.25, 0.25)


def paint(*objects):
    """An image of masks and their colours on grey, the last one in front."""
    image = torch.tensor(GREY)[:, None, None].repeat(1, SIZE, SIZE)
    for mask, colour in objects:
        image[:, mask] = torch.tensor(colour)[:, None]
    return image


def blurred(image):
    """The image with edges two pixels wide."""
    grey = torch.nn.functional.avg_pool2d(image[None], 2, 1, 1, count_include_pad=False)[0]
    return grey[:, 1:, 1:]


def test_objects_are_segments_and_the_background_is_none():
    large, small = box(1, 1, 8, 8), box(10, 9, 14, 14)
    found = object_segments(paint((small, RED), (large, GREEN)))
    assert torch.equal(found, torch.stack([large, small]))
    assert len(object_segments(paint())) == 0


def test_soft_edges_go_to_the_nearer_colour():
    large, small = box(2, 2, 8, 8), box(10, 8, 15, 14)
    found = object_segments(blurred(paint((small, RED), (large, GREEN))))
    assert len(found) == 2
    for segment, mask in zip(found, (large, small), strict=True):
        assert (segment | mask).sum() - (segment & mask).sum() <= 12  # half a pixel


def test_parts_that_another_object_leaves_are_one_segment():
    bar, front = box(6, 1, 10, 15), box(4, 6, 12, 10)
    found = object_segments(paint((bar, RED), (front, GREEN)))
    assert torch.equal(found, torch.stack([bar & ~front, front]))


def test_few_pixels_are_no_object_and_noise_is_no_scene():
    assert len(object_segments(paint((box(1, 1, 2, 2), RED)))) == 0
    assert object_segments(torch.rand(3, SIZE, SIZE)) is None
    half = paint()
    half[:, :, 8:] = torch.rand(3, SIZE, 8)
    assert object_segments(half) is None
    gradient = paint() + 0.3 * torch.linspace(0, 1, SIZE)
    assert len(object_segments(gradient)) == 0


class BySides:
    """A classifier who goes by the sides of the bounding box, of full boxes."""

    def classify(self, mask):
        names = []
        for m in mask[:, 0] > 0.5:
            rows, columns = m.any(1).sum().item(), m.any(0).sum().item()
            full = m.sum() == rows * columns
            names.append({(6, 6): "square", (4, 10): "bar"}.get((rows, columns), "no") * full)
        return names


@pytest.fixture(scope="module")
def judge():
    sides = [(6, 6), (4, 10)]
    templates, labels = [], []
    for label, (rows, columns) in enumerate(sides):
        for y in range(SIZE - rows + 1):
            for x in range(SIZE - columns + 1):
                templates.append(box(y, x, y + rows, x + columns))
                labels.append(label)
    return SceneJudge(("square", "bar"), BySides(), torch.stack(templates), torch.tensor(labels))


SQUARE, BAR = box(2, 2, 8, 8), box(5, 5, 9, 15)


def test_what_is_hidden_is_completed(judge):
    for scene in (paint((SQUARE, RED), (BAR, GREEN)), paint((BAR, GREEN), (SQUARE, RED))):
        assert judge.shows(scene, ("square", "bar")) and judge.shows(scene, ("bar", "square"))
        assert not judge.shows(scene, ("square", "square"))
        assert not judge.shows(scene, ("square",))
        assert not judge.shows(scene, ("square", "bar", "bar"))
        assert judge.look(scene).whole


def test_a_part_that_nothing_hides_is_missing(judge):
    bitten = SQUARE & ~box(2, 2, 4, 4)
    scene = paint((bitten, RED), (BAR, GREEN))
    assert not judge.shows(scene, ("square", "bar")) and not judge.look(scene).whole
    # but what is bitten may be behind another object that is there
    cover = box(1, 1, 5, 5)
    assert judge.look(paint((SQUARE, RED))).whole
    assert not judge.shows(paint((SQUARE, RED), (cover, GREEN)), ("square", "bar"))


def test_two_objects_cannot_hide_each_other(judge):
    """Both squares lack the corner that the other one's would cover."""
    first, second = box(2, 2, 8, 8), box(5, 5, 11, 11)
    both = first & second
    scene = paint((first & ~both, RED), (second & ~both, GREEN))
    assert not judge.shows(scene, ("square", "square"))
    over = paint((first, RED), (second, GREEN))
    assert judge.shows(over, ("square", "square"))


def test_an_empty_scene_shows_nothing(judge):
    assert judge.shows(paint(), ()) and not judge.look(paint()).whole
    noise = judge.look(torch.rand(3, SIZE, SIZE))
    assert noise.fits is None and not noise.shows(()) and not noise.whole


def test_more_objects_than_are_judged_are_none(judge):
    cells = [(box(y, x, y + 4, x + 4), (RED, GREEN)[(x + y) // 5 % 2]) for y in (0, 5, 10)
             for x in (1, 6, 11)]  # fmt: skip
    scene = paint(
        *((m, (0.5 + 0.05 * i, 0.9 - 0.1 * i, 0.1 * i)) for i, (m, _) in enumerate(cells))
    )
    assert judge.look(scene).fits is None


def test_rendered_scenes_are_lawful_and_their_halves_are_not():
    scenes = SceneConfig(kind="random-colours")
    drawn = SceneRenderer(scenes, 5).render(torch.arange(14))
    alone = SceneRenderer(SceneConfig(objects=1, selection="random"), 6).render(torch.arange(2500))

    class Nearest:
        def classify(self, mask):
            wrong = (mask[:, 0].bool()[:, None] ^ alone.mask[:, 0]).flatten(2).sum(2)
            least, which = wrong.min(1)
            names = [scenes.classes[k] for k in alone.label[which, 0].tolist()]
            return [n if few <= 20 else "no" for n, few in zip(names, least.tolist(), strict=True)]

    judge = SceneJudge(scenes.classes, Nearest(), alone.mask[:, 0], alone.label[:, 0])
    seen = (drawn.region.flatten(2).sum(2) >= 8).all(1)
    right = torch.tensor([judge.shows(x, scenes.classes) for x in drawn.image])
    assert right[seen].float().mean() > 0.6 and seen.sum() > 9
    halves = drawn.image.clone()
    halves[:, :, :, 16:] = halves[:, :, :1, :1]  # the right half is background
    assert sum(judge.shows(x, scenes.classes) for x in halves) <= 1
