import dataclasses

import pytest
import torch

from econ_pyro.decomposition import Decomposition
from econ_pyro.terms import Terms


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
        scores=rand(layers, experts),
        seed=torch.randint(size**2, (batch, layers)),
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
