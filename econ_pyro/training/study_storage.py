"""Storages of Optuna: a journal file in the folder of the study, or a database."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from econ_pyro.errors import EconError, command
from econ_pyro.files import storage
from econ_pyro.training.search_space import Cases, Choice, Parameter, Range, Space, Value, flat

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")
JOURNAL, RECORD = "journal.log", "study.json"
PATIENCE = 300.0
"""Seconds to wait for a database that is away."""
_WAIT = 1.0  # seconds between attempts
_STATES = {"waiting": "WAITING", "running": "RUNNING", "complete": "COMPLETE", "failed": "FAIL"}


def import_optuna() -> Any:
    """The package Optuna.

    Raises:
        EconError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise EconError(
            "the package optuna", "none installed", "pip install 'econ-pyro[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(folder: Path, url: str | None, create: bool) -> tuple[Any, int]:
    """Storage and identifier of the study of a folder, in which the storage is recorded.

    Args:
        folder: of the study.
        url: of a database; default: the one recorded in the folder, else a journal file there.
        create: whether to create the study if it does not exist.

    Raises:
        EconError: there is no such study, or its storage cannot be used.
    """
    optuna = import_optuna()
    record = storage.read_json(folder / RECORD) if (folder / RECORD).exists() else {}
    url = url or record.get("storage")
    name = record.get("name") or folder.resolve().name
    if not isinstance(name, str) or not isinstance(url, str | None):
        raise EconError(f"a name and a database in {folder / RECORD}", "something else")
    first = f"{command('search')} plan {folder} --space ... comes first"
    missing = EconError(f"a study in {folder}", "none", first)
    if url is None and not create and not (folder / JOURNAL).exists():
        raise missing
    if create:
        folder.mkdir(parents=True, exist_ok=True)
    found = _journal(folder / JOURNAL) if url is None else _database(url)
    try:
        ident = patiently(lambda: found.get_study_id_from_name(name))
    except KeyError:
        if not create:
            raise missing from None
        optuna.create_study(
            storage=found, study_name=name, direction="maximize", load_if_exists=True
        )
        ident = found.get_study_id_from_name(name)
    if not record:
        storage.write_json(folder / RECORD, {"storage": url, "name": name})
    return found, ident


def close(opened: Any) -> None:
    """Close the connections of a storage; a journal has none."""
    if hasattr(opened, "engine"):
        opened.remove_session()
        opened.engine.dispose()


def name_of(state: Any) -> str:
    """Name of a state of Optuna's: waiting, running, complete or failed."""
    return {v: k for k, v in _STATES.items()}.get(state.name, state.name.lower())


def state_of(name: str) -> Any:
    """The state of Optuna's with that name."""
    return import_optuna().trial.TrialState[_STATES[name]]


def distributions(space: Space) -> dict[str, Any]:
    """Optuna's distribution of each parameter: where cases have several ranges, their union."""
    named: dict[str, list[Parameter]] = {}
    for name, parameter in flat(space):
        named.setdefault(name, []).append(parameter)
    return {name: _distribution(alike) for name, alike in named.items()}


def waiting(values: Mapping[str, Value], ranges: Mapping[str, Any], index: int) -> Any:
    """A trial of Optuna's that waits for a worker."""
    return import_optuna().trial.create_trial(
        state=state_of("waiting"),
        params=dict(values),
        distributions={name: ranges[name] for name in values},
        user_attrs={"index": index},
    )


def importance(
    space: Space, found: Sequence[tuple[Mapping[str, Value], float]]
) -> dict[str, float]:
    """PED-ANOVA importance of the parameters for being among the best tenth.

    Args:
        space: what was searched.
        found: values of the parameters, and the ELBO, of each configuration.

    Returns:
        Shares by parameter, the largest first; without those that only some of the cases have.
    """
    optuna = import_optuna()
    ranges = distributions(space)
    study = optuna.create_study(direction="minimize")
    for values, elbo in found:
        own = {name: ranges[name] for name in values}
        study.add_trial(
            optuna.trial.create_trial(params=dict(values), distributions=own, value=-elbo)
        )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items() if math.isfinite(share)}


def patiently(call: Callable[[], T]) -> T:
    """Call; if the database is away, again until it is back.

    Raises:
        EconError: it has been away for :data:`PATIENCE` seconds.
    """
    import_optuna()
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except (StorageInternalError, DBAPIError) as error:
            if time.monotonic() > deadline:
                reason = _reason(error)
                raise EconError("a database that answers", reason, "start it again") from None
            time.sleep(_WAIT)


def _reason(error: Exception) -> str:
    """What the database's driver said, in one line: SQLAlchemy wraps it, and Optuna that."""
    cause = error if hasattr(error, "orig") else error.__cause__ or error
    return str(getattr(cause, "orig", cause)).splitlines()[0]


class _FileLock:
    """Lock of a journal file, released by the system when a worker is killed.

    Optuna's own locks stay behind then, for half a minute.
    """

    def __init__(self, path: Path) -> None:
        self._journal, self._path, self._descriptor = (
            path,
            path.with_name(f".{path.name}.lock"),
            -1,
        )

    def acquire(self) -> bool:
        """Wait for the lock; then remove an incomplete line, as of a full disk."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._repair()
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Release it."""
        os.close(self._descriptor)

    def _repair(self) -> None:
        with suppress(FileNotFoundError), open(self._journal, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if not size or (file.seek(-1, os.SEEK_END), file.read(1))[1] == b"\n":
                return
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _journal(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    lock: Any = JournalFileOpenLock(str(path))
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            ours = _FileLock(path)
            ours.acquire()
            ours.release()
            lock = ours
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, KeyError, TypeError) as error:
        raise EconError(f"a journal of Optuna in {path}", f"a damaged file ({error})") from None


def _database(url: str) -> Any:
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    expected = "a database such as postgresql+psycopg://user@host/name"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise EconError(expected, repr(url), "leave out --storage for a journal file") from None
    if parsed.password is not None:
        hint = "set PGPASSWORD or write ~/.pgpass: the URL is recorded in the study's folder"
        raise EconError("a --storage without a password", "one with a password", hint)
    if parsed.get_backend_name() == "sqlite":
        raise EconError(expected, url, "leave out --storage: a journal file does as well")
    try:
        # idle connections are dropped by servers and firewalls
        return RDBStorage(url, engine_kwargs={"pool_size": 2, "pool_pre_ping": True})
    except ImportError as error:
        hint = "pip install 'econ-pyro[postgres]'"
        raise EconError(f"the driver of {url}", str(error).splitlines()[0], hint) from None
    except NoSuchModuleError:
        raise EconError(expected, url) from None
    except (DBAPIError, StorageInternalError) as error:  # the latter if it goes away meanwhile
        hint = "is the server up, and the password in PGPASSWORD or ~/.pgpass?"
        raise EconError(f"a database at {url}", _reason(error), hint) from None


def _distribution(alike: list[Parameter]) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    first = alike[0]
    if isinstance(first, Choice):
        return CategoricalDistribution(first.choices)
    if isinstance(first, Cases):
        return CategoricalDistribution(tuple(first.cases))
    ranges = [p for p in alike if isinstance(p, Range)]
    low, high = min(r.low for r in ranges), max(r.high for r in ranges)
    if first.whole:
        return IntDistribution(int(low), int(high), log=first.log)
    return FloatDistribution(low, high, log=first.log)
