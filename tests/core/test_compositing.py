import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from econ_pyro.core import compositing


def random_shapes(seed, slots, binary):
    m = torch.rand(2, slots, 1, 3, 3, generator=torch.Generator().manual_seed(seed)).double()
    return m.round() if binary else m


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.booleans())
def test_regions_and_scopes_partition_the_canvas(seed, slots, binary):
    m = random_shapes(seed, slots, binary)
    s, total = torch.ones_like(m[:, 0]), 0
    for i in range(slots):
        r = compositing.region(s, m[:, i])
        total = total + r
        s = compositing.next_scope(s, r)
        torch.testing.assert_close(total + s, torch.ones_like(s))
        torch.testing.assert_close(r, compositing.regions_of_shapes(m)[:, i])
        assert (s >= 0).all() and (r >= 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_composing_regions_is_painting_back_to_front(seed, slots):
    m = random_shapes(seed, slots, binary=True)
    m[:, -1] = 1  # the background fills the canvas
    x = torch.rand(2, slots, 3, 3, 3).double()
    canvas = torch.zeros(2, 3, 3, 3).double()
    for i in reversed(range(slots)):
        for b in range(2):
            for row in range(3):
                for column in range(3):
                    if m[b, i, 0, row, column]:
                        canvas[b, :, row, column] = x[b, i, :, row, column]
    torch.testing.assert_close(compositing.compose(compositing.regions_of_shapes(m), x), canvas)


def test_paint_keeps_the_canvas_outside_the_shape():
    canvas, x = torch.full((1, 3, 2, 2), 0.5), torch.ones(1, 3, 2, 2)
    m = torch.tensor([[[[1.0, 0.0], [0.0, 0.25]]]])
    assert compositing.paint(canvas, m, x)[0, 0].tolist() == [[1.0, 0.5], [0.5, 0.625]]


def test_stages_are_painted_from_the_back():
    m, x = random_shapes(3, 4, binary=True), torch.rand(2, 4, 3, 3, 3).double()
    found = compositing.stages(m, x)
    for b, n, row, column in itertools.product(range(2), range(4), range(3), range(3)):
        # of the last n + 1 layers the nearest that is there; the canvas is black
        there = [t for t in range(3 - n, 4) if m[b, t, 0, row, column]]
        expected = x[b, there[0], :, row, column] if there else torch.zeros(3).double()
        assert torch.equal(found[b, n, :, row, column], expected)


def test_networks_never_see_the_log_of_zero():
    log = compositing.safe_log(torch.tensor([0.0, 1.0]))
    assert log.tolist() == torch.tensor([1e-5, 1.0]).log().tolist()


def test_one_expert_that_takes_nothing_or_all_moves_no_agreement():
    r = torch.rand(6, 4, 1, 8, 8)
    middle = r.sort(1).values[:, 1]
    assert torch.equal(compositing.median_region(r), middle)
    for outlier in (torch.zeros(6, 1, 1, 8, 8), torch.ones(6, 1, 1, 8, 8)):
        same = torch.full((6, 4, 1, 8, 8), 0.7)
        with_outlier = torch.cat([same, outlier], 1)
        assert torch.equal(compositing.median_region(with_outlier), same[:, 0])
    assert torch.equal(compositing.median_region(r[:, :1]), r[:, 0])


def test_scopes_are_what_nearer_layers_leave():
    r = compositing.regions_of_shapes(torch.rand(2, 4, 1, 8, 8))
    before = compositing.scopes(r)
    assert (before[:, 0] == 1).all()
    for t in range(1, 4):
        torch.testing.assert_close(before[:, t], 1 - r[:, :t].sum(1))
