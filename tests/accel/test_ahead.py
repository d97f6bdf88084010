import threading

import pytest

from econ_pyro.accel.ahead import Ahead


def test_the_next_step_is_prepared_in_another_thread():
    calls, prepared = [], threading.Event()

    def square(step):
        calls.append((step, threading.current_thread()))
        if step == 4:
            prepared.set()
        return step**2

    ahead = Ahead(square)
    assert ahead(3) == 9
    assert prepared.wait(5)  # before it was asked for
    assert ahead(4) == 16
    assert ahead(9) == 81  # a run that goes on elsewhere
    assert ahead(10) == 100
    assert ahead(10) == 100
    assert all(thread is not threading.main_thread() for _, thread in calls)
    assert [step for step, _ in calls][:2] == [3, 4]


def test_errors_reach_the_caller():
    def fail(step):
        raise ValueError(f"no step {step}")

    with pytest.raises(ValueError, match="no step 7"):
        Ahead(fail)(7)
