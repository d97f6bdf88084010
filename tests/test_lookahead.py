"""What the lookahead is for, on proposals made by hand."""

import torch

from econ_pyro.config import ExpertConfig, ModelConfig
from econ_pyro.lookahead import looked_ahead
from econ_pyro.models.dead_leaves import DeadLeaves
from econ_pyro.proposals import Proposals, Rules
from econ_pyro.terms import Terms

SIGMA = 0.1


def scene(back_area):
    """A front square and a larger one behind it that it hides in part; expert 2 is asleep."""
    front, back = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    front[:, 2:7, 2:7] = 1
    back[:, 4 : 4 + back_area, 4 : 4 + back_area] = 1
    seen = back * (1 - front)
    x = 0.2 + 0.6 * front + 0.4 * seen.expand(3, -1, -1) * torch.tensor([1.0, 0, 0])[:, None, None]
    r = torch.stack([front, seen, torch.zeros_like(front)])
    shape = torch.stack([front, back, torch.zeros_like(front)]).clamp(1e-4, 1 - 1e-4)
    return x, r[None], x[None, None].expand(1, 3, -1, -1, -1), shape[None]


def scores(back_area, rollout):
    x, r, mean, shape = scene(back_area)
    model = DeadLeaves(ModelConfig(experts=3, size=16, expert=ExpertConfig(channels=(4, 4))))
    rules = Rules(experts=3, steps=4, sigma_x=SIGMA, lookahead=True, rollout=rollout)
    q, p = r.double(), shape.double()
    kl = q * ((q + 1e-6).log() - (p + 1e-6).log())
    kl += (1 - q) * ((1 - q + 1e-6).log() - (1 - p + 1e-6).log())
    terms = Terms(x=torch.zeros(1, 3), z=torch.zeros(1, 3), r=kl.sum((2, 3, 4)).float())
    proposals = Proposals(r, mean, shape, torch.zeros(1, 3, 5), terms)
    end = torch.full((1, 3, 16, 16), 0.2)
    return terms.score(1.0)[0], looked_ahead(
        proposals, end, model, x[None], torch.ones(1, 1, 16, 16), rules
    )[0]


def test_alone_the_empty_region_is_the_cheapest():
    alone, _ = scores(9, rollout=False)
    assert alone.argmin() == 2


def test_ending_counts_what_a_region_leaves_unexplained():
    # saved: 25 pixels at 3 * 0.6^2, against 72 at 0.4^2, over 2 sigma^2
    alone, ahead = scores(9, rollout=False)
    saved = torch.tensor([25 * 3 * 0.36, (81 - 9) * 0.16, 0.0]) / (2 * SIGMA**2)
    torch.testing.assert_close(ahead, alone - saved, rtol=1e-4, atol=1e-2)


def test_rolling_out_puts_the_nearer_object_first_and_leaves_nobody_behind():
    for back_area in (5, 9, 12):
        _, ahead = scores(back_area, rollout=True)
        assert ahead.argmin() == 0
        assert ahead[1] > ahead[0] + 10  # the hidden corner is 9 pixels or so, at up to 9 nats
        assert ahead[2] > ahead[0] + 100  # sleep saves nothing
