"""Time the training step against a plain one: ``python scripts/benchmark.py quick``.

Any field of the preset can be set, as for ``svi_train.py``: ``--train.batch 256``, say.

All rows of a table are timed in one process, in turns, beside a matrix product that measures the
machine's own peak in the same minutes.
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
from torch import Tensor, nn

from econ_pyro import cli, errors
from econ_pyro.accel import cpu_cores
from econ_pyro.accel.amp import has_bfloat16
from econ_pyro.accel.execution import Execution
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
from econ_pyro.econ import Econ
from econ_pyro.files import storage
from econ_pyro.guides.norm import InstanceNormReLU2d
from econ_pyro.infer.cuda_graph_svi import CudaGraphSVI
from econ_pyro.infer.elbo import ClassConditionalELBO
from econ_pyro.infer.reference import plain_loss
from econ_pyro.infer.svi import CompetitiveSVI
from econ_pyro.model_config import EconConfig
from econ_pyro.training.learner import Learner

Job = Callable[[], object]
PEAK = "matrix product"
EVEN = 1e12  # a temperature in nats, at which no cost counts


@dataclass(frozen=True)
class Args(Config):
    """What to time."""

    preset: tyro.conf.Suppress[str] = ""
    """Name of the preset whose step is timed."""
    device: str = "auto"
    """auto, cpu or cuda."""
    rounds: int = 15
    """Timed turns of each row."""
    scaling: bool = False
    """Also the step over numbers of experts and layers, image sizes and batches."""
    out: Path | None = None
    """JSON file for the figures."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = cli.of_preset(Args, args, __doc__)
    errors.check_positive("--rounds", parsed.rounds)
    if parsed.out is not None:
        storage.check_writable(parsed.out)
    device = cli.pick_device(parsed.device)
    config = cli.config_of(parsed)
    if config.compile and device.type == "cpu":
        cpu_cores.use_cores(intra_op=True)
    with pyro.validation_enabled(False):
        figures: dict[str, Any] = {"machine": _machine(device), "preset": parsed.preset}
        figures["config"] = to_dict(config)
        figures["step"] = _compare(config, device, parsed.rounds)
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
    cores = max(cpu_cores.used_cores(), torch.get_num_threads())
    machine = {"device": name, "cores": cores, "torch": torch.__version__}
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    return machine


class _Step:
    """A training step on rendered scenes, plain or the project's own.

    Winners are drawn evenly, whatever they cost: a trained model shares layers out about so, a new
    one does not, and there is as much to compute in every run.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        self.econ = Econ(config, device)
        scenes = replace(config.scenes, size=config.model.size)
        source = GeneratedScenes(scenes, config.seed, config.train.batch, "train")
        self.x = source.images(torch.arange(config.train.batch)).to(device)
        learner = Learner(config, self.econ, device, ProcessGroup())
        assert isinstance(learner.engine, CompetitiveSVI)
        self.svi, self.optim = learner.engine, learner.optim
        self.svi.competition.temperature = EVEN

    @property
    def captured(self) -> bool:
        """Whether its steps are CUDA graphs."""
        return isinstance(self.svi, CudaGraphSVI)

    def plainly(self, elbo: ClassConditionalELBO | None = None) -> CompetitiveSVI:
        """The same without graphs, which hide what they do from counters.

        Args:
            elbo: another objective.
        """
        svi = self.svi
        return CompetitiveSVI(
            svi.model,
            svi.guide,
            self.optim,
            elbo or svi.elbo,
            svi.competition,
            Execution(svi.execution.amp),
        )

    def through_traces(self) -> None:
        """Read the winners' ELBO off Pyro's traces from now on."""
        elbo = self.svi.elbo
        self.svi = self.plainly(ClassConditionalELBO(elbo.beta, elbo.gamma))

    def uncaptured(self) -> Job:
        """A step without graphs."""
        svi = self.plainly()
        return lambda: svi.step(self.x)

    def ours(self) -> None:
        """Competition, then the winners' ELBO."""
        self.svi.step(self.x)

    def half(self) -> Job:
        """The winners' half of a step, over and over for one competition's winners."""
        svi = self.plainly()
        won = svi.compete(self.x)

        def learn() -> None:
            svi.gradients(self.x, won)
            svi.optim.step()

        return learn

    def decompose(self) -> None:
        """The competition and the winners' reconstruction, posterior means, without gradients."""
        self.svi.decompose(self.x)

    def plain(self) -> None:
        """All experts with gradients."""
        svi = self.svi
        noise, gumbel, _ = svi.draw(self.x)
        self.optim.zero_grad(set_to_none=True)
        weights = (svi.elbo.beta, float(svi.elbo.gamma))
        plain_loss(
            svi.model, svi.guide, self.x, noise, gumbel, svi.competition, *weights
        ).loss.backward()
        self.optim.step()


def _compare(config: Config, device: torch.device, rounds: int) -> dict[str, Any]:
    eager = replace(config, cuda_graphs=False, compile=False)
    full, stock, traced, ours = (
        _Step(c, device) for c in (replace(eager, amp=False), eager, eager, config)
    )
    _use_torch_norms(stock.econ.guide)
    traced.through_traces()
    amp = config.amp and has_bfloat16(device)
    peak_dtype = torch.bfloat16 if amp else torch.float32
    precision = str(peak_dtype)[6:]
    steps = {"plain: all experts with gradients, float32": full}
    if amp:
        steps["winners only, float32"] = full
    steps[f"winners only, {precision}, torch's norm"] = stock
    steps[f"winners only, {precision}, through Pyro's traces"] = traced
    graphs = config.cuda_graphs and device.type == "cuda"
    if graphs:
        steps[f"winners only, {precision}, no graphs"] = _Step(eager, device)
    if config.compile:
        plainer = replace(config, compile=False)
        steps[f"winners only, {precision}, not compiled"] = _Step(plainer, device)
    steps[f"econ-pyro: winners only, {precision}"] = ours
    jobs: dict[str, Job] = {name: step.ours for name, step in steps.items()}
    counted = {name: step.uncaptured() for name, step in steps.items()}
    plain, decomposing = next(iter(steps)), "decomposing: competition and reconstruction"
    jobs[plain] = counted[plain] = full.plain
    jobs[decomposing] = ours.decompose
    counted[decomposing] = lambda: ours.plainly().decompose(ours.x)
    size = 8192 if device.type == "cuda" else 1024
    product = matrix_product(device, peak_dtype, size)
    seconds = time_interleaved({**jobs, PEAK: product}, device, rounds)
    # after the steps that were timed: who wins what changes, and with it how much is to be done
    work = {name: count_flops(job) for name, job in counted.items()}
    # graphs have theirs from the start, whatever they are asked for
    memory = {
        name: None
        if graphs and (name == decomposing or steps[name].captured)
        else peak_memory(job, device)
        for name, job in jobs.items()
    }
    cores = cpu_cores.used_cores() if device.type == "cpu" else 1
    peak = cores * 2 * size**3 / median(seconds.pop(PEAK))
    batch, reference = config.train.batch, median(seconds[plain])
    print(f"\npeak ({precision} product of {size}): {peak / 1e9:.0f} GFLOP/s")
    print(f"batch {batch}, K {ours.econ.num_experts}, T {config.model.num_slots}\n")
    print("| step | ms, median (range) | scenes/s | GFLOP | of peak | memory MB | ratio |")
    print("|---|---|---|---|---|---|---|")
    table = {}
    for name, times in seconds.items():
        middle = median(times)
        row = {
            "seconds": times,
            "scenes_per_second": batch / middle,
            "flop": work[name],
            "of_peak": work[name] / middle / peak,
            "memory": memory[name],
            "ratio": reference / middle,
        }
        table[name] = row
        print(
            f"| {name} | {format_milliseconds(times)} | {row['scenes_per_second']:.0f} "
            f"| {work[name] / 1e9:.1f} | {row['of_peak']:.0%} | {_megabytes(memory[name])} "
            f"| {row['ratio']:.1f} |"
        )
    return {"peak_flops": peak, "rows": table}


class _GroupNorm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).relu_()


def _use_torch_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, InstanceNormReLU2d):
            channels = len(child.weight)
            setattr(module, name, _GroupNorm(channels, channels, device=child.weight.device))
        else:
            _use_torch_norms(child)


def _use(config: Config, device: torch.device, rounds: int) -> dict[str, float]:
    """Scenes a second when decomposing and when drawing."""
    step = _Step(config, device)
    scenes = replace(config.scenes, size=config.model.size)
    source = GeneratedScenes(scenes, 1, 4096, "train")
    images = source.images(torch.arange(256))
    drawn = torch.arange(4096)
    jobs: dict[str, Job] = {
        "decompose": lambda: step.econ.decompose(images),
        "draw": lambda: source.images(drawn),
    }
    seconds = time_interleaved(jobs, device, max(3, rounds // 3), warmup=1)
    rates = {
        "decompose": len(images) / median(seconds["decompose"]),
        "draw": len(drawn) / median(seconds["draw"]),
    }
    print("\n" + ", ".join(f"{name}: {rate:.0f} scenes/s" for name, rate in rates.items()))
    return rates


def _start(preset: str, device: torch.device) -> float:
    """Seconds from a new interpreter to the end of the first step."""
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
    assert isinstance(model, EconConfig)
    axes: dict[str, dict[int, Config]] = {
        "K": {k: replace(config, model=replace(model, num_experts=k)) for k in (2, 4, 8, 16)},
        "T": {t: replace(config, model=replace(model, num_slots=t)) for t in (2, 4, 6, 8)},
        "image": {s: replace(config, model=replace(model, size=s)) for s in (16, 32, 64, 128)},
        "batch": {b: replace(config, train=replace(train, batch=b)) for b in (8, 32, 128, 256)},
    }
    found: dict[str, Any] = {}
    for axis, configs in axes.items():
        steps = {str(value): _Step(c, device) for value, c in configs.items()}
        seconds = time_interleaved(
            {v: s.ours for v, s in steps.items()}, device, max(3, rounds // 3), warmup=2
        )
        memory = {v: peak_memory(s.uncaptured(), device) for v, s in steps.items()}
        with_gradients = {v: peak_memory(s.half(), device) for v, s in steps.items()}
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
