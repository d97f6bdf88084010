"""Shared code of the entry points: errors, options, devices and progress."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

import torch
import tyro
from tqdm import tqdm

from econ_pyro import arguments, errors, presets, stopping
from econ_pyro.accel import cpu_cores, malloc
from econ_pyro.config import Config, NoRecipe, kinds_of, of_kind, parts_of
from econ_pyro.errors import EconError, did_you_mean
from econ_pyro.files import storage
from econ_pyro.model_config import EconConfig
from econ_pyro.training.run_config import read_config_file

T = TypeVar("T")
MAX_MESSAGE_LENGTH = 2000  # of an error, in characters
INTERVAL = 10.0
"""Seconds between the lines of :func:`progress` without a terminal."""


def run(main: Callable[[], None]) -> None:
    """Run an entry point; a user error becomes one line on stderr and exit status 2."""
    malloc.retain_memory()
    cpu_cores.use_cores()
    try:
        with stopping.raise_on_sigterm():
            main()
            sys.stdout.flush()  # may fail on a full disk, which is a user error
    except EconError as error:
        _exit(2, f"error: {error}")
    except stopping.Stopped as stop:
        _exit(stop.status, str(stop))
    except KeyboardInterrupt:
        _exit(130, "stopped")
    except BrokenPipeError:  # the reader of the output has ended, such as head
        _exit(141)
    except OSError as error:
        if not error.errno:  # raised by a library, not by the system
            raise
        _exit(2, f"error: {storage.to_econ_error(error)}")


def _exit(status: int, message: str = "") -> None:
    with suppress(OSError):  # closed terminal, full disk
        if message:  # file names may contain line ends and control characters
            print(errors.printable(message, MAX_MESSAGE_LENGTH), file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:  # Python would flush again at exit and print a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def of_preset(
    cls: Callable[..., T],
    args: Sequence[str] | None,
    description: str | None,
    named: Mapping[str, tuple[str, Config]] | None = None,
) -> T:
    """Parse a command line that starts with a preset, followed by options that change its fields.

    The preset is a name or a file, such as the ``config.json`` of a run.

    Args:
        cls: a dataclass with the fields of :class:`~econ_pyro.config.Config` and ``preset``; of a
            file, it also gets ``data``, ``fit`` and ``limit`` if it has them.
        args: command line; that of the process if not given.
        description: description of the entry point, for ``--help``.
        named: descriptions and configurations by preset; those of the package if not given.

    Raises:
        EconError: there is no such preset, its file is missing or damaged, or the chosen
            configuration has no such option.
    """
    given = list(sys.argv[1:] if args is None else args)
    if given:
        given[0] = presets.in_full(given[0])
    known = dict(named or presets.PRESETS)
    data: dict[str, Any] = {}
    if given and is_preset_file(given[0]):
        recorded = read_config_file(Path(given[0]))
        known.setdefault(given[0], (f"As in {given[0]}.", recorded.config))
        has = {field.name for field in dataclasses.fields(cast(Any, cls))}
        data = {name: getattr(recorded, name) for name in ("data", "fit", "limit") if name in has}
    configs: dict[str, tuple[str, Any]] = {}
    for name, (text, config) in known.items():
        own = cls(**vars(config), preset=name, **data)
        if name in given[:1]:
            # options that are read later may be what makes the chosen kinds fit
            own = _unchecked(own, **vars(_of_kinds(config, given)))
        configs[name] = text, own
    if given and not given[0].startswith("-"):
        if given[0] not in configs:
            hint = did_you_mean(given[0], [*configs, *presets.ALIASES])
            raise EconError(f"a preset ({', '.join(configs)})", given[0], hint)
        _check_options(configs[given[0]][1], given[1:])
    return tyro.extras.overridable_config_cli(
        configs,
        args=given,
        description=description,
        # for tagged unions, only the options of the chosen kind
        config=(tyro.conf.AvoidSubcommands,),
    )


def is_preset_file(preset: str) -> bool:
    """Whether a preset is the path of a file."""
    return preset.endswith(".json")


def label(preset: str) -> str:
    """Short name of a preset, for folders: of a file, its name without ``.json``."""
    return Path(preset).stem if is_preset_file(preset) else preset


def check_preset(preset: str) -> None:
    """Check the name or the file of a preset.

    Raises:
        EconError: there is no such preset, or its file is missing or damaged.
    """
    preset_config(preset)


def preset_config(preset: str) -> Config:
    """The configuration of a preset, by its name or file; errors as of :func:`check_preset`."""
    if is_preset_file(preset):
        return read_config_file(Path(preset)).config
    name = presets.in_full(preset)
    errors.check_choice("a preset", name, presets.PRESETS)
    return presets.PRESETS[name][1]


def labelled(names: Sequence[str]) -> dict[str, str]:
    """Presets by their labels, each once.

    Raises:
        EconError: two have the same label.
    """
    found = dict[str, str]()
    for preset in names:
        if found.setdefault(label(preset), preset) != preset:
            raise EconError(
                "presets of different names",
                f"{found[label(preset)]} and {preset}",
                "copy the files to other names",
            )
    return found


def _of_kinds(config: Config, args: Sequence[str]) -> Config:
    """Replace parts of a configuration by those of the kinds that ``--PART.kind`` options set.

    The new part keeps the values of the fields that both kinds have.

    Raises:
        EconError: there is no such kind.
    """
    for i, argument in enumerate(args):
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or not name.endswith(".kind"):
            continue
        kind = value if equals else args[i + 1] if i + 1 < len(args) else ""
        config = _with_kind(config, name[2:].replace("-", "_").split(".")[:-1], kind)
    if not isinstance(config.model, EconConfig):  # to which the recipe means nothing
        config = _unchecked(config, recipe=NoRecipe())
    return config


def _check_options(config: Any, args: Sequence[str]) -> None:
    """Check the names of options; say which kind has an option that the chosen kinds lack.

    Raises:
        EconError: the configuration has no such option.
    """
    values = options(config)
    positive = [name for name, value in values.items() if isinstance(value, bool)]
    known = ["--help", *values, *map(_negated, positive)]
    for argument in args:
        option = argument.partition("=")[0].replace("_", "-")
        if not option.startswith("--") or option.startswith("--tyro-") or option in known:
            continue
        path = option[2:].replace("-", "_").split(".")
        if found := _other_kind(config, path):
            part, own, kind = found
            raise EconError(
                f"an option of {part}.kind {own}",
                f"{option}, which is one of kind {kind}",
                f"add --{part}.kind {kind}, or leave the option out",
            )
        alike = [name for name in known if name.split(".")[-1].lstrip("-") == path[-1]]
        meant = alike[0] if len(alike) == 1 else option
        hint = did_you_mean(meant, known, 0.8) or "--help lists the options"
        raise EconError("an option of the preset", option, hint)


def options(config: Any, above: str = "--") -> dict[str, Any]:
    """Values of a configuration by option, as in ``--train.steps``."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), above + field.name.replace("_", "-")
        found |= options(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return found


def _negated(option: str) -> str:
    part, dot, name = option[2:].rpartition(".")
    return f"--{part}{dot}no-{name}"


def _other_kind(config: Any, path: Sequence[str], above: str = "") -> tuple[str, str, str] | None:
    """The part, its kind and another kind of it which has the option of that path."""
    name, *rest = path
    part = getattr(config, name, None)
    if not rest or not dataclasses.is_dataclass(part):
        return None
    if found := _other_kind(part, rest, f"{above}{name}."):
        return found
    for cls in kinds_of(type(config), name):
        if _has_option(cls, rest):
            kind = cls.__dataclass_fields__["kind"].default  # type: ignore[attr-defined]
            return f"{above}{name}", part.kind, kind  # type: ignore[union-attr]
    return None


def _has_option(cls: type, path: Sequence[str]) -> bool:
    """Whether a configuration of that class can have the option of that path."""
    name, *rest = path
    if not rest:
        return name in {f.name for f in dataclasses.fields(cls)}
    return any(_has_option(part, rest) for part in parts_of(cls, name))


def _with_kind(config: Any, path: Sequence[str], kind: str, above: str = "") -> Any:
    name, *rest = path
    if not any(field.name == name for field in dataclasses.fields(config)):
        return config  # tyro reports this error
    part, where = getattr(config, name), f"{above}{name}"
    if rest:
        return _unchecked(config, **{name: _with_kind(part, rest, kind, f"{where}.")})
    classes = kinds_of(type(config), name)
    if not classes:
        return config
    cls = of_kind(classes, kind, where)
    if isinstance(part, cls):
        return config
    common = {f.name for f in dataclasses.fields(cls)} & {f.name for f in dataclasses.fields(part)}
    kept = {name: getattr(part, name) for name in common - {"kind"}}
    # checks follow when all options are known, of which later ones may make the kept values fit
    return _unchecked(config, **{name: _unchecked(cls(), **kept)})


def _unchecked(config: T, **parts: Any) -> T:
    """``dataclasses.replace`` without validation."""
    changed = object.__new__(type(config))
    changed.__dict__.update(vars(config), **parts)
    return changed


def config_of(parsed: Config) -> Config:
    """The configuration in the arguments of an entry point."""
    return Config(**{f.name: getattr(parsed, f.name) for f in dataclasses.fields(Config)})


def pick_device(name: str) -> torch.device:
    """The device called ``auto``, or any that torch knows, such as ``cpu`` or ``cuda``.

    Raises:
        EconError: there is no such device, or CUDA was requested but is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise EconError("a CUDA device", "none on this machine", "use --device cpu")
    return arguments.as_device(name)


class ProgressLines:
    """Progress as lines of text, for logs, with the part of tqdm's interface that is used here.

    Args:
        total: total number of units.
        unit: name of the unit, in the singular.
        initial: number of units done before.
        file: output; None to write nothing.
        interval: seconds between lines.
        clock: function that returns the time in seconds.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        initial: int = 0,
        file: TextIO | None = None,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.n = initial
        self._total, self._unit, self._file = total, unit, file
        self._interval, self._clock = interval, clock
        self._values = ""
        self._written = initial, clock()  # units and time of the last line

    def update(self, n: float = 1) -> None:
        """Count ``n`` units; write a line if the interval since the last one has passed."""
        self.n += int(n)
        if self._clock() - self._written[1] >= self._interval:
            self._write()

    def set_postfix(self, **values: str) -> None:
        """Set the values shown in the next lines."""
        self._values = "".join(f", {name} {value}" for name, value in values.items())

    def close(self) -> None:
        """Write a line if units were counted since the last line."""
        if self.n != self._written[0]:
            self._write()

    def _write(self) -> None:
        now = self._clock()
        n, then = self._written
        rate = (self.n - n) / max(now - then, 1e-9)
        self._written = self.n, now
        if self._file is not None:
            units = f"{self._unit}s"
            line = f"{self.n} of {self._total} {units}{self._values}, {rate:.3g} {units}/s"
            print(line, file=self._file, flush=True)


@contextmanager
def progress(
    total: int, unit: str, initial: int = 0, disable: bool = False
) -> Iterator[tqdm[Any] | ProgressLines]:
    """Show progress on stderr: a bar on a terminal, else a line every ``INTERVAL`` seconds.

    Args:
        total: total number of units.
        unit: name of the unit, in the singular.
        initial: number of units done before.
        disable: whether to show nothing.

    Yields:
        An object with ``n``, ``update`` and ``set_postfix`` as in tqdm.
    """
    file = sys.stderr
    bar: tqdm[Any] | ProgressLines
    if disable or file is None or not file.isatty():
        bar = ProgressLines(total, unit, initial, None if disable else file)
    else:
        bar = tqdm(total=total, initial=initial, unit=unit, dynamic_ncols=True, file=file)
    try:
        yield bar
    finally:
        bar.close()
