import threading

import pytest
import torch

from econ_pyro.accel.overlap import HostCopy, Prefetcher


def test_the_next_step_is_prepared_in_another_thread():
    calls, prepared = [], threading.Event()

    def square(step):
        calls.append((step, threading.current_thread()))
        if step == 4:
            prepared.set()
        return step**2

    prefetcher = Prefetcher(square)
    assert prefetcher(3) == 9
    assert prepared.wait(5)  # before it was asked for
    assert prefetcher(4) == 16
    assert prefetcher(9) == 81  # a run that goes on elsewhere
    assert prefetcher(10) == 100
    assert prefetcher(10) == 100
    assert all(thread is not threading.main_thread() for _, thread in calls)
    assert [step for step, _ in calls][:2] == [3, 4]


def test_errors_reach_the_caller():
    def fail(step):
        raise ValueError(f"no step {step}")

    with pytest.raises(ValueError, match="no step 7"):
        Prefetcher(fail)(7)


def test_on_a_cpu_it_is_there_at_once_without_its_gradient():
    x = torch.ones(3, requires_grad=True)
    copy = HostCopy(2 * x).get()
    assert torch.equal(copy, torch.full((3,), 2.0)) and not copy.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_waited_for_only_as_far_as_the_copy():
    x = torch.ones(1000, device="cuda")
    copy = HostCopy(x.cumsum(0))
    torch.cuda._sleep(2_000_000_000)  # cycles: about a second
    x.zero_()
    end = torch.cuda.current_stream().record_event()
    assert copy.get()[-1] == 1000
    assert not end.query()
    assert not x.any()
