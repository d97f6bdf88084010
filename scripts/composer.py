"""Serve a web page to decompose images and compose scenes: ``python scripts/composer.py RUN``.

Open the printed address to decompose images, edit their layers, compose new scenes and view
samples of each expert. Only this machine can open the page, which loads nothing from other hosts.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from econ_pyro import cli
from econ_pyro.accel import malloc
from econ_pyro.data.synthetic.renderer import SceneRenderer
from econ_pyro.econ import Econ, load
from econ_pyro.io import familiarity, scene_file
from econ_pyro.io.pretrained import find
from econ_pyro.training.run_config import read_config
from econ_pyro.ui import server, uploads


@dataclass(frozen=True)
class Args:
    """Model and address of the page."""

    run: tyro.conf.Positional[str]
    """Folder of a trained run or of published weights, name of shipped weights, or hf:OWNER/NAME
    on the Hugging Face hub."""
    port: int | None = None
    """Port; default: the first free one from 7860."""
    host: str = server.LOOPBACK
    """Address to bind. Addresses other than 127.0.0.1 give access to other machines; there is no
    password."""
    device: str = "auto"
    """auto, cpu or cuda."""
    screenshots: Path | None = None
    """Folder for screenshots of each tab; exit when they are written (requires playwright and
    Chromium)."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    server.check_address(parsed.host, parsed.port)
    server.gradio()
    from econ_pyro.ui import markup, page

    econ = load(parsed.run, cli.pick_device(parsed.device))
    malloc.return_memory()
    with uploads.folder() as folder:
        usual = familiarity.validation_nats(find(parsed.run))
        blocks = page.build(
            econ, lambda x: _decompose(econ, x, usual), _examples(econ, parsed.run)
        )
        address = server.serve(blocks, folder, parsed.host, parsed.port, markup.CSS)
        try:
            if parsed.screenshots is not None:
                from econ_pyro.ui.browser import screenshots

                for path in screenshots(address, parsed.screenshots):
                    print(path)
                return
            print(f"{address} (Ctrl-C stops)", flush=True)
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)


def _decompose(econ: Econ, image: Tensor, usual: float | None) -> tuple[scene_file.Scene, str]:
    d = econ.decompose(image)
    return scene_file.of_decomposition(d), familiarity.warnings_of(d, usual)[0]


def _examples(econ: Econ, run: str) -> Callable[[int], Tensor] | None:
    """Generator of scenes as in training; None if the run was trained on images."""
    trained = read_config(find(run))
    if trained.data is not None or econ.config.scenes.size != econ.config.model.size:
        return None
    # differs from the seeds of training and validation
    renderer = SceneRenderer(econ.config.scenes, econ.config.seed + 1_000_003)
    return lambda number: renderer.render(torch.tensor([number])).image


if __name__ == "__main__":
    cli.run(main)
