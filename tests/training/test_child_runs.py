"""Tasks that call child processes, several at a time."""

import threading

import pytest

from econ_pyro import stopping
from econ_pyro.errors import EconError
from econ_pyro.training.child_runs import ChildError, ChildProcesses


def failing(kind):
    def fail():
        raise kind("a task to end well", "another end")

    return fail


@pytest.mark.parametrize("kind", [EconError, ChildError])
def test_after_a_failure_no_further_task_begins(kind):
    begun, over = [], threading.Event()
    tasks = {"long": lambda: over.wait(60), "fails": failing(kind)}
    tasks |= {f"later {i}": lambda i=i: (over.wait(60), begun.append(i)) for i in range(4)}
    timer = threading.Timer(0.5, over.set)  # while the failure is known
    timer.start()
    with pytest.raises(EconError, match="to end well"):
        ChildProcesses(1).run_all(tasks, 2)
    assert len(begun) <= 1  # the one that took the place of the failed


def test_failures_of_children_are_reported_and_the_others_go_on(capsys):
    tasks = {"one": lambda: 1, "fails": failing(ChildError), "two": lambda: 2}
    assert ChildProcesses(1).run_all(tasks, 1, tolerant=True) == {"one": 1, "two": 2}
    assert "warning: fails: expected a task to end well" in capsys.readouterr().err
    with pytest.raises(EconError):  # a child that was stopped
        ChildProcesses(1).run_all({"fails": failing(EconError)}, 1, tolerant=True)


def test_a_signal_says_how_to_go_on():
    def stopped():
        raise stopping.Stopped(15)

    with pytest.raises(stopping.Stopped, match="the same command goes on") as stop:
        ChildProcesses(1).run_all({"one": stopped}, 1)
    assert stop.value.status == 143
