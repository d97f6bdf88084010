"""Which configuration trains on next, against decisions made by hand and against sorting."""

import math
import random

import pytest

from econ_pyro.training.successive_halving import Standing, next_steps

RUNGS, FACTOR = (300, 1200, 4800), 4


def at(index, *values, **fields):
    """A configuration with these values at the first rungs."""
    return Standing(index, dict(zip(RUNGS, values, strict=False)), **fields)


def after(*standings):
    return next_steps(standings, RUNGS, FACTOR)


def test_new_ones_begin_in_their_order():
    assert after(at(0), at(1), at(2, state="running")) == [(0, 300), (1, 300)]
    assert after() == []


def test_the_best_of_four_goes_on_before_new_ones_begin():
    first = [at(0, -5.0), at(1, -3.0), at(2, -4.0)]
    assert after(*first, at(3), at(4)) == [(3, 300), (4, 300)]  # none of three
    assert after(*first, at(3, -9.0), at(4)) == [(1, 1200), (4, 300)]
    # one that was passed over goes on when there are enough worse ones
    more = [at(i, -6.0 - i) for i in range(3, 8)]
    assert after(*first, *more) == [(1, 1200), (2, 1200)]


def test_the_furthest_goes_first():
    high = [at(i, -1.0 - i, -1.0 - i) for i in range(4)]
    low = [at(i, -10.0 - i) for i in range(4, 20)]
    found = after(*high, *low, at(20))
    assert found == [(0, 4800), (4, 1200), (20, 300)]


def test_one_that_stopped_on_its_way_goes_on_first():
    stopped = at(7, -99.0, target=1200)  # by now it would not be promoted
    better = [at(i, -1.0) for i in range(4)]
    assert after(*better, stopped, at(9, target=300), at(10)) == [
        (7, 1200), (9, 300), (0, 1200), (10, 300)
    ]  # fmt: skip


def test_one_that_diverged_counts_and_never_goes_on():
    lost = at(0, -math.inf, state="ended")
    assert after(lost, at(1, -5.0), at(2, -6.0), at(3, -7.0), at(4)) == [(1, 1200), (4, 300)]
    assert after(*(at(i, -math.inf, state="ended") for i in range(9))) == []


def test_one_at_least_is_trained_to_the_end():
    three = [at(0, -2.0), at(1, -1.0), at(2, -3.0)]
    assert after(*three) == [(1, 1200)]
    assert after(*three, at(3, state="running")) == []  # which may be better
    assert after(at(0, -2.0), at(1, -1.0, -0.5), at(2, -3.0)) == [(1, 4800)]
    # if it diverges on its way, the second best goes
    assert after(at(0, -2.0), at(1, -1.0, -math.inf, state="ended")) == [(0, 1200)]
    assert after(at(0, -2.0), at(1, -1.0, -0.5, -0.4, state="ended")) == []


def test_equal_ones_go_by_index():
    assert after(*(at(i, -1.0) for i in range(8))) == [(0, 1200), (1, 1200)]


@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.parametrize("n", [12, 64, 200])
def test_a_whole_search_ends_with_the_best_of_each_rung(n, workers):
    """The value does not change with training: then the best quarter is among those that go on."""
    rng = random.Random(n + workers)
    worth = [rng.gauss(0, 1) for _ in range(n)]
    values, busy, targets = [{} for _ in range(n)], {}, [0] * n
    trained = []
    while True:
        standings = [
            Standing(
                i,
                dict(values[i]),
                "running" if i in busy else "ended" if RUNGS[-1] in values[i] else "waiting",
                targets[i],
            )
            for i in range(n)
        ]
        jobs = next_steps(standings, RUNGS, FACTOR)
        if jobs and len(busy) < workers:
            index, rung = jobs[0]
            busy[index], targets[index] = rung, rung
            continue
        if not busy:
            break
        index = rng.choice(sorted(busy))  # some are faster
        rung = busy.pop(index)
        values[index][rung] = worth[index]
        trained.append((index, rung))
    assert len(trained) == len(set(trained))  # nothing twice
    order = sorted(range(n), key=lambda i: -worth[i])
    reached = [{i for i in range(n) if rung in values[i]} for rung in RUNGS]
    assert reached[0] == set(range(n))
    assert reached[2] <= reached[1]
    # the final best quarter is always promoted, and few others are, early
    assert set(order[: n // FACTOR]) <= reached[1]
    assert len(reached[1]) <= n // FACTOR + 3 + 2 * math.isqrt(n)
    assert order[0] in reached[2]
