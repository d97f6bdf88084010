import pytest
import torch

from econ_pyro.accel.timing import (
    count_flops,
    fit_line,
    matrix_product,
    peak_memory,
    time_interleaved,
)

CPU = torch.device("cpu")


def test_jobs_take_turns():
    order = []
    jobs = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = time_interleaved(jobs, CPU, rounds=2, warmup=1)
    assert order == ["a", "a", "b", "b"] * 3  # the second call of a turn is timed
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_operations_of_a_product_are_counted():
    assert count_flops(matrix_product(CPU, torch.float32, 16)) == 2 * 16**3


@pytest.mark.parametrize("groups", [1, 4])
def test_operations_of_a_convolution_are_those_of_its_groups(groups):
    convolution = torch.nn.Conv2d(8, 4, 3, padding=1, groups=groups)
    x = torch.ones(2, 8, 5, 5, requires_grad=True)
    forward = 2 * (2 * 4 * 5 * 5) * (8 // groups * 3 * 3)
    assert count_flops(lambda: convolution(x)) == forward
    assert count_flops(lambda: convolution(x).sum().backward()) == 3 * forward
    assert count_flops(lambda: convolution(x.detach()).sum().backward()) == 2 * forward


def test_memory_of_a_job_is_what_it_holds_at_once():
    def job():
        torch.ones(50_000_000).sum()  # 200 MB

    for _ in range(2):  # what the first call freed must not hide the second
        found = peak_memory(job, CPU)
        assert found is None or 180e6 < found < 260e6


def test_line_is_fitted():
    assert fit_line([1, 2, 4], [5, 7, 11]) == pytest.approx((3, 2, 1))
    assert fit_line([1, 2, 3], [1, 4, 9])[2] < 1
