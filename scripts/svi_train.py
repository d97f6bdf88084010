"""Train a scene model: ``python scripts/svi_train.py quick --run runs/quick``.

On several GPUs or CPUs: ``torchrun --nproc-per-node 2 -- scripts/svi_train.py quick ...``.

The folder of the run contains config.json, metrics.jsonl, checkpoints/, experts/ and figures/.

Each training step is CompetitiveSVI.update in econ_pyro/infer/svi.py: the experts compete
(section 5.2, GreedyCompetition in econ_pyro/infer/competition.py), then the winners take a
gradient step of Eq. 13 (BatchedELBO in econ_pyro/infer/elbo.py).
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
import tyro
from torch import Tensor

from econ_pyro import cli, errors, stopping
from econ_pyro.accel import cpu_cores
from econ_pyro.accel.process_group import ProcessGroup, join
from econ_pyro.config import Config, to_dict
from econ_pyro.core.compositing import stages
from econ_pyro.data.base import DEFAULT_LIMIT, Source
from econ_pyro.data.resize import Fit, Resample
from econ_pyro.data.splits import Split, open_split
from econ_pyro.data.synthetic.dataset import is_dataset
from econ_pyro.data.synthetic.sprites import sprite_classes
from econ_pyro.econ import Econ, load_expert
from econ_pyro.errors import EconError, command
from econ_pyro.evaluation.evaluate import as_json, evaluate, format_report, write_names
from econ_pyro.files import locks, outputs, storage, temporary_paths
from econ_pyro.infer import scene_model
from econ_pyro.infer.scene_model import SceneModel
from econ_pyro.io.expert_file import Expert, check_fits, custom_names, save_expert
from econ_pyro.io.pretrained import load_model
from econ_pyro.model_config import EconConfig, SceneModelConfig, SeededAttention
from econ_pyro.training import checkpoint, progress
from econ_pyro.training.run_config import RunConfig, read_config, write_config
from econ_pyro.training.run_files import Row
from econ_pyro.training.trainer import STOPPED, Trainer
from econ_pyro.viz import figures
from econ_pyro.viz.training_curves import training_curves


@dataclass(frozen=True)
class TrainArgs(Config):
    """Preset and options of the run."""

    preset: tyro.conf.Suppress[str] = ""
    """Name of the preset."""
    run: Path | None = None
    """Folder of the run; default: runs/PRESET-seed-SEED."""
    data: Path | None = None
    """A dataset folder, a folder of images and videos, a video or animation, .npy, .npz, HDF5 or
    TFRecords; default: generated scenes."""
    fit: Fit = "crop"
    """How images are made square: crop to the centre, or resize (stretch)."""
    resample: Resample = "auto"
    """How pixels of another size are made: nearest takes them as they are, area takes means; auto:
    nearest for images of few colours with hard edges, area for others."""
    strict: bool = False
    """Stop if an image cannot be read, instead of skipping it."""
    limit: int = DEFAULT_LIMIT
    """Maximum number of images read from a file or folder."""
    init_experts: tuple[str, ...] = ()
    """Initial experts: safetensors files in experts/ of other runs. The first experts get their
    weights and names; the others are initialised at random."""
    freeze: bool = False
    """Do not train the initial experts; they still take part in the competition."""
    device: str = "auto"
    """auto, cpu or cuda."""
    steps: int | None = None
    """Short for --train.steps; also applies with --resume."""
    minutes: float | None = None
    """Short for --train.minutes; also applies with --resume."""
    features: str | None = None
    """A pretrained network over whose features regions grow, too: hf:OWNER/NAME, or a folder
    (extra: features). Short for the option pretrained of seeded attention."""
    until: int | None = None
    """Stop after that step with a checkpoint. --resume continues as if there had been no stop."""
    resume: bool = False
    """Continue the run, with the same result as without interruption."""
    overwrite: bool = False
    """Replace the folder of the run if it exists."""
    dry_run: bool = False
    """Print the configuration and the number of parameters, and exit."""
    tensorboard: bool = False
    """Also write TensorBoard logs to the folder of the run (extra: tensorboard)."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = cli.of_preset(TrainArgs, args, __doc__)
    if parsed.until is not None:
        errors.check_positive("--until", parsed.until)
    run = parsed.run or Path("runs") / f"{cli.label(parsed.preset)}-seed-{parsed.seed}"
    given = _initial_experts(parsed)
    config = _resolve(parsed, run, given)
    if parsed.resume:
        _check_kept(args, parsed, config, run)
    device = cli.pick_device(parsed.device)
    if parsed.dry_run:
        recorded = _recorded(parsed, run, config)
        if recorded.data is None or is_dataset(recorded.data):  # others take long to read
            open_recorded(recorded)
        _describe(config, device, run)
        return
    if parsed.tensorboard:
        _summary_writer()
    go_on = _command(parsed, run)
    with ExitStack() as stack:
        with join(device, config.train.batch) as (group, device), pyro.validation_enabled(False):
            # before reading images, which may take long
            group.lead(lambda: stack.enter_context(_claimed(run, config, parsed)), device)
            if device.type == "cpu":
                if config.compile:
                    cpu_cores.use_cores(intra_op=True)
                if group.first:
                    print(cpu_cores.description())
            try:
                trainer, valid = _trainer(parsed, run, config, given, device, group)
                reason, number = _fit(trainer, run, parsed)
            except OSError as error:
                if not error.errno:  # raised by a library, not by the system
                    raise
                kept = (run / checkpoint.LAST).exists()
                raise storage.to_econ_error(error, f"go on: {go_on}" if kept else "") from None
        if number:
            text = f"stopped at step {trainer.step}, saved in {run}: to go on, {go_on}"
            raise stopping.Stopped(number, text if group.first else "")
        if group.first and reason == STOPPED:
            print(f"at step {trainer.step}, saved in {run}: to go on, {go_on}")
        elif group.first:
            try:
                _report(trainer, run, valid, reason)
            except KeyboardInterrupt as stop:
                text = f"stopped after the last step: for figures and scores, {go_on}"
                raise stopping.Stopped(stopping.signum_of(stop), text) from None


def _trainer(
    parsed: TrainArgs,
    run: Path,
    config: Config,
    given: Sequence[Expert],
    device: torch.device,
    group: ProcessGroup,
) -> tuple[Trainer, Source]:
    """The trainer at the step at which training starts or resumes, and the validation images."""
    source = open_recorded(_recorded(parsed, run, config), parsed.strict)
    pyro.set_rng_seed(config.seed)

    model = scene_model.build(config, device)
    for k, expert in enumerate(given):
        assert isinstance(model, Econ)
        model.put(k, expert)
    trainer = Trainer(config, model, source.train, source.valid, run, device, group)
    if parsed.resume:
        trainer.resume()
    else:
        if not given and (done := trainer.initialise()) and group.first:
            print(done)
        group.lead(lambda: _prepare(run, config, parsed, trainer), device)
    return trainer, source.valid


def _recorded(parsed: TrainArgs, run: Path, config: Config) -> RunConfig:
    """What ``config.json`` says of the run."""
    if parsed.resume and parsed.data is None:
        return read_config(run)._replace(config=config)
    return RunConfig(
        config, parsed.data, parsed.fit, parsed.limit, parsed.init_experts, parsed.resample
    )


def planned(args: Sequence[str]) -> RunConfig:
    """What ``config.json`` of a new run says, by its command line.

    Raises:
        EconError: the command line is wrong.
    """
    parsed = cli.of_preset(TrainArgs, args, __doc__)
    run = parsed.run or Path()
    return _recorded(parsed, run, _resolve(parsed, run, _initial_experts(parsed)))


def open_recorded(recorded: RunConfig, strict: bool = False) -> Split:
    """Training and validation images."""
    config, data, fit, limit, _, resample = recorded
    numbers = config.train.train_scenes, config.train.valid_scenes
    size, seed = config.model.size, config.seed
    return open_split(data, config.scenes, size, seed, *numbers, fit, strict, limit, resample)


@contextmanager
def _claimed(run: Path, config: Config, parsed: TrainArgs) -> Iterator[None]:
    """Hold the lock of the run, and check that its folder can be written."""
    with locks.hold_lock(run):
        if not parsed.resume:
            if run.is_dir() and any(run.iterdir()) and not parsed.overwrite:
                raise EconError(
                    "a new folder for the run",
                    f"{run}, which has files",
                    "add --resume or --overwrite",
                )
            outputs.check_output(run, parsed.overwrite, checkpoint.CONFIG, locked=True)
        elif _resolve(parsed, run) != config:
            raise EconError(f"an unchanged run in {run}", "a run started just now", "try again")
        else:
            storage.check_writable(run / checkpoint.METRICS)
            folders = {run / name for name in ("", "checkpoints", "experts", "figures")}
            temporary_paths.remove_stale_files(*folders)
        yield


def _command(parsed: TrainArgs, run: Path) -> str:
    """The command that resumes the run."""
    words = [*command("train").split(), parsed.preset, "--run", str(run), "--resume"]
    for name in ("steps", "minutes") if parsed.resume else ():  # otherwise they are in config.json
        if (value := getattr(parsed, name)) is not None:
            words += [f"--{name}", f"{value:g}"]
    return shlex.join(words)


def _report(trainer: Trainer, run: Path, valid: Source, reason: str) -> None:
    best = load_model(run, trainer.device)
    report = evaluate(best, valid)
    best.names = write_names(run, report, best.names)
    if isinstance(best, Econ):
        for expert in best.experts:
            save_expert(run / f"experts/expert_{expert.index}.safetensors", expert)
    storage.write_json(run / "evaluation.json", as_json(report))
    _draw(run / "figures", best, valid.images(torch.arange(min(len(valid), 8))), trainer.rows)
    print(f"\ntraining ended: {reason}, step {trainer.step}, {trainer.seconds / 60:.1f} minutes")
    rate, seconds = trainer.learner.rate, trainer.seconds
    if left := progress.describe(trainer.config, trainer.step, rate, seconds, trainer.horizon):
        print(left)
    print(f"run: {run}")
    for figure in sorted((run / "figures").iterdir()):
        print(f"figure: {figure}")
    print(format_report(report, f"{len(valid)} validation scenes"))


def _initial_experts(parsed: TrainArgs) -> list[Expert]:
    paths = _split(parsed.init_experts)
    if parsed.freeze and not paths:
        raise EconError("experts to --freeze", "no --init-experts", "name their files")
    if parsed.resume:  # the checkpoint contains them
        return []
    model = parsed.model
    if paths and (pretrained := _pretrained(_with_features(model, parsed.features))):
        raise EconError(
            "a model without pretrained features, for --init-experts",
            pretrained,
            "econ.with_experts combines experts that were trained with them",
        )
    experts = _load_experts(paths)
    if experts and not isinstance(model, EconConfig):
        raise EconError("a model with experts, for --init-experts", type(model).__name__)
    assert isinstance(model, EconConfig) or not experts
    if isinstance(model, EconConfig) and len(experts) > model.num_experts:
        raise EconError(
            f"up to {model.num_experts} --init-experts, as model.num-experts is",
            str(len(experts)),
            f"set --model.num-experts {len(experts) + parsed.freeze}",
        )
    for path, expert in zip(paths, experts, strict=True):
        check_fits(path, expert.config, expert.size, model)  # type: ignore[arg-type]
    return experts


def _load_experts(given: Sequence[str]) -> list[Expert]:
    return [load_expert(path) for path in _split(given)]


def _split(given: Sequence[str]) -> list[str]:
    return [path for paths in given for path in paths.split(",") if path]


def _resolve(parsed: TrainArgs, run: Path, given: Sequence[Expert] = ()) -> Config:
    if parsed.resume:
        if not (run / checkpoint.CONFIG).exists():
            start = shlex.join([*command("train").split(), parsed.preset, "--run", str(run)])
            raise EconError(f"a run to resume in {run}", "none", f"start it with {start}")
        config = read_config(run).config
    else:
        config = cli.config_of(parsed)
        if parsed.freeze:
            train = dataclasses.replace(config.train, frozen=len(given))
            config = dataclasses.replace(config, train=train)
        config = dataclasses.replace(config, names=config.names or custom_names(given))
    short: dict[str, Any] = {"steps": parsed.steps, "minutes": parsed.minutes}
    limits = {name: value for name, value in short.items() if value is not None}
    scenes = config.scenes
    if scenes.sprites and not parsed.resume:  # record the classes, as the folder may change later
        scenes = dataclasses.replace(scenes, classes=sprite_classes(scenes))
    kept, model = _pretrained(config.model), _with_features(config.model, parsed.features)
    if parsed.resume and _pretrained(model) != kept:
        expected = f"the features of the run in {run}, {kept or 'none'}"
        raise EconError(expected, f"--features {parsed.features}", "leave the option out")
    return dataclasses.replace(
        config, scenes=scenes, model=model, train=dataclasses.replace(config.train, **limits)
    )


def _with_features(model: SceneModelConfig, features: str | None) -> SceneModelConfig:
    """The model with what ``--features`` sets."""
    if features is None:
        return model
    attention = model.expert.attention if isinstance(model, EconConfig) else None
    if not isinstance(attention, SeededAttention):
        raise EconError(
            "model.expert.attention.kind seeded, for --features",
            "a model without it" if attention is None else attention.kind,
            "presets such as random-colours have it",
        )
    assert isinstance(model, EconConfig)
    attention = dataclasses.replace(attention, pretrained=features)
    expert = dataclasses.replace(model.expert, attention=attention)
    return dataclasses.replace(model, expert=expert)


def _pretrained(model: SceneModelConfig) -> str:
    """Of which network the model has features; empty if none."""
    attention = model.expert.attention if isinstance(model, EconConfig) else None
    return attention.pretrained if isinstance(attention, SeededAttention) else ""


def _check_kept(args: Sequence[str] | None, parsed: TrainArgs, config: Config, run: Path) -> None:
    """Reject options that differ from the configuration of a run to be resumed."""
    # parse again with the configuration of the run as defaults
    asked = cli.of_preset(TrainArgs, args, __doc__, {parsed.preset: ("", config)})
    kept = cli.options(config)
    for name, value in cli.options(cli.config_of(asked)).items():
        if value != kept[name]:
            raise EconError(
                f"{name} {kept[name]}, as in {run}",
                f"{name} {value}",
                "only --steps and --minutes can be changed with --resume",
            )


def _prepare(run: Path, config: Config, parsed: TrainArgs, trainer: Trainer) -> None:
    """Create the folder of the run with a checkpoint, so that it can always be resumed."""
    with outputs.atomic_folder(run, parsed.overwrite, checkpoint.CONFIG, locked=True) as folder:
        checkpoint.save_checkpoint(folder / checkpoint.LAST, trainer.state())
        write_config(folder, _recorded(parsed, run, config), parsed.preset)


def _describe(config: Config, device: torch.device, run: Path) -> None:
    model = scene_model.build(config)
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps(to_dict(config), indent=2))
    print(f"run: {run}\ndevice: {device}\nparameters: {parameters:,}")


def _fit(trainer: Trainer, run: Path, parsed: TrainArgs) -> tuple[str, int]:
    """Train; return the reason for the end, and the signal that caused it or 0."""
    first, total, until = trainer.group.first, trainer.config.train.steps, parsed.until
    if until is not None and trainer.step >= until and not trainer.done():
        return STOPPED, 0
    writer = _summary_writer()(str(run / "tensorboard")) if parsed.tensorboard and first else None
    with cli.progress(total, "step", trainer.step, disable=not first) as bar:

        def report(step: int, row: Row | None) -> None:
            if row is not None:
                bar.set_postfix(loss=f"{row['loss']:.0f}", valid=f"{row['valid_loss']:.0f}")
            bar.update(step - bar.n)
            if row is not None and writer is not None:
                for name in ("loss", "valid_loss", "x", "z", "r", "lr", "gamma"):
                    writer.add_scalar(name, row[name], step)

        def arrived() -> bool:
            return trainer.step == until and not trainer.done()

        try:
            with stopping.defer_signals() as stop:
                reason = trainer.fit(report, lambda: stop() or arrived())
                if reason != STOPPED:
                    return reason, 0
                if arrived():
                    return reason, stop.signum
                return reason, stop.signum or signal.SIGTERM  # or to another process
        finally:
            if writer is not None:
                writer.close()


def _draw(folder: Path, econ: SceneModel, images: Tensor, rows: list[Row]) -> None:
    d = econ.decompose(images)
    training_curves(rows, folder / "curves.png", econ.names)
    figures.decomposition_strip(d[0:1], econ.names, folder / "strip.png")
    figures.decomposition_grid(d, econ.names, folder / "decompositions.png")
    if isinstance(econ, Econ):
        mean, shape = econ.sample_experts(len(images))
        figures.expert_samples(mean, shape, econ.names, folder / "experts.png", images)
    if econ.generative:
        scenes = econ.sample(len(images), seed=0)
        painted = stages(scenes.shape, scenes.appearance)
        figures.build_up(painted, folder / "samples.png", scenes.k.flip(1), econ.names)


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise EconError(
            "the package tensorboard", "none installed", "pip install 'econ-pyro[tensorboard]'"
        ) from None
    return SummaryWriter


if __name__ == "__main__":
    cli.run(main)
