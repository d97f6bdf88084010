import pytest
import torch
from torch.nn.functional import grid_sample

from econ_pyro.core.sampling import sample


@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_sampling_is_torchs_own_compiled_or_not(border, backend):
    torch.manual_seed(0)
    pixels = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    where = (2.4 * torch.rand(3, 4, 4, 2, dtype=torch.float64) - 1.2).requires_grad_()
    weights = torch.randn(3, 2, 4, 4, dtype=torch.float64)

    def ours(pixels, where):
        return sample(pixels.expand(3, -1, -1, -1), where.flip(-1).permute(0, 3, 1, 2), border)

    def gradients(out):
        return torch.autograd.grad((out * weights).sum(), (pixels, where))

    run = torch.compile(ours, backend=backend, fullgraph=True) if backend else ours
    out = run(pixels, where)
    mode = "border" if border else "zeros"
    exact = grid_sample(
        pixels.expand(3, -1, -1, -1), where, padding_mode=mode, align_corners=True
    )  # fmt: skip
    torch.testing.assert_close(out, exact)
    torch.testing.assert_close(gradients(out), gradients(exact))


def test_the_operation_is_as_torch_wants_it():
    pixels = torch.randn(3, 2, 5, 6, requires_grad=True)
    where = 2 * torch.rand(3, 4, 4, 2) - 1
    torch.library.opcheck(torch.ops.econ_pyro.sample.default, (pixels, where, True))
