import pytest
import torch

from econ_pyro.accel.later import Later


def test_on_a_cpu_it_is_there_at_once_without_its_gradient():
    x = torch.ones(3, requires_grad=True)
    copy = Later(2 * x).get()
    assert torch.equal(copy, torch.full((3,), 2.0)) and not copy.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_waited_for_only_as_far_as_the_copy():
    x = torch.ones(1000, device="cuda")
    copy = Later(x.cumsum(0))
    torch.cuda._sleep(2_000_000_000)  # cycles: about a second
    x.zero_()
    end = torch.cuda.current_stream().record_event()
    assert copy.get()[-1] == 1000
    assert not end.query()
    assert not x.any()
