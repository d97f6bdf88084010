"""Time training steps against a baseline: ``python scripts/benchmark.py quick``.

For ECON, the baseline is a step with gradients through all experts. For other systems, and those
given with ``--beside``, it is the forward and backward passes of their networks alone. Any field
of the preset can be set, as for ``svi_train.py``: ``--train.batch 256``, say.

All rows of a table are timed in one process, in turns. On a CPU, times are CPU time of one thread,
which other programs on the machine change little; on a GPU, they are wall-clock time.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import pyro
import torch
import tyro

from econ_pyro import cli, errors
from econ_pyro.accel import cpu_cores
from econ_pyro.accel.amp import has_bfloat16
from econ_pyro.accel.bare_networks import BareNetworks
from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.accel.timing import (
    count_flops,
    fit_line,
    format_milliseconds,
    matrix_product,
    peak_memory,
    time_interleaved,
)
from econ_pyro.config import Config, to_dict
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.errors import EconError
from econ_pyro.files import storage
from econ_pyro.infer import scene_model
from econ_pyro.infer.cuda_graph_svi import CudaGraphSVI
from econ_pyro.infer.elbo import ClassConditionalELBO
from econ_pyro.infer.svi import CompetitiveSVI
from econ_pyro.model_config import EconConfig
from econ_pyro.training.baseline import all_experts_loss
from econ_pyro.training.learner import Learner

Job = Callable[[], object]
BASELINE, DECOMPOSE, PEAK = "baseline: all experts with gradients", "decompose", "matrix product"
EVEN = 1e12  # a temperature in nats at which every expert wins equally often


@dataclass(frozen=True)
class Args(Config):
    """What to time."""

    preset: tyro.conf.Suppress[str] = ""
    """Name of the preset whose steps are timed."""
    device: str = "auto"
    """auto, cpu or cuda."""
    rounds: int = 15
    """Timed turns of each row."""
    scaling: bool = False
    """Also time steps with other numbers of experts and layers, image sizes and batches."""
    beside: tuple[str, ...] = ()
    """Other presets, or files, whose steps are timed beside its own, with batches of its size."""
    out: Path | None = None
    """JSON file for the figures."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = cli.of_preset(Args, args, __doc__)
    errors.check_positive("--rounds", parsed.rounds)
    config = cli.config_of(parsed)
    is_econ = isinstance(config.model, EconConfig)
    if parsed.scaling and not is_econ:
        raise EconError("a preset with experts, for --scaling", parsed.preset)
    systems = {cli.label(parsed.preset): config}
    for label, preset in cli.labelled([parsed.preset, *parsed.beside]).items():
        if label not in systems:
            own = cli.preset_config(preset)
            train = replace(own.train, batch=config.train.batch)
            systems[label] = replace(own, train=train, amp=config.amp)
    for name, own in systems.items():
        if own.gt_masks:
            raise EconError("presets that find regions", f"{name}, which is given true ones")
    if parsed.out is not None:
        storage.check_writable(parsed.out)
    device = cli.pick_device(parsed.device)
    cpu_cores.use_cores(1)
    with pyro.validation_enabled(False):
        figures: dict[str, Any] = {"machine": _machine(device), "preset": parsed.preset}
        figures["config"] = to_dict(config)
        if is_econ:
            figures["step"] = _compare(config, device, parsed.rounds)
        if parsed.beside or not is_econ:
            figures["systems"] = _systems(systems, device, parsed.rounds)
        figures["use"] = _use(config, device, parsed.rounds)
        figures["start"] = _start(parsed.preset, device)
        if parsed.scaling:
            figures["scaling"] = _scale(config, device, parsed.rounds)
    if parsed.out is not None:
        storage.write_json(parsed.out, figures)


def _machine(device: torch.device) -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    machine = {"device": name, "torch": torch.__version__}
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    return machine


class _System:
    """Training steps of a system on one batch of generated scenes.

    Experts win equally often, whatever their losses: trained experts share the layers about
    evenly, new ones do not, and every run has as much to compute.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        self.model: Any = scene_model.build(config, device)
        scenes = replace(config.scenes, size=config.model.size)
        source = GeneratedScenes(scenes, config.seed, config.train.batch, "train")
        self.x = source.images(torch.arange(config.train.batch)).to(device)
        self.engine: Any = Learner(config, self.model, device, ProcessGroup()).engine
        if isinstance(self.engine, CompetitiveSVI):
            self.engine.competition.temperature = EVEN

    def train(self) -> None:
        """A training step: for ECON, competition, then gradients of the winners."""
        self.engine.update(self.x)


class _Steps(_System):
    """Training steps of ECON, with what they are compared to."""

    def __init__(self, config: Config, device: torch.device, traced: bool = False) -> None:
        super().__init__(config, device)
        engine = self.engine
        assert isinstance(engine, CompetitiveSVI)
        if traced:
            engine.elbo = ClassConditionalELBO(engine.elbo.beta, engine.elbo.gamma)
        self.captured = isinstance(engine, CudaGraphSVI) and not traced
        # CUDA graphs hide what they do from counters
        self.uncaptured = CompetitiveSVI(
            engine.model,
            engine.guide,
            engine.optim,
            engine.elbo,
            engine.competition,
            engine.execution,
        )
        self.engine = self.uncaptured if traced else engine

    def train_uncaptured(self) -> None:
        """The same without CUDA graphs."""
        self.uncaptured.update(self.x)

    def decompose(self) -> None:
        """Posterior means of the best experts, without gradients."""
        self.engine.decompose(self.x)

    def baseline(self) -> None:
        """Gradients of all experts (:mod:`econ_pyro.training.baseline`)."""
        svi = self.uncaptured
        draws = svi.draw(self.x)
        svi.optim.zero_grad(set_to_none=True)
        with svi.execution(self.x.device):
            loss, _ = all_experts_loss(
                self.model.model, self.model.guide, self.x, draws, svi.competition, svi.elbo
            )
        loss.backward()
        svi.optim.step()

    def gradients(self) -> Job:
        """The second half of a step alone, for the winners of one competition."""
        svi = self.uncaptured
        won = svi.compete(self.x)
        return lambda: svi.gradients(self.x, won)


def _compare(config: Config, device: torch.device, rounds: int) -> dict[str, Any]:
    amp = config.amp and has_bfloat16(device)
    graphs = config.cuda_graphs and device.type == "cuda"
    eager = replace(config, cuda_graphs=False, compile=False)
    base = _Steps(eager, device)
    steps = {"winners, through Pyro's traces": _Steps(eager, device, traced=True)}
    if amp:
        steps["winners, float32"] = _Steps(replace(eager, amp=False), device)
    steps["winners"] = _Steps(eager, device)
    if graphs:
        steps["winners, CUDA graphs"] = _Steps(replace(config, compile=False), device)
    if config.compile:
        steps["winners, compiled"] = _Steps(config, device)
    last = list(steps.values())[-1]
    jobs: dict[str, Job] = {BASELINE: base.baseline}
    jobs |= {name: s.train for name, s in steps.items()}
    jobs[DECOMPOSE] = last.decompose
    counted = {**jobs, **{name: s.train_uncaptured for name, s in steps.items()}}
    counted[DECOMPOSE] = lambda: last.uncaptured.decompose(last.x)
    dtype = torch.bfloat16 if amp else torch.float32
    size = 8192 if device.type == "cuda" else 1024
    seconds = time_interleaved({**jobs, PEAK: matrix_product(device, dtype, size)}, device, rounds)
    # counted after the timed steps, since parameters change who wins
    work = {name: count_flops(job) for name, job in counted.items()}
    # CUDA graphs hold their memory from the start
    captured = {name for name, s in steps.items() if s.captured}
    captured |= {DECOMPOSE} if last.captured else set()
    memory = {n: None if n in captured else peak_memory(job, device) for n, job in jobs.items()}
    peak = 2 * size**3 / median(seconds.pop(PEAK))
    batch, reference = config.train.batch, median(seconds[BASELINE])
    precision = str(dtype).removeprefix("torch.")
    print(f"\npeak, as a {precision} product of {size} x {size}: {peak / 1e9:.0f} GFLOP/s")
    model = base.model.sizes
    print(f"{precision}, batch {batch}, K {model.num_experts}, T {model.num_slots}\n")
    clock = "ms" if device.type == "cuda" else "CPU ms"
    print(f"| step | {clock}, median (range) | times the baseline's speed | scenes/s | GFLOP "
          "| share of peak | memory MB |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    table = {}
    for name, times in seconds.items():
        middle = median(times)
        row = {
            "seconds": times,
            "speed": reference / middle,
            "scenes_per_second": batch / middle,
            "flop": work[name],
            "share_of_peak": work[name] / middle / peak,
            "memory": memory[name],
        }
        table[name] = row
        print(
            f"| {name} | {format_milliseconds(times)} | {row['speed']:.2f} "
            f"| {row['scenes_per_second']:.0f} | {work[name] / 1e9:.1f} "
            f"| {row['share_of_peak']:.0%} | {_megabytes(memory[name])} |"
        )
    return {"peak_flops": peak, "rows": table}


def _systems(configs: dict[str, Config], device: torch.device, rounds: int) -> dict[str, Any]:
    """Steps of each system, and its networks alone, all in turns."""
    jobs, networks = dict[str, Job](), dict[str, BareNetworks]()
    for name, config in configs.items():
        system = _System(replace(config, cuda_graphs=False, compile=False), device)
        jobs[name] = system.train
        bare = BareNetworks(system.model, system.train, system.engine.execution, device)
        if len(bare):  # the masked RBM has no networks
            networks[name] = bare
    alone = {f"{name}, networks": network for name, network in networks.items()}
    seconds = time_interleaved({**jobs, **alone}, device, rounds)
    clock = "ms" if device.type == "cuda" else "CPU ms"
    print(f"\nbatch {next(iter(configs.values())).train.batch}\n")
    print(f"| system | step, {clock}, median (range) | its networks alone | step / networks "
          "| GFLOP | of networks | memory MB |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    table = {}
    for name, job in jobs.items():
        row: dict[str, Any] = {"seconds": seconds[name], "flop": count_flops(job)}
        row["memory"] = peak_memory(job, device)
        cells = ["-", "-", "-"]
        if name in networks:
            row["networks"] = seconds[f"{name}, networks"]
            row["flop_of_networks"] = count_flops(networks[name])
            row["ratio"] = median(row["seconds"]) / median(row["networks"])
            cells = [format_milliseconds(row["networks"]), f"{row['ratio']:.2f}"]
            cells.append(f"{row['flop_of_networks'] / 1e9:.1f}")
        table[name] = row
        print(
            f"| {name} | {format_milliseconds(row['seconds'])} | {cells[0]} | {cells[1]} "
            f"| {row['flop'] / 1e9:.1f} | {cells[2]} | {_megabytes(row['memory'])} |"
        )
    return table


def _use(config: Config, device: torch.device, rounds: int) -> dict[str, float]:
    """Scenes per second when decomposing (refined, where the preset refines) and generating."""
    model = scene_model.build(config, device)
    source = GeneratedScenes(replace(config.scenes, size=config.model.size), 1, 256, "train")
    images = source.images(torch.arange(256))
    jobs: dict[str, Job] = {
        "decompose": lambda: model.decompose(images),
        "generate": lambda: source.images(torch.arange(256)),
    }
    seconds = time_interleaved(jobs, device, max(3, rounds // 3), warmup=1)
    rates = {name: 256 / median(times) for name, times in seconds.items()}
    print("\n" + ", ".join(f"{name}: {rate:.0f} scenes/s" for name, rate in rates.items()))
    return rates


def _start(preset: str, device: torch.device) -> float:
    """Wall-clock seconds from a new interpreter to the end of the first training step."""
    here = Path(__file__).resolve().parent / "svi_train.py"
    code = (
        "import runpy, sys; from econ_pyro.training.learner import Learner as L; step = L.step\n"
        "def once(self, *a): step(self, *a).loss.item(); sys.exit('stepped')\n"
        f"L.step = once; sys.argv = sys.argv[1:]; runpy.run_path({str(here)!r}, None, '__main__')"
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = [preset, "--device", str(device), "--run", f"{folder}/run"]
        began = time.perf_counter()
        command = [sys.executable, "-c", code, "svi_train.py", *arguments]
        found = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - began
    if not found.stderr.endswith("stepped\n"):
        raise RuntimeError(f"training did not stop after its first step:\n{found.stderr[-2000:]}")
    print(f"\nfrom a new interpreter to the end of the first step: {seconds:.1f} s")
    return seconds


def _scale(config: Config, device: torch.device, rounds: int) -> dict[str, Any]:
    config = replace(config, compile=False)  # sixteen shapes would take minutes each
    model, train = config.model, config.train
    axes: dict[str, dict[int, Config]] = {
        axis: {n: replace(config, model=replace(model, **{name: n})) for n in values}
        for axis, name, values in (
            ("K", "num_experts", (2, 4, 8, 16)),
            ("T", "num_slots", (2, 4, 6, 8)),
            ("image", "size", (16, 32, 64, 128)),
        )
    }
    batches = (8, 32, 128, 256)
    axes["batch"] = {n: replace(config, train=replace(train, batch=n)) for n in batches}
    found: dict[str, Any] = {}
    for axis, configs in axes.items():
        steps = {str(value): _Steps(c, device) for value, c in configs.items()}
        jobs = {value: s.train for value, s in steps.items()}
        seconds = time_interleaved(jobs, device, max(3, rounds // 3), warmup=2)
        memory = {v: peak_memory(s.train_uncaptured, device) for v, s in steps.items()}
        with_gradients = {v: peak_memory(s.gradients(), device) for v, s in steps.items()}
        print(f"\n| {axis} | ms, median (range) | memory MB | of the gradient pass |")
        print("|---|---|---|---|")
        for v, times in seconds.items():
            amounts = f"{_megabytes(memory[v])} | {_megabytes(with_gradients[v])}"
            print(f"| {v} | {format_milliseconds(times)} | {amounts} |")
        values = [float(v) for v in steps]
        a, b, r2 = fit_line(values, [1e3 * median(t) for t in seconds.values()])
        if axis in ("K", "T"):
            print(f"\nms = {a:.1f} + {b:.1f} {axis}, R^2 {r2:.3f}")
        found[axis] = {
            "seconds": seconds,
            "memory": memory,
            "memory_of_gradient_pass": with_gradients,
            "fit": [a, b, r2],
        }
    return found


def _megabytes(amount: int | None) -> str:
    return "?" if amount is None else f"{amount / 1e6:.0f}"


if __name__ == "__main__":
    cli.run(main)
