"""Steps of latents against what is known in closed form, and images that do not share them."""

import pytest
import torch

from econ_pyro.core.distributions import PixelNoise
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.infer import refinement
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import Terms
from econ_pyro.infer.latent_ascent import ascend
from econ_pyro.infer.mixture import Mixture, log_evidence
from helpers.trainers import changed, seeded_tiny

SIZE, NOISE, PLAIN = 8, PixelNoise(0.5), Mixture()


class Linear:
    """p that draws a layer in the colour of three latents, over a shape that the fourth moves."""

    num_experts, latent_dim, pixel_noise = 2, 4, NOISE

    def decode(self, z, k):
        colour = z[..., :3, None, None].expand(*z.shape[:-1], 3, SIZE, SIZE)
        rows = torch.arange(SIZE).double()[:, None].expand(SIZE, SIZE)
        shape = (2.0 * (3.5 + z[..., 3, None, None] - rows)).sigmoid()
        return colour, torch.where((k == 1)[..., None, None], shape, 1.0)[..., None, :, :]


def layers_at(model, x, z, k):
    mean, shape = model.decode(z.transpose(0, 1), k.T)
    mean, shape = mean.transpose(0, 1), shape.transpose(0, 1)
    r = torch.cat([shape[:, :-1], 1 - shape[:, :-1].sum(1, keepdim=True)], 1)
    kl = z.square().sum(2) / 2
    zero = torch.zeros_like(kl)
    losses = zero[:, :, None]
    return Decomposition(
        x, k, torch.ones_like(r), r, mean, shape, z, Terms(zero, kl, zero), losses, k
    )


def test_one_layer_goes_to_the_mode_of_its_posterior():
    model, colour = Linear(), torch.tensor([0.9, 0.1, 0.4]).double()
    x = colour[None, :, None, None].expand(1, 3, SIZE, SIZE)
    k, z = torch.zeros(1, 1).long(), torch.zeros(1, 1, 4).double()
    d = layers_at(model, x, z, k)
    kept = torch.ones(1, 1).bool()
    found = ascend(model, d, kept, PLAIN, 400)
    precision = SIZE**2 / NOISE.sigma**2  # by the colour that is drawn, not a corrected one
    mode = colour * precision / (precision + 1)
    torch.testing.assert_close(found.z[0, 0, :3], mode, atol=1e-3, rtol=0.0)
    torch.testing.assert_close(found.z[0, 0, 3], z[0, 0, 3])  # of no use: stays at the prior's
    torch.testing.assert_close(found.terms.z, found.z.square().sum(2) / 2)


@pytest.mark.parametrize(
    ("option", "value", "mixture"),
    [
        ("background_noise", True, Mixture(background_noise=True)),
        ("layer_covariance", 0.05, Mixture(covariance=0.05)),
        ("covariance_floor", 0.1, Mixture(floor=0.1)),
    ],
)
def test_options_say_how_decomposing_refines_and_a_start_does_less(
    monkeypatch, option, value, mixture
):
    sizes = {"refine": True, "refine_steps": 2, option: value}
    options = {f"model__competition__{name}": value for name, value in sizes.items()}
    econ = Econ(changed(seeded_tiny(), **options, recipe__shape_clusters=4))
    seen, mixtures, plain = [], set(), refinement.e_step

    def noted(model, d, kept, mixture, steps):
        seen.append((mixture, steps))
        return d

    def stepped(d, noise, mixture):
        mixtures.add(mixture)
        return plain(d, noise, mixture)

    monkeypatch.setattr(refinement, "ascend", noted)
    monkeypatch.setattr(refinement, "e_step", stepped)
    images = torch.rand(8, 3, 16, 16)
    econ.decompose(images)
    assert set(seen) == {(mixture, 2)} and mixtures == {mixture}
    seen.clear()
    mixtures.clear()
    with pytest.raises(EconError, match="objects that touch"):  # noise has none
        econ.initialise(lambda n: images)
    assert not seen and mixtures == {Mixture(floor=mixture.floor)}  # of no covariance
    Econ(changed(econ.config, model__competition__refine_steps=0)).decompose(images)
    assert not seen


def edges(rows):
    """Images that are light down to a row each, and dark below."""
    light = torch.arange(SIZE)[None, :] <= torch.tensor(rows)[:, None]
    colour = torch.where(light[:, None, :, None], 0.9, 0.1).double()
    return colour.expand(-1, 3, -1, SIZE)


def started(rows):
    x = edges(rows)
    z = torch.tensor([[0.9, 0.9, 0.9, 0.0], [0.1, 0.1, 0.1, 0.0]]).double()
    return layers_at(Linear(), x, z.expand(len(x), -1, -1), torch.tensor([[1, 0]] * len(x)))


def test_shapes_move_to_where_the_image_has_them_and_each_image_for_itself():
    model, d, kept = Linear(), started([4, 2, 3]), torch.ones(3, 2).bool()
    found = ascend(model, d, kept, PLAIN, 60)
    moved = found.z[:, 0, 3]
    assert moved[0] > 0.5 > 0.1 > moved[2].abs() and moved[1] < -0.5
    for i in range(3):
        alone = ascend(model, started([[4, 2, 3][i]]), kept[:1], PLAIN, 60)
        torch.testing.assert_close(alone.z[0], found.z[i])
    drawn = layers_at(model, d.image, found.z, d.k)
    assert torch.equal(found.mean, drawn.mean) and torch.equal(found.shape, drawn.shape)


def evidence(d, kept):
    return log_evidence(d, kept, NOISE, as_drawn=True)


def test_no_image_becomes_less_likely_however_far_steps_go():
    model, d, kept = Linear(), started([4, 2, 3]), torch.ones(3, 2).bool()
    before = likely = evidence(d, kept)
    for steps in (1, 2, 5, 20):
        found = evidence(ascend(model, d, kept, PLAIN, steps), kept)
        assert (found >= likely).all()
        likely = found
    assert (likely > before + 0.1)[:2].all()
    best = ascend(model, d, kept, PLAIN, 400)
    again = ascend(model, best, kept, PLAIN, 3)  # Adam's first steps go past the top
    assert (evidence(again, kept) >= evidence(best, kept)).all()


def test_layers_that_explain_nothing_stay_and_gradients_are_left_to_nobody():
    model, d = Linear(), started([4])
    kept = torch.tensor([[False, True]])
    found = ascend(model, d, kept, PLAIN, 10)
    torch.testing.assert_close(found.z[0, 0], d.z[0, 0])
    assert not any(a.requires_grad for a in (found.z, found.mean, found.shape, found.terms.z))
