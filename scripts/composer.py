"""A page to compose scenes: ``python scripts/composer.py RUN``, then open the address it prints.

Take images apart and rearrange their layers, compose new scenes, and see what each expert knows.
The page is served to this machine alone, and loads nothing from elsewhere.
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
from econ_pyro.io import scene_file
from econ_pyro.io.pretrained import find
from econ_pyro.training.run_config import read_config
from econ_pyro.ui import server, uploads


@dataclass(frozen=True)
class Args:
    """What to serve, and where."""

    run: tyro.conf.Positional[str]
    """Trained weights: the folder of a run, or whatever else ``econ_pyro.load`` takes."""
    port: int | None = None
    """Port; the first free one from 7860 on if not given."""
    host: str = server.LOOPBACK
    """Address to bind. Others than 127.0.0.1 let other machines in: there is no password."""
    device: str = "auto"
    """auto, cpu or cuda."""
    screenshots: Path | None = None
    """Instead of waiting, write a PNG of each tab here (needs playwright and Chromium)."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    server.check_address(parsed.host, parsed.port)
    server.gradio()
    from econ_pyro.ui import markup, page

    econ = load(parsed.run, cli.pick_device(parsed.device))
    malloc.return_memory()
    with uploads.folder() as folder:
        blocks = page.build(econ, lambda x: _decompose(econ, x), _examples(econ, parsed.run))
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


def _decompose(econ: Econ, image: Tensor) -> scene_file.Scene:
    return scene_file.of_decomposition(econ.decompose(image))


def _examples(econ: Econ, run: str) -> Callable[[int], Tensor] | None:
    """Scenes as the run was trained on; of a run on someone's own images there are none."""
    trained = read_config(find(run))
    if trained.data is not None or econ.config.scenes.size != econ.config.model.size:
        return None
    # not a seed of training or validation
    renderer = SceneRenderer(econ.config.scenes, econ.config.seed + 1_000_003)
    return lambda number: renderer.render(torch.tensor([number])).image


if __name__ == "__main__":
    cli.run(main)
