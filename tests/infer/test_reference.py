"""The fast step against the plain one, value and gradient, on random inputs."""

import pytest
import torch

from econ_pyro.core.distributions import PixelNoise
from econ_pyro.core.selection import Draws, draw_gumbel
from econ_pyro.infer.competition import GreedyCompetition
from econ_pyro.infer.elbo import BatchedELBO, ClassConditionalELBO
from econ_pyro.infer.joint_competition import JointCompetition
from econ_pyro.infer.reference import plain_loss


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("elbo", [ClassConditionalELBO(0.5, 2.0), BatchedELBO(0.5, 2.0)])
@pytest.mark.parametrize(
    ("temperature", "seeded", "ordered", "hidden", "light"),
    [
        (0.0, False, False, False, 0.0),
        (30.0, False, False, True, 0.4),
        (0.0, True, False, False, 0.0),
        (0.0, True, True, False, 0.0),
        (30.0, True, True, True, 0.4),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_two_passes_are_the_plain_step(
    make_pq, seed, elbo, temperature, seeded, ordered, hidden, light, dtype, tolerance
):
    torch.manual_seed(seed)
    model, guide = (part.to(dtype) for part in make_pq(seeded=seeded))
    model.pixel_noise = PixelNoise(0.1, light)
    x = torch.rand(5, 3, 16, 16, dtype=dtype)
    competition = GreedyCompetition(3, lam=0.7, temperature=temperature)
    if seeded:
        competition = JointCompetition(3, 0.7, temperature, ordered=ordered)
    noise, gumbel = torch.randn(5, 3, 2, dtype=dtype), draw_gumbel((5, 3, 3), x)
    occluders = torch.rand(5, 3, 4, 16, 16, dtype=dtype) if hidden else None
    plain = plain_loss(model, guide, x, noise, gumbel, competition, 0.5, 2.0, occluders)
    w = competition(model, guide, x, draws=Draws(noise, gumbel))
    assert torch.equal(w.k, plain.k)
    given = guide.given(w._replace(occluder=occluders))
    loss = elbo.differentiable_loss(model, given, x, w.k)
    torch.testing.assert_close(loss, plain.loss, rtol=tolerance, atol=0)
    parameters = [*model.parameters(), *guide.parameters()]
    ours = torch.autograd.grad(loss, parameters, allow_unused=True)
    theirs = torch.autograd.grad(plain.loss, parameters, allow_unused=True)
    # what is left where large gradients cancel, float32 does not know to a thousandth
    largest = max(b.abs().max().item() for b in theirs if b is not None)
    least = 1e-6 * largest if dtype == torch.float32 else 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a is None:  # a loser: in the plain step it is in the graph, with a gradient of zero
            assert b is None or not b.any()
        else:
            scale = max(b.abs().max().item(), least)
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * scale)
