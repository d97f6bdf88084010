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
    return stack([front, back, torch.zeros_like(front)], [0.6, 0.4, 0.0])


def stack(shapes, contrasts):
    """Image, regions, means and shapes of objects front to back over grey."""
    x, left, r = torch.full((3, 16, 16), 0.2), torch.ones(1, 16, 16), []
    for shape, contrast in zip(shapes, contrasts, strict=True):
        r.append(shape * left)
        left = left * (1 - shape)
        x = x + contrast * r[-1]
    shape = torch.stack(shapes).clamp(1e-4, 1 - 1e-4)
    return x, torch.stack(r)[None], x[None, None].expand(1, len(r), -1, -1, -1), shape[None]


def scores(back_area, rollout):
    return scores_of(scene(back_area), rollout)


def scores_of(parts, rollout, left=3, ways=None):
    x, r, mean, shape = parts
    experts = r.shape[1]
    model = DeadLeaves(ModelConfig(experts=experts, size=16, expert=ExpertConfig(channels=(4, 4))))
    rules = Rules(experts=experts, steps=4, sigma_x=SIGMA, lookahead=True, rollout=rollout)
    q, p = r.double(), shape.double()
    kl = q * ((q + 1e-6).log() - (p + 1e-6).log())
    kl += (1 - q) * ((1 - q + 1e-6).log() - (1 - p + 1e-6).log())
    zero = torch.zeros(1, experts)
    terms = Terms(x=zero, z=zero, r=kl.sum((2, 3, 4)).float())
    proposals = Proposals(r, mean, shape, torch.zeros(1, experts, 5), terms)
    end = torch.full((1, 3, 16, 16), 0.2)
    return terms.score(1.0)[0], looked_ahead(
        proposals, end, model, x[None], torch.ones(1, 1, 16, 16), rules, left, ways
    )[0]


def test_alone_the_empty_region_is_the_cheapest():
    alone, _ = scores(9, rollout=False)
    assert alone.argmin() == 2


def test_ending_counts_what_a_region_leaves_unexplained():
    # saved: 25 pixels at 3 * 0.6^2, against 72 at 3 * 0.4^2, over 2 sigma^2
    alone, ahead = scores(9, rollout=False)
    saved = torch.tensor([25 * 3 * 0.36, (81 - 9) * 3 * 0.16, 0.0]) / (2 * SIGMA**2)
    torch.testing.assert_close(ahead, alone - saved, rtol=1e-4, atol=1e-2)


def test_rolling_out_puts_the_nearer_object_first_and_leaves_nobody_behind():
    for back_area in (5, 9, 12):
        _, ahead = scores(back_area, rollout=True)
        assert ahead.argmin() == 0
        assert ahead[1] > ahead[0] + 10  # the hidden corner is 9 pixels or so, at up to 9 nats
        assert ahead[2] > ahead[0] + 100  # sleep saves nothing


def test_of_a_chain_the_nearest_goes_first_though_it_is_small_and_frees_little():
    near, middle, far = torch.zeros(3, 1, 16, 16)
    near[:, 1:4, 1:4] = 1  # hides 1 pixel
    middle[:, 3:9, 3:9] = 1  # hides 16
    far[:, 5:15, 5:15] = 1
    _, ahead = scores_of(stack([near, middle, far], [0.2, 0.5, 0.7]), rollout=True)
    assert ahead[0] < ahead[1] - 5 and ahead[0] < ahead[2] - 5


def test_a_region_that_does_not_pay_waits_for_those_that_do():
    seen, hidden = torch.zeros(2, 1, 16, 16)
    seen[:, 2:8, 2:8] = 1
    hidden[:, 4:9, 4:9] = 1  # 9 pixels to be seen, 16 hidden
    parts = stack([seen, hidden], [0.5, 0.05])
    alone, ahead = scores_of(parts, rollout=True)
    assert alone[1] > 9 * 3 * 0.05**2 / (2 * SIGMA**2)  # its shape costs more than it saves
    assert ahead[0] == 0 and ahead[1] > 100


def test_only_as_many_are_ordered_as_can_be_taken():
    near, far, speck = torch.zeros(3, 1, 16, 16)
    near[:, 2:8, 2:8] = 1
    far[:, 5:13, 5:13] = 1
    speck[:, 14, 14] = 1  # apart: nothing to wait for
    parts = stack([near, far, speck], [0.5, 0.4, 0.5])
    _, ahead = scores_of(parts, rollout=True, left=3)
    assert ahead[2] < 0.1
    _, ahead = scores_of(parts, rollout=True, left=2)
    assert ahead.argmin() == 0 and ahead[2] > ahead[1]


def test_a_thing_waits_for_the_expert_that_is_best_later():
    front, back = torch.zeros(2, 1, 16, 16)
    front[:, 2:9, 2:9] = 1
    back[:, 5:13, 5:13] = 1
    x, r, mean, shape = stack([front, back], [0.6, 0.4])
    bitten = shape.clone()
    bitten[:, 1] = (r[:, 1]).clamp(1e-4, 1 - 1e-4)  # whoever draws just what is seen of it
    bitten[:, 1, :, 11:, 11:] = 1e-2  # but for a corner
    alone, ahead = scores_of((x, r, mean, bitten), rollout=True)
    assert ahead[1] < 1
    zero = torch.zeros(1, 2, 2)
    ways = Proposals(
        *(torch.stack([a, a], 2) for a in (r, mean)),
        torch.stack([bitten, shape], 2),
        torch.zeros(1, 2, 2, 5),
        Terms(zero, zero, zero),
    )
    _, ahead = scores_of((x, r, mean, bitten), rollout=True, ways=ways)
    assert ahead[1] > alone[1] - 1 and ahead[0] < 1  # its own expert pays nothing, later
