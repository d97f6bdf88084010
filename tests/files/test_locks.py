"""One writer a folder: locks that end with their process, and what killed ones leave."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from econ_pyro.errors import EconError
from econ_pyro.files import locks, outputs, temporary_paths


@pytest.fixture
def dead():
    """The number of a process that is over."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def in_a_process(action):
    """A forked process that does something, then waits to be killed."""
    ready, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            action(lambda: os.write(tell, b"x"))
        finally:
            os._exit(1)
    os.close(tell)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return pid


def hold(folder):
    def action(ready):
        with locks.hold_lock(folder):
            ready()
            signal.pause()

    return in_a_process(action)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_lock_names_its_holder_and_goes_with_it(tmp_path):
    run = tmp_path / "run"
    pid = hold(run)
    with pytest.raises(EconError, match=rf"got process {pid} \(.*\) on .*, since 20\d\d-"):
        with locks.hold_lock(run):
            pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert locks.lock_file(run).exists()  # and says nothing any more
    with locks.hold_lock(run):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_has_one_lock_however_it_is_spelt(tmp_path, monkeypatch):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    with locks.hold_lock(tmp_path / "runs" / "a"):
        for other in ("runs/a", "runs/../runs/a", "link", "runs/a/"):
            with pytest.raises(EconError, match=f"process {os.getpid()} "):
                with locks.hold_lock(Path(other)):
                    pass
        with locks.hold_lock(Path("runs/b")):
            pass


def test_a_lock_on_a_file_that_was_taken_away_is_none(tmp_path, monkeypatch):
    """Whoever opened it before its holder ended would be alone with a file that nobody sees."""
    run, lock, tries = tmp_path / "run", locks._lock, []
    first = locks.hold_lock(run)
    first.__enter__()

    def after_the_first_ended(descriptor):
        if not tries:
            first.__exit__(None, None, None)
        tries.append(descriptor)
        return lock(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(locks, "_lock", after_the_first_ended)
        second = locks.hold_lock(run)
        second.__enter__()
    assert len(tries) == 2
    with pytest.raises(EconError), locks.hold_lock(run):
        pass
    second.__exit__(None, None, None)


def test_who_waits_gets_it_in_time(tmp_path):
    run, began = tmp_path / "run", threading.Event()
    with locks.hold_lock(run):
        with pytest.raises(EconError), locks.hold_lock(run, wait=0.1):
            pass

        def second():
            began.set()
            with locks.hold_lock(run, wait=30):
                pass

        thread = threading.Thread(target=second)
        thread.start()
        began.wait()
    thread.join()
    assert list(tmp_path.iterdir()) == []


def test_folders_made_for_a_lock_go_again(tmp_path):
    with pytest.raises(ZeroDivisionError), locks.hold_lock(tmp_path / "a" / "b" / "run"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_there_is_a_warning(tmp_path, monkeypatch, number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="no locks here"):
        with outputs.atomic_folder(tmp_path / "out") as out:
            (out / "file").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_only_what_dead_processes_left_is_cleared(tmp_path, dead):
    run = tmp_path / "run"
    run.mkdir()
    names = [
        f".last.{dead}.tmp.pt", f".metrics.{dead}.tmp.jsonl",  # gone
        f".last.{os.getppid()}.tmp.pt", ".last.tmp.pt", f"last.{dead}.tmp.pt", ".notes.txt",
        f".last.{dead}.tmp.pt.bak", ".last.99999999999999999999.tmp.pt",
    ]  # fmt: skip
    for name in names:
        (run / name).touch()
    temporary_paths.remove_stale_files(run, tmp_path / "none")
    assert {p.name for p in run.iterdir()} == set(names[2:])
    beside = [
        f".run.{dead}.tmp",
        f".run.{os.getppid()}.tmp",
        f".run.b.{dead}.tmp",
        ".run.settings",
    ]
    for name in beside:
        (tmp_path / name).mkdir()
    with locks.hold_lock(run):
        assert {p.name for p in tmp_path.iterdir()} == {"run", ".run.lock", *beside[1:]}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_while_a_folder_is_replaced_loses_nothing(tmp_path, monkeypatch, renames):
    out = tmp_path / "out"
    with outputs.atomic_folder(out) as folder:
        (folder / "version").write_text("old")
    rename = Path.rename

    def replace(ready):
        done = []

        def counted(path, to):
            if len(done) == renames:
                ready()
                signal.pause()
            done.append(rename(path, to))

        monkeypatch.setattr(Path, "rename", counted)
        with outputs.atomic_folder(out, overwrite=True) as folder:
            (folder / "version").write_text("new")
            if renames == 2:
                monkeypatch.setattr(outputs.shutil, "rmtree", lambda *_, **__: counted(None, None))

    pid = in_a_process(replace)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with locks.hold_lock(out):
        assert (out / "version").read_text() == ("new" if renames == 2 else "old")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_process_writes_to_is_replaced_by_none(tmp_path):
    out = tmp_path / "out"
    with outputs.atomic_folder(out) as folder:
        (folder / "first").touch()
        for check in (outputs.atomic_folder, outputs.check_output):
            with pytest.raises(EconError, match="no other process that writes to"):
                if (context := check(out, True)) is not None:
                    context.__enter__()
    assert [p.name for p in out.iterdir()] == ["first"]
    linked = tmp_path / "linked"
    linked.symlink_to(out)
    with outputs.atomic_folder(linked, overwrite=True) as folder:
        (folder / "second").touch()
    assert linked.is_symlink() and [p.name for p in out.iterdir()] == ["second"]
