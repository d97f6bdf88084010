"""Pieces hidden from encoders, on layers made by hand."""

import dataclasses

import pytest
import torch

from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.config import RecipeConfig
from econ_pyro.core.occlusion import draw_occluders, occlude
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.training.learner import Learner
from helpers.trainers import small_expert


def layers(n=200):
    """Two 6x6 squares, red and green, an empty layer, and the background, in n images."""
    r = torch.zeros(n, 4, 1, 16, 16)
    r[:, 0, :, 2:8, 1:7] = 1
    r[:, 1, :, 9:15, 8:14] = 1
    r[:, 3] = 1 - r.sum(1)
    x = torch.full((n, 3, 16, 16), 0.1)
    x[:, 0] += 0.8 * r[:, 0, 0]
    x[:, 1] += 0.8 * r[:, 1, 0]
    return x, r


def drawn(share, n=200, seed=0):
    x, r = layers(n)
    luck = torch.rand(n, 4, 4, generator=torch.Generator().manual_seed(seed))
    return x, r, draw_occluders(x, r, luck, share)


def test_another_object_is_put_in_front_with_its_own_colours():
    x, r, front = drawn(1.0)
    assert front.shape == (200, 4, 4, 16, 16)
    mask = front[:, :, 3]
    hides = mask.sum((2, 3)) > 0
    assert hides[:, 0].any() and hides[:, 1].any()
    for t, colour in ((0, (0.1, 0.9, 0.1)), (1, (0.9, 0.1, 0.1))):
        seen = front[:, t, :3].movedim(1, -1)[mask[:, t] == 1]
        torch.testing.assert_close(seen, torch.tensor(colour).expand_as(seen))
        assert set(mask[:, t].unique().tolist()) <= {0.0, 1.0}
        # a square of the other's size, perhaps cut by the image's edge
        area = mask[:, t].sum((1, 2))
        assert area.max() == 36 and (area[hides[:, t]] >= 6).all()


def test_it_lies_over_the_object_and_leaves_enough():
    x, r, front = drawn(1.0)
    for t in (0, 1):
        hidden = (front[:, t, 3:] * r[:, t]).sum((1, 2, 3)) / 36
        assert (hidden > 0).float().mean() > 0.3 and 0.55 < hidden.max() <= 0.7
        # evenly about it: half of what is hidden is on either side
        middle = 4 if t == 0 else 11
        above = (front[:, t, 3:] * r[:, t])[:, :, : middle + 1].sum()
        assert 0.35 < above / (front[:, t, 3:] * r[:, t]).sum() < 0.65


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_objects_and_never_the_last_layer(share):
    _, _, front = drawn(share, n=1000)
    _, _, all_of_them = drawn(1.0, n=1000)
    hides, could = (a[:, :, 3].sum((2, 3)) > 0 for a in (front, all_of_them))
    assert not hides[:, 3].any()
    assert hides[:, 0].sum() / could[:, 0].sum() == pytest.approx(share, abs=0.06)


def test_what_is_put_in_front_is_another_layer_moved_and_nothing_comes_in():
    """By trying all moves, with layers that touch the image's edges."""
    g = torch.Generator().manual_seed(1)
    r = torch.zeros(24, 4, 1, 8, 8)
    r[:, 0, :, :4, :3], r[:, 1, :, 2:, 5:], r[:, 2, :, 5:, :4] = 0.9, 0.8, 1.0
    r[:, 3] = 1 - r[:, :3].sum(1)
    x = torch.rand(24, 3, 8, 8, generator=g)
    front = draw_occluders(x, r, torch.rand(24, 4, 4, generator=g), 1.0)
    layers = torch.cat([x[:, None].expand(-1, 4, -1, -1, -1), r], 2)
    # every 8x8 window of a layer with nothing all around: 17 x 17 moves, none in the middle
    moves = torch.nn.functional.pad(layers, 4 * [8]).unfold(3, 8, 1).unfold(4, 8, 1)
    there = front[:, :3].flatten(2).any(2).nonzero().tolist()
    followers = cut = 0
    for n, t in there:
        same = (moves[n, :3] == front[n, t, :, None, None]).all(-1).all(-1).all(1)
        ((other, down, right),) = same.nonzero().tolist()
        assert other != t
        followers += other == (t + 1) % 3
        cut += [down, right] != [8, 8] and front[n, t, 3].sum() < r[n, other].sum()
    assert len(there) > 40 and len(there) / 4 < followers < len(there) * 3 / 4 and cut > 20


def test_without_luck_it_lies_over_the_middle():
    r = torch.zeros(1, 3, 1, 32, 32)
    r[:, 0, :, 1:8, 23:30], r[:, 1, :, 26:29, 2:5] = 1, 1  # 7x7 and, far away, 3x3
    r[:, 2] = 1 - r[:, :2].sum(1)
    front = draw_occluders(torch.rand(1, 3, 32, 32), r, torch.full((1, 3, 4), 0.5), 1.0)
    assert front[0, 0, 3].nonzero().tolist() == [[i, j] for i in (3, 4, 5) for j in (25, 26, 27)]


def test_with_one_object_nothing_can_be_put_in_front():
    x, r = layers(3)
    front = draw_occluders(x, r[:, [0, 3]], torch.rand(3, 2, 4), 1.0)
    assert front.shape == (3, 2, 4, 16, 16) and not front.any()


def test_what_the_encoder_sees():
    x, r, front = drawn(1.0)
    n = int((front[:, 0, 3].sum((1, 2)) == 36).nonzero()[0, 0])
    seen_x, seen_r = occlude(x[n : n + 1], r[n : n + 1, 0], front[n : n + 1, 0])
    covered = front[n, 0, 3].bool()
    assert (seen_r[0, 0][covered] == 0).all()
    assert torch.equal(seen_r[0, 0][~covered], r[n, 0, 0][~covered])
    assert torch.equal(seen_x[0][:, ~covered], x[n][:, ~covered])
    green = torch.tensor([0.1, 0.9, 0.1])[:, None].expand(-1, 36)
    torch.testing.assert_close(seen_x[0][:, covered], green)
    whole, nothing = r[:, 0], torch.zeros_like(front[:, 0])
    for same, own in zip(occlude(x, whole, nothing), (x, whole), strict=True):
        assert torch.equal(same, own)


def test_the_loss_still_asks_for_the_whole(tiny):
    # of an encoder that sees nothing of its input, hiding a part changes nothing
    expert = small_expert(bias=0.0)
    config = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, expert=expert))
    losses = {}
    for blind in (True, False):
        for share in (0.0, 1.0):
            recipe = RecipeConfig(occlusion=share)
            econ = Econ(dataclasses.replace(config, recipe=recipe))
            if blind:
                for p in econ.guide.encoders.parameters():
                    p.data.zero_()
            learner = Learner(econ.config, econ, torch.device("cpu"), ProcessGroup())
            torch.manual_seed(0)
            x = torch.rand(8, 3, 16, 16)
            torch.manual_seed(1)
            losses[blind, share] = learner.engine.step(x)
    assert losses[True, 0.0] == pytest.approx(losses[True, 1.0], rel=1e-6)
    assert losses[False, 0.0] != losses[False, 1.0]


def test_the_share_is_a_share():
    with pytest.raises(EconError, match=r"at most 1 for recipe.occlusion, got 1\.5"):
        RecipeConfig(occlusion=1.5)
