"""Studies in PostgreSQL: workers of several machines, which share nothing but the database."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from econ_pyro.errors import EconError
from econ_pyro.training import space_file, study
from helpers.kill_chains import SERVER, finish

pytestmark = pytest.mark.needs("psycopg")

SPACE = {
    "preset": "quick",
    "rungs": [10, 20],
    "factor": 4,
    "parameters": {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
}


class Server:
    """A server of its own, on a free port of this machine, that trusts everybody."""

    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self._programs, self._folder, self._user = programs, folder, user
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://econ@127.0.0.1:{port}/postgres"
        self._run("initdb", "-A", "trust", "-U", "econ", "--no-sync")
        with open(folder / "data/postgresql.conf", "a") as file:
            file.write(
                f"listen_addresses = '127.0.0.1'\nport = {port}\nfsync = off\n"
                f"unix_socket_directories = '{folder}'\n"
            )
        self.control("start", "-w", "-l", str(folder / "log"))

    def control(self, *args: str) -> None:
        self._run("pg_ctl", *args)

    def _run(self, name: str, *args: str) -> None:
        command = [self._programs / name, "-D", self._folder / "data", *args]
        subprocess.run(command, user=self._user, cwd=self._folder, check=True, timeout=60,
                       stdout=subprocess.DEVNULL)  # fmt: skip


@pytest.fixture(scope="module")
def server():
    found = shutil.which("initdb")
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *([Path(found).parent] if found else [])]
    if not places:
        pytest.skip("no PostgreSQL on this machine (on Debian: apt-get install postgresql)")
    user = None
    with tempfile.TemporaryDirectory(prefix="econ-pg-", ignore_cleanup_errors=True) as name:
        if os.geteuid() == 0:  # initdb refuses to run as root
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("root, and no user postgres")
            os.chown(name, owner.pw_uid, owner.pw_gid)
            user = "postgres"
        made = Server(places[-1], Path(name), user)
        yield made
        made.control("stop", "-m", "immediate")


def machine(tmp_path, i):
    """The folder of the study on a machine: the name is that of the study."""
    folder = tmp_path / f"machine-{i}" / tmp_path.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def opened(monkeypatch):
    """Close the studies that a test has opened in this process."""
    made = []

    class Closed(study.Study):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(study, "Study", Closed)
    yield
    for one in made:
        one.close()


def plan(server, folder, n, seed=0):
    made = study.Study(folder, server.url, create=True)
    return made.plan(space_file.parse(SPACE, "space.json"), seed, n), made


def toy_worker(folder, url, done, seconds, suicide):
    """Train nothing; write down what was done."""
    study.BEAT, study.GRACE = 0.2, 5.0
    worker = study.Study(Path(folder), url)
    Path(done).with_name(f"opened-{os.getpid()}").touch()
    while True:
        with worker.claim() as job:
            if job is not None:
                if suicide == job.trial.index:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(seconds)
                with open(done, "a") as file:
                    file.write(f"{job.trial.index} {job.rung}\n")
                assert job.report(float(job.trial.index), {"ari": 0.5})
                continue
        if not worker.unfinished():
            os._exit(0)
        time.sleep(0.2)


def work(server, tmp_path, i, seconds=0.0, suicide=-1):
    folder = machine(tmp_path, i)
    args = str(folder), server.url, str(tmp_path / "done"), seconds, suicide
    process = SERVER.Process(target=toy_worker, args=args)
    process.start()
    return process


def done(tmp_path):
    text = (tmp_path / "done").read_text()
    return Counter(tuple(map(int, line.split())) for line in text.splitlines())


def test_eight_workers_and_a_server_that_restarts_do_each_of_64_once(server, tmp_path):
    new, made = plan(server, machine(tmp_path, 0), 64)
    assert new == 64
    workers = [work(server, tmp_path, i, 0.05) for i in range(8)]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (
        sum(len(t.values) for t in made.trials()) < 16
        or len([*tmp_path.glob("opened-*")]) < len(workers)  # no server: no study to open
    ):
        time.sleep(0.2)
    server.control("restart", "-m", "fast", "-w", "-l", os.devnull)
    assert [finish(w, 300) for w in workers] == [0] * 8
    trials = made.trials()
    assert all(10 in t.values for t in trials) and len(trials) == 64
    found = done(tmp_path)
    assert set(found.values()) == {1}
    assert set(found) == {(t.index, rung) for t in trials for rung in t.values}
    # the later, the better: the last quarter is promoted in the end, some others were before
    assert set(range(48, 64)) <= {t.index for t in trials if 20 in t.values}
    assert trials[63].scores() == {"ari": 0.5} and trials[63].state == "complete"


def test_of_two_workers_one_is_killed(server, tmp_path):
    plan(server, machine(tmp_path, 0), 8)
    killed = work(server, tmp_path, 0, suicide=2)
    assert finish(killed) == -signal.SIGKILL
    made = study.Study(machine(tmp_path, 0))
    assert "running" in {t.state for t in made.trials()}
    assert finish(work(server, tmp_path, 1)) == 0
    assert {i for i, rung in done(tmp_path) if rung == 10} == set(range(8))
    assert set(done(tmp_path).values()) == {1} and not made.unfinished()


def test_planning_on_two_machines(server, tmp_path):
    assert plan(server, machine(tmp_path, 0), 4)[0] == 4
    assert plan(server, machine(tmp_path, 1), 6)[0] == 2
    assert plan(server, machine(tmp_path, 0), 6)[0] == 0
    with pytest.raises(EconError, match="expected the seed"):
        plan(server, machine(tmp_path, 1), 6, seed=1)
    # the database is recorded in the folder
    assert [t.index for t in study.Study(machine(tmp_path, 1)).trials()] == list(range(6))


def test_a_server_that_is_not_there(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"postgresql+psycopg://econ@127.0.0.1:{port}/postgres"
    with pytest.raises(EconError, match="a database at .*: is the server up"):
        study.Study(tmp_path, url, create=True)


def test_a_server_that_goes_away_while_a_study_is_opened_is_named(server, tmp_path, monkeypatch):
    import optuna
    from sqlalchemy.exc import OperationalError

    def refused(*args, **options):
        gone = OperationalError("COMMIT", {}, Exception("terminating connection\nDETAIL"))
        raise optuna.exceptions.StorageInternalError("An exception is raised") from gone

    monkeypatch.setattr(optuna.storages, "RDBStorage", refused)
    with pytest.raises(EconError, match="database at .*terminating connection: is the server up"):
        study.Study(tmp_path, server.url, create=True)
