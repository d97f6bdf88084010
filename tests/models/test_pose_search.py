"""The search for poses: what is displaced comes back, also where half of it is hidden."""

import dataclasses
import math

import pytest
import torch

from econ_pyro.core.pose import direction_of, latents_of_position, position_of
from econ_pyro.econ import Econ
from econ_pyro.models import pose_search
from econ_pyro.models.pose_search import Pose, fitting_poses
from helpers.odd_shape import odd_decoder
from helpers.trainers import TINY, changed, small_expert

EXPERT = small_expert(8, features=8, pose=True, size=True, angle=True, shape_dim=5)


@pytest.fixture
def decoder(monkeypatch):
    return odd_decoder(EXPERT, monkeypatch)


def latents(position, log_size, degrees):
    angle = math.radians(degrees)
    z = torch.zeros(1, 8, dtype=torch.double)
    z[:, :2] = latents_of_position(torch.tensor([position], dtype=torch.double), 1.0)
    z[0, 2] = log_size
    z[0, 3:5] = 1.5 * torch.tensor([math.cos(angle), math.sin(angle)])
    return z


def drawn(decoder, shape, z):
    return decoder(z, shape)[:, 3:].detach()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_displaced_object_is_found(decoder, hidden):
    decoder, shape = decoder
    true, guess = latents((0.2, -0.1), 0.3, 40.0), latents((0.3, 0.05), 0.1, 60.0)
    m = drawn(decoder, shape, true)
    s = torch.ones_like(m)
    if hidden:
        s[..., :16] = 0.0  # its left half is behind something
        assert 0.2 < ((1 - s) * m).sum() / m.sum() < 0.8
    k = torch.tensor([0])
    found = torch.cat([fitting_poses([decoder], guess, k, s * m, s), guess[:, 5:]], 1)
    assert (position_of(found[:, :2], 1.0) - position_of(true[:, :2], 1.0)).abs().max() < 0.05
    assert (found[0, 2] - true[0, 2]).abs() < 0.1
    assert (direction_of(found[:, 3:5]) * direction_of(true[:, 3:5])).sum() > math.cos(0.15)
    both = torch.stack([drawn(decoder, shape, z) > 0.5 for z in (found, true)])
    assert both.all(0).sum() > 0.8 * both.any(0).sum()  # the hidden part, too


def test_what_fits_stays(decoder):
    decoder, shape = decoder
    true = latents((0.2, -0.1), 0.3, 40.0)
    m = drawn(decoder, shape, true)
    found = fitting_poses([decoder], true, torch.tensor([0]), m, torch.ones_like(m))
    torch.testing.assert_close(found, true[:, :5])


def test_of_poses_that_show_the_same_the_likeliest_is_found(decoder):
    decoder, shape = decoder
    guess = latents((0.0, 0.0), 0.9, 0.0)
    s = torch.zeros(1, 1, 32, 32, dtype=torch.double)
    s[..., 18:21, 15:18] = 1.0  # all that is not hidden, within the object
    assert (drawn(decoder, shape, guess)[s > 0] > 0.99).all()
    found = fitting_poses([decoder], guess, torch.tensor([0]), s, s)
    assert (drawn(decoder, shape, torch.cat([found, guess[:, 5:]], 1))[s > 0] > 0.9).all()
    assert found[0, :3].square().sum() < 0.5 * guess[0, :3].square().sum()


def apart(z, true):
    """How far a pose is from the true one: position, log size, and direction."""
    moved = (position_of(z[:, :2], 1.0) - position_of(true[:, :2], 1.0)).abs().max()
    return max(moved.item(), (z[0, 2:5] - true[0, 2:5]).abs().max().item())


def test_the_last_rounds_see_every_pixel_and_change_little(decoder):
    decoder, shape = decoder
    true, other = latents((0.2, -0.1), 0.3, 40.0), latents((0.26, -0.04), 0.2, 52.0)
    m, s = drawn(decoder, shape, true), torch.ones(1, 1, 32, 32).double()
    # every second pixel, by which the search begins, is another pose's
    m[..., ::2, ::2] = drawn(decoder, shape, other)[..., ::2, ::2]
    found = fitting_poses([decoder], other, torch.tensor([0]), m, s)
    assert apart(found, true) < 0.04 < 0.09 < apart(other, true)


def test_a_layer_without_a_region_keeps_its_pose(decoder):
    decoder, _ = decoder
    z = torch.cat([latents((0.2, -0.1), 0.3, 40.0)] * 2)
    r = torch.zeros(2, 1, 32, 32).double()
    r[1, :, 10:20, 10:20] = 1
    found = fitting_poses([decoder], z, torch.tensor([0, 0]), r, torch.ones_like(r))
    assert torch.equal(found[0], z[0, :5]) and not torch.equal(found[1], z[1, :5])


def test_poses_are_found_in_whitened_latents(decoder):
    decoder, shape = decoder
    true, guess = latents((0.2, -0.1), 0.3, 40.0), latents((0.2, -0.1), 0.1, 40.0)
    m = drawn(decoder, shape, true)
    given = [decoder], guess, torch.tensor([0]), m, torch.ones_like(m)
    plain = fitting_poses(*given)
    decoder.whitening.shift[2], decoder.whitening.scale[2] = 0.5, 0.2
    guess[:, 2] = (guess[:, 2] - 0.5) / 0.2
    expected = plain.clone()
    expected[:, 2] = (plain[:, 2] - 0.5) / 0.2
    torch.testing.assert_close(fitting_poses(*given), expected)


def test_where_there_is_no_size_none_is_tried(monkeypatch):
    expert = small_expert(7, features=8, pose=True, angle=True, shape_dim=4)
    decoder, shape = odd_decoder(expert, monkeypatch)
    true = latents((0.2, -0.1), 0.0, 40.0)[:, [0, 1, 3, 4, 5, 6, 7]]
    m, sizes, changed = drawn(decoder, shape, true), [], Pose.changed

    def noting(pose, dy, dx, size, angle):
        sizes.append(size)
        return changed(pose, dy, dx, size, angle)

    monkeypatch.setattr(Pose, "changed", noting)
    found = fitting_poses([decoder], true, torch.tensor([0]), m, torch.ones_like(m))
    assert found.shape == (1, 4) and sizes and not any(sizes)


def test_where_there_is_no_angle_none_is_tried(monkeypatch):
    expert = small_expert(6, features=8, pose=True, size=True, shape_dim=3)
    decoder, shape = odd_decoder(expert, monkeypatch)
    both = torch.cat([latents((0.2, -0.1), 0.3, 0.0), latents((0.3, 0.05), 0.1, 0.0)])
    true, guess = both[:, [0, 1, 2, 5, 6, 7]].split(1)
    m = drawn(decoder, shape, true)
    s = torch.ones_like(m)
    s[..., :16] = 0.0  # its left half is behind something
    found = fitting_poses([decoder], guess, torch.tensor([0]), s * m, s)
    assert found.shape == (1, 3)
    assert (position_of(found[:, :2], 1.0) - position_of(true[:, :2], 1.0)).abs().max() < 0.05
    assert (found[0, 2] - true[0, 2]).abs() < 0.1


@pytest.mark.parametrize("angle", [False, True])
def test_decomposing_searches_and_training_does_not(angle):
    config = changed(TINY, model__expert=small_expert(
        8, pose=True, size=True, angle=angle, shape_dim=3 + 2 * angle, seeded=True))  # fmt: skip
    econ, asked = Econ(config), []
    found = econ.guide.find_poses

    def asking(*given):
        asked.append(given)
        return found(*given)

    econ.guide.find_poses = asking
    x = torch.rand(2, 3, 16, 16)
    econ.loss_terms(x)
    assert not asked
    econ.decompose(x)
    assert asked and not econ.guide._searching


def test_nothing_is_larger_than_the_largest():
    """Neither drawn, nor encoded, nor found; what is smaller is as it was."""
    scenes = torch.zeros(2, 3, 32, 32)
    scenes[0, :, 4:28, 4:28] = scenes[1, :, 14:18, 14:18] = 0.9
    r = (scenes[:, :1] > 0.5).float()
    found, drawn = [], []
    for largest in (None, 1.2):
        latents_ = dataclasses.replace(EXPERT.latents, largest=largest)
        expert = dataclasses.replace(EXPERT, latents=latents_)
        econ = Econ(changed(TINY, model__size=32, model__expert=expert, seed=3))
        k = torch.zeros(2, dtype=torch.long)
        with torch.no_grad(), econ.guide.pose_search():
            z = econ.guide.encode(scenes, r, k, torch.zeros(2, 8)).mean
            found.append(z[:, 2])
            huge = z.clone()
            huge[0, 2] = 1.5
            drawn.append(econ.model.decode(huge, k).shape)
    (free, small), (bound, same) = (f.tolist() for f in found)
    assert free > math.log(1.2) + 0.1 and bound == pytest.approx(math.log(1.2), abs=1e-5)
    assert small == pytest.approx(same, abs=1e-5) and small < 0
    assert (drawn[1][0] > 0.5).sum() < 0.8 * (drawn[0][0] > 0.5).sum()
    torch.testing.assert_close(drawn[0][1], drawn[1][1])


def test_larger_poses_are_judged_as_they_are_drawn(decoder):
    decoder, shape = decoder
    decoder.largest = math.log(1.2)
    huge = latents((0.2, -0.1), 0.9, 40.0)
    m = drawn(decoder, shape, huge)
    fit = pose_search._Fit([decoder], huge, torch.tensor([0]), m, torch.ones_like(m))
    at_most = fit.start._replace(log_size=torch.full_like(fit.start.log_size, math.log(1.2)))
    smaller = fit.start._replace(log_size=torch.zeros_like(fit.start.log_size))
    assert fit(fit.start, 1) == fit(at_most, 1) > fit(smaller, 1)
