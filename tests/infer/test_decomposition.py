import dataclasses

import numpy as np
import pytest
import torch

from econ_pyro.errors import EconError
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import Terms


def make(batch: int, layers: int = 3, experts: int = 4, size: int = 8) -> Decomposition:
    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(batch, *shape, dtype=torch.float64)

    region = rand(layers, 1, size, size).add(0.1)
    region = region / region.sum(1, keepdim=True)
    return Decomposition(
        image=rand(3, size, size),
        k=torch.randint(experts, (batch, layers)),
        scope=rand(layers, 1, size, size),
        region=region,
        mean=rand(layers, 3, size, size),
        shape=rand(layers, 1, size, size),
        z=rand(layers, 5),
        terms=Terms(rand(layers), rand(layers), rand(layers)),
        competition_losses=rand(layers, experts),
        seed_pixel=torch.randint(size**2, (batch, layers)),
    )


def tensors(d: Decomposition) -> list[torch.Tensor]:
    values = [getattr(d, field.name) for field in dataclasses.fields(d)]
    return [a for value in values for a in (value if isinstance(value, tuple) else (value,))]


def test_reconstruction_segmentation_and_area_against_loops_over_pixels():
    d = make(2)
    for b in range(2):
        for t in range(3):
            pixels = sum(float(d.region[b, t, 0, y, x]) for y in range(8) for x in range(8))
            assert d.area[b, t].item() == pytest.approx(pixels)
        for y in range(8):
            for x in range(8):
                r = [float(d.region[b, t, 0, y, x]) for t in range(3)]
                assert d.segmentation[b, y, x] == r.index(max(r))
                for c in range(3):
                    want = sum(r[t] * float(d.mean[b, t, c, y, x]) for t in range(3))
                    assert d.reconstruction[b, c, y, x].item() == pytest.approx(want)
    assert d.segmentation.dtype == torch.int64
    assert d.area.sum(1).tolist() == pytest.approx([64, 64])


@pytest.mark.parametrize("index", [0, 2, -1, -4, slice(1, 3), slice(None, None, 2)])
def test_indexing_keeps_the_batch_axis(index):
    d = make(4)
    rows = torch.arange(4)[index].reshape(-1)
    part = d[index]
    assert len(part) == len(rows)
    for got, whole in zip(tensors(part), tensors(d), strict=True):
        assert torch.equal(got, whole[rows])


@pytest.mark.parametrize("index", [4, -5])
def test_indexing_outside_is_an_error_and_iteration_ends(index):
    with pytest.raises(IndexError, match="decomposition of 4"):
        make(4)[index]
    assert [len(part) for part in make(4)] == [1, 1, 1, 1]


def test_cat_undoes_slicing():
    d = make(5)
    joined = Decomposition.cat([d[:2], d[2], d[3:]])
    assert isinstance(joined.terms, Terms)
    for got, want in zip(tensors(joined), tensors(d), strict=True):
        assert torch.equal(got, want)


def test_cpu_leaves_the_graph():
    d = make(2)
    d = dataclasses.replace(d, mean=d.mean.requires_grad_())
    assert d.reconstruction.requires_grad
    assert not any(a.requires_grad for a in tensors(d.cpu()))


@pytest.mark.parametrize(
    "index", [np.int64(2), torch.tensor(-1), [0, 2], [-1], slice(None, None, -1), slice(3, 0, -2)]
)
def test_whatever_numpy_takes_for_an_index_keeps_the_batch_axis(index):
    d = make(4)
    rows = np.arange(4)[np.asarray(index) if not isinstance(index, slice) else index].reshape(-1)
    for got, whole in zip(tensors(d[index]), tensors(d), strict=True):
        assert torch.equal(got, torch.stack([whole[int(row)] for row in rows]))


def test_images_are_chosen_by_a_mask_or_none_at_all():
    d = make(4)
    chosen = d[torch.tensor([True, False, False, True])]
    assert torch.equal(chosen.k, torch.stack([d.k[0], d.k[3]]))
    assert len(d[[]]) == len(d[2:2]) == 0


@pytest.mark.parametrize("index", [True, 1.0, "1", None, [True], [4], [0.0], torch.ones(4, 4)])
def test_what_is_no_index_is_an_error(index):
    with pytest.raises(IndexError):
        make(4)[index]


def test_what_does_not_fit_is_not_joined():
    with pytest.raises(EconError, match="at least one decomposition"):
        Decomposition.cat([])
    for other in (make(2, layers=4), make(2, experts=5), make(2, size=9)):
        with pytest.raises(EconError, match="decompositions with one shape of"):
            Decomposition.cat([make(2), other])


def test_printing_is_one_short_line():
    d = dataclasses.replace(make(2), k=torch.tensor([[3, 0, 1], [2, 2, 1]]))
    assert repr(d) == (
        "Decomposition(2 images of 8 x 8 pixels, 3 layers, 4 experts, float64 on cpu; "
        "winners front to back: 3 0 1, 2 2 1)"
    )
    many = dataclasses.replace(make(50, layers=20), k=torch.zeros(50, 20, dtype=torch.long))
    assert repr(many).endswith("front to back: " + 6 * "0 0 0 0 0 0 ..., " + "...)")
    assert repr(d[:0]).startswith("Decomposition(0 images of") and len(repr(many)) < 300
