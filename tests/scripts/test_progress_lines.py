"""Progress in a log: a line every some seconds, and a bar only on a terminal."""

import io
import re

import pytest

from econ_pyro import cli


class Clock:
    """A clock that the test moves."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_line_every_interval_and_one_at_the_end(clock):
    file = io.StringIO()
    lines = cli.ProgressLines(1000, "step", 200, file, interval=10.0, clock=clock)
    for step in range(100):  # 25 seconds, 4 steps per second
        clock.now += 0.25
        if step == 40:
            lines.set_postfix(loss="812", valid="799")
        lines.update(1)
    lines.close()
    lines.close()
    assert file.getvalue().splitlines() == [
        "240 of 1000 steps, 4 steps/s",
        "280 of 1000 steps, loss 812, valid 799, 4 steps/s",
        "300 of 1000 steps, loss 812, valid 799, 4 steps/s",
    ]


def test_the_rate_is_that_since_the_last_line(clock):
    file = io.StringIO()
    lines = cli.ProgressLines(100, "step", 0, file, interval=10.0, clock=clock)
    for seconds, steps in ((60, 3), (10, 50)):  # a slow first step, as when torch compiles
        clock.now += seconds
        lines.update(steps)
    assert file.getvalue() == "3 of 100 steps, 0.05 steps/s\n53 of 100 steps, 5 steps/s\n"


def test_nothing_is_written_where_nothing_was_done(clock):
    file = io.StringIO()
    cli.ProgressLines(100, "step", 100, file, clock=clock).close()
    clock.now += 100
    assert file.getvalue() == ""


def test_a_terminal_has_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    file = Terminal()
    monkeypatch.setattr(cli.sys, "stderr", file)
    with cli.progress(10, "step", 4) as bar:
        bar.set_postfix(loss="812")
        bar.update(6)
        assert bar.n == 10
    assert "\r" in file.getvalue() and "10/10" in file.getvalue() and "loss=812" in file.getvalue()


@pytest.mark.parametrize("file", [io.StringIO(), None], ids=["disabled", "no stderr"])
def test_without_output(monkeypatch, file):
    monkeypatch.setattr(cli.sys, "stderr", file)
    with cli.progress(10, "step", disable=file is not None) as bar:
        bar.update(3)
        assert bar.n == 3
    assert file is None or file.getvalue() == ""


def test_the_last_line_comes_also_when_stopped(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(cli.sys, "stderr", file)
    with pytest.raises(KeyboardInterrupt), cli.progress(10, "scene") as bar:
        bar.update(3)
        raise KeyboardInterrupt
    assert re.fullmatch(r"3 of 10 scenes, \S+ scenes/s\n", file.getvalue())
