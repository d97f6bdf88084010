"""What validations change: shares of winners, and the class prior that they become."""

import pytest
import torch

from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.training.callbacks import ClassPrior, winner_shares
from helpers.decompositions import explained

LEFT, RIGHT = (2, 2, 8, 8), (8, 8, 14, 14)
WINNERS = [[2, 1, 0], [2, 2, 0], [1, 2, 0], [2, 0, 0]]


class Twice(ProcessGroup):
    """Two processes that found the same."""

    def sum(self, value):
        return 2 * value


@pytest.fixture
def found():
    return Decomposition.cat([explained([LEFT, RIGHT, None], k, 3) for k in WINNERS])


@pytest.mark.parametrize("group", [ProcessGroup(), Twice()])
def test_shares_of_winners_are_counts_over_scenes(found, group):
    shares = winner_shares(found, 3, group)
    for t in range(3):
        for e in range(3):
            count = sum(k[t] == e for k in WINNERS)
            assert shares[t, e].item() == pytest.approx(count / len(WINNERS))


def test_the_class_prior_is_of_the_shares_back_to_front(found, pq):
    model, _ = pq
    ClassPrior(model, ProcessGroup()).after_validation(found, 0.0)
    shares = winner_shares(found, 3, ProcessGroup()).flip(0)
    torch.testing.assert_close(model.class_probs.float(), shares, atol=1e-3, rtol=0)
    assert (model.class_probs > 0).all()  # an expert that has not won can be drawn all the same
