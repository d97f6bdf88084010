"""Studies: planned once, each configuration with one worker, and what happens to the dead."""

import json
import math
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from econ_pyro.errors import EconError
from econ_pyro.files import locks
from econ_pyro.training import space_file, study
from econ_pyro.training.search_space import Space

optuna = pytest.importorskip("optuna", reason="the extra search")

VALUE = {
    "preset": "quick",
    "rungs": [10, 20],
    "factor": 2,
    "parameters": {
        "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "model.expert.features": {"low": 4, "high": 8},
        "reading": {"cases": {
            "a": {"objective.beta": {"low": 0.5, "high": 2.0}},
            "b": {"objective.beta": {"low": 0.1, "high": 10.0},
                  "gt-masks": {"choices": [True, False]}},
        }},
    },
}  # fmt: skip


@pytest.fixture
def space() -> Space:
    return space_file.parse(VALUE, "space.json")


@pytest.fixture
def planned(tmp_path, space):
    """A study of four configurations."""
    made = study.Study(tmp_path / "s", create=True)
    assert made.plan(space, 0, 4) == 4
    return made


def lines(planned):
    """What its journal says."""
    text = (planned.folder / "journal.log").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_planning_twice_changes_nothing_and_more_is_added(planned, space):
    before = [(t.index, t.params) for t in planned.trials()]
    assert [params for _, params in before] == [space.draw(0, i) for i in range(4)]
    text = (planned.folder / "journal.log").read_text()
    again = study.Study(planned.folder, create=True)
    assert again.plan(space, 0, 4) == again.plan(space, 0, 2) == 0
    assert (planned.folder / "journal.log").read_text() == text
    assert again.plan(space, 0, 6) == 2
    assert [(t.index, t.params) for t in planned.trials()][:4] == before
    assert again.space == space
    for other, seed, name in ((space, 1, "seed"), (space_file.with_rungs(space, [9], 2), 0, "sp")):
        with pytest.raises(EconError, match=f"expected the {name}"):
            again.plan(other, seed, 4)


def test_planning_goes_on_where_it_was_killed(planned, space, monkeypatch):
    create, made = planned.storage.create_new_trial, []

    def dying(*args, **kwargs):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(create(*args, **kwargs))

    monkeypatch.setattr(planned.storage, "create_new_trial", dying)
    with pytest.raises(KeyboardInterrupt):
        planned.plan(space, 0, 9)
    assert study.Study(planned.folder, create=True).plan(space, 0, 9) == 2
    assert [t.index for t in planned.trials()] == list(range(9))


def test_a_whole_search(planned):
    order = []
    while True:
        with planned.claim() as job:
            if job is None:
                break
            assert planned.unfinished()
            order.append((job.trial.index, job.rung))
            assert job.report(-float(job.trial.index), {"ari": 0.5 * job.trial.index})
    # 0 is the best of each pair: half of two go on
    assert not planned.unfinished()
    assert order == [(0, 10), (1, 10), (0, 20), (2, 10), (3, 10), (1, 20)]
    found = {t.index: t for t in planned.trials()}
    assert {i: (t.state, t.values) for i, t in found.items()} == {
        0: ("complete", {10: 0.0, 20: 0.0}),
        1: ("complete", {10: -1.0, 20: -1.0}),
        2: ("waiting", {10: -2.0}),
        3: ("waiting", {10: -3.0}),
    }
    assert found[1].scores() == found[1].scores(10) == {"ari": 0.5}
    assert found[1].reached == 20 and not found[3].scores(20)
    # as any tool of Optuna's sees it
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    backend = JournalFileBackend(str(planned.folder / "journal.log"))
    other = optuna.load_study(study_name="s", storage=JournalStorage(backend))
    assert other.best_trial.user_attrs["index"] == 0 and len(other.trials) == 4


def test_what_two_workers_hold_differs(planned):
    other = study.Study(planned.folder)
    with planned.claim() as a, other.claim() as b, planned.claim() as c:
        assert {j.trial.index for j in (a, b, c)} == {0, 1, 2}
        assert [t.state for t in other.trials()] == ["running"] * 3 + ["waiting"]
    # nobody has reported: all are given back
    assert all(t.state == "waiting" and not t.attrs.get("attempts") for t in planned.trials())
    with other.claim() as job:
        assert (job.trial.index, job.rung) == (0, 10)


def test_one_claims_what_many_want(planned):
    """A worker for each thread: none gets what another one has."""
    workers = [study.Study(planned.folder) for _ in range(6)]
    held, gate, leave = [], threading.Barrier(6), threading.Event()

    def take(worker):
        gate.wait()
        with worker.claim() as job:
            held.append(job and job.trial.index)
            leave.wait(30)

    threads = [threading.Thread(target=take, args=(w,)) for w in workers]
    for thread in threads:
        thread.start()
    while len(held) < 6:
        time.sleep(0.01)
    leave.set()
    for thread in threads:
        thread.join()
    assert sorted(i for i in held if i is not None) == [0, 1, 2, 3]


def died(planned, host=None, **attrs):
    """Make it look as if a worker had died with configuration 0."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    number = planned.storage.get_trial_id_from_study_id_trial_number(planned._id, 0)
    assert planned.set_state(number, "running")
    worker = {"id": "x", "host": host or socket.gethostname(), "pid": ended.pid}
    for name, value in {"worker": worker, "beat": time.time(), "target": 10, **attrs}.items():
        planned.storage.set_trial_user_attr(number, name, value)
    return number


def test_of_a_worker_that_died_here_others_take_over_at_once(planned):
    died(planned)
    with planned.claim() as job:
        assert job.trial.index == 0
        assert job.report(-1.0, {})
    assert planned.trials()[0].values == {10: -1.0}


@pytest.mark.parametrize("rung", [10, 20])
def test_of_a_worker_that_died_in_its_report_nothing_is_lost(planned, rung):
    number = died(planned, target=rung)
    for step in (10, rung):
        planned.storage.set_trial_intermediate_value(number, step, -9.0)
    with planned.claim() as job:
        assert job.trial.index == 1
    assert planned.trials()[0].state == ("waiting" if rung == 10 else "complete")
    assert not any(t.state == "running" for t in planned.trials())


def test_of_a_worker_elsewhere_others_take_over_after_a_while(planned, monkeypatch):
    died(planned, "another.machine")
    with planned.claim() as job:
        assert job.trial.index == 1
    monkeypatch.setattr(study, "GRACE", -1.0)
    with planned.claim() as job:
        assert job.trial.index == 0


def test_a_worker_that_lives_keeps_its_configuration(planned, monkeypatch):
    monkeypatch.setattr(study, "GRACE", -1.0)  # asleep for long, say
    other = study.Study(planned.folder)
    with planned.claim() as job:
        with other.claim() as next_job:
            assert (job.trial.index, next_job.trial.index) == (0, 1)
        locked = planned.folder / "0000.claim"
        with pytest.raises(EconError, match="no other process"), locks.hold_lock(locked):
            pass


def test_one_that_was_taken_over_does_not_report(planned):
    with planned.claim() as job:
        planned.storage.set_trial_user_attr(job._ident, "worker", {"id": "y"})
        assert not job.report(-1.0, {})
    trial = planned.trials()[0]
    assert trial.state == "running" and not trial.values  # it is the other's


def test_signs_of_life(planned, monkeypatch):
    monkeypatch.setattr(study, "BEAT", 0.01)
    with planned.claim():
        first = planned.trials()[0].attrs["beat"]
        deadline = time.monotonic() + 30
        while planned.trials()[0].attrs["beat"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_one_with_which_workers_keep_dying_is_given_up(planned):
    died(planned, attempts=study.MAX_ATTEMPTS)
    with planned.claim() as job:
        assert job is None or job.trial.index == 1
    trial = planned.trials()[0]
    assert (trial.state, trial.error) == ("failed", "10 workers died with it")
    assert trial.standing().values == {10: -math.inf}


def test_one_that_cannot_be_trained_is_failed(planned):
    for reason, report in (("bad", lambda j: j.fail("bad")), ("is nan", lambda j: j.report(
        math.nan, {}))):  # fmt: skip
        with planned.claim() as job:
            assert report(job)
        assert reason in planned.trials()[job.trial.index].error
    assert [t.state for t in planned.trials()] == ["failed", "failed", "waiting", "waiting"]


def test_a_line_that_a_full_disk_cut_short_is_removed(planned):
    journal = planned.folder / "journal.log"
    whole = journal.read_bytes()
    with open(journal, "ab") as file:
        file.write(b'{"op_code":8,"wor')
    other = study.Study(planned.folder)
    with other.claim() as job:
        assert job.report(-1.0, {})
    assert journal.read_bytes().startswith(whole) and lines(planned)
    assert planned.trials()[0].values == {10: -1.0}


def test_the_lock_of_a_killed_process_is_free(planned):
    code = (
        "import os, signal; from pathlib import Path\n"
        "from econ_pyro.training.study_storage import _FileLock\n"
        f"_FileLock(Path({str(planned.folder / 'journal.log')!r})).acquire()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    began = time.monotonic()
    with planned.claim() as job:
        assert job.trial.index == 0
    assert time.monotonic() - began < 20  # Optuna's own would be waited for half a minute


def test_a_database_that_is_away_is_waited_for(planned, monkeypatch):
    from optuna.exceptions import StorageInternalError

    from econ_pyro.training import study_storage

    monkeypatch.setattr(study_storage, "_WAIT", 0.0)
    calls = []

    def away():
        calls.append(1)
        if len(calls) < 4:
            raise StorageInternalError("gone\nfor long")
        return "back"

    assert study_storage.patiently(away) == "back" and len(calls) == 4
    monkeypatch.setattr(study_storage, "PATIENCE", -1.0)
    calls.clear()
    with pytest.raises(EconError, match="a database that answers, got gone: "):
        study_storage.patiently(away)

    def wrapped():
        from sqlalchemy.exc import OperationalError

        driver = OSError("the server closed the connection\nmore")
        try:
            raise OperationalError("SELECT 1", {}, driver)
        except OperationalError as error:
            raise StorageInternalError("An exception is raised during the commit.") from error

    with pytest.raises(EconError, match="got the server closed the connection: start it again"):
        study_storage.patiently(wrapped)


def test_a_report_whose_answer_is_lost_takes_nothing_from_the_next_worker(planned, monkeypatch):
    monkeypatch.setattr(study.study_storage, "_WAIT", 0.0)
    other, write = study.Study(planned.folder), planned.storage.set_trial_state_values
    taken = []

    def losing(ident, state, values=None):
        found = write(ident, state, values)
        if state.name == "WAITING" and not taken:
            taken.append(other.storage.set_trial_state_values(ident, running))
            other.storage.set_trial_user_attr(ident, "worker", other.worker)
            raise optuna.exceptions.StorageInternalError("the server restarts")
        return found

    running = study.study_storage.state_of("running")
    monkeypatch.setattr(planned.storage, "set_trial_state_values", losing)
    with planned.claim() as job:
        assert job.report(1.0, {})
    assert taken == [True]
    trial = other.trials()[job.trial.index]
    assert trial.state == "running" and trial.values == {10: 1.0}


def test_freeing_whose_answer_is_lost_takes_nothing_from_the_next_worker(planned, monkeypatch):
    monkeypatch.setattr(study.study_storage, "_WAIT", 0.0)
    number = died(planned)
    other, write = study.Study(planned.folder), planned.storage.set_trial_state_values
    running, taken = study.study_storage.state_of("running"), []

    def losing(ident, state, values=None):
        found = write(ident, state, values)
        if ident == number and state.name == "WAITING" and not taken:
            taken.append(other.storage.set_trial_state_values(ident, running))
            other.storage.set_trial_user_attr(ident, "worker", other.worker)
            other.storage.set_trial_user_attr(ident, "beat", time.time())
            raise optuna.exceptions.StorageInternalError("the server restarts")
        return found

    monkeypatch.setattr(planned.storage, "set_trial_state_values", losing)
    with planned.claim() as job:
        assert job is None or job.trial.index == 1
    assert taken == [True]
    assert other.trials()[0].state == "running"


def test_a_rung_is_trained_once_although_a_worker_looked_long_before(tmp_path, monkeypatch):
    made = study.Study(tmp_path / "s", create=True)
    made.plan(space_file.parse({**VALUE, "rungs": [10, 20, 40]}, "space.json"), 0, 2)
    for _ in range(2):
        with made.claim() as job:
            job.report(float(job.trial.index), {})
    other, before = study.Study(made.folder), made.trials()
    with made.claim() as job:
        assert (job.trial.index, job.rung) == (1, 20)
        job.report(2.0, {})
    monkeypatch.setattr(other, "trials", lambda: before)
    with other.claim() as job:
        assert job is None
    assert made.trials()[1].state == "waiting" and made.trials()[1].values[20] == 2.0


def test_importance_finds_what_matters(space):
    from econ_pyro.training import study_storage

    drawn = [space.draw(0, i) for i in range(80)]
    found = study_storage.importance(space, [(v, -v["model.expert.features"]) for v in drawn])
    assert next(iter(found)) == "model.expert.features" and found["model.expert.features"] > 0.5
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "a database such as"),
        ("sqlite:///x.db", "a journal file does as well"),
        ("nosuch://host/x", "a database such as"),
        ("postgresql+psycopg://me:secret@host/x", "without a password"),
    ],
)
def test_addresses_that_are_no_database(tmp_path, url, message):
    with pytest.raises(EconError) as error:
        study.Study(tmp_path / "s", url, create=True)
    assert message in str(error.value) and "secret" not in str(error.value)


def test_there_is_no_study(tmp_path):
    with pytest.raises(EconError, match=r"a study in .*search.py plan .* comes first"):
        study.Study(tmp_path)
    assert os.listdir(tmp_path) == []
    study.Study(tmp_path, create=True)
    with pytest.raises(EconError, match="a study with a plan"):
        study.Study(tmp_path)
    (tmp_path / "journal.log").write_text("no journal\n{}\n")
    with pytest.raises(EconError, match="a journal of Optuna"):
        study.Study(tmp_path)
    (tmp_path / "study.json").write_text('{"storage": 3}')
    with pytest.raises(EconError, match="a name and a database"):
        study.Study(tmp_path)


def test_without_optuna(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(EconError, match=r"pip install 'econ-pyro\[search\]'"):
        study.Study(tmp_path, create=True)
