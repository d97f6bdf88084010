r"""The paper's model, trained with nothing hidden: ``python scripts/train_minimal.py``.

Read this file first, beside the paper (arXiv:2004.12906). A training step has two halves:

1. The experts compete (section 5.2), without gradients. Front to back, all K experts propose an
   explanation of the scope s_t, which is what the nearer layers left; one wins the layer.
2. The winners learn. The class-conditional ELBO of the selected experts (Eq. 13) is one loss, and
   Adam takes a gradient step. Losers are not in the graph and stay as they are.

The model p (:mod:`econ_pyro.models.dead_leaves`) and the guide q
(:mod:`econ_pyro.guides.amortized`) are Pyro programs of images x and experts k. The tests hold
this file to the package: its competition is ``GreedyCompetition``, its step that of
``CompetitiveSVI``, its losses those of ``svi_train.py paper-unique-colours-swapped --no-amp``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyro
import torch
import tyro
from torch import Tensor

from econ_pyro import cli, errors
from econ_pyro.core.compositing import next_scope
from econ_pyro.core.distributions import PROB_EPS
from econ_pyro.core.selection import Selection, draw_gumbel
from econ_pyro.data.splits import batch_indices
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.guides.amortized import AmortizedGuide
from econ_pyro.infer.competition import GreedyCompetition
from econ_pyro.infer.elbo import ClassConditionalELBO
from econ_pyro.model_config import (
    EconConfig,
    ExpertConfig,
    FreeLatents,
    GreedyOptions,
    UNetAttention,
)
from econ_pyro.models.dead_leaves import DeadLeaves
from econ_pyro.scene_config import SceneConfig
from econ_pyro.viz import figures

SCENES = 50_000  # rendered as they are needed
BETA, GAMMA = 0.52, 9.54  # Eq. 13; appendix C.4 prints them the other way round
LAMBDA = TEMPERATURE = 1.0  # section 5.2
MODEL = EconConfig(
    num_experts=4,  # K: three classes of object and a background
    num_slots=4,  # T
    expert=ExpertConfig(  # appendix C.2
        latents=FreeLatents(dim=2),
        layers=4,
        shape_bias=0.0,
        attention=UNetAttention(bias=0.0),
    ),
    competition=GreedyOptions(lam=LAMBDA, temperature=TEMPERATURE),
)


@dataclass(frozen=True)
class Args:
    """How long to train, and on what."""

    steps: int = 1000
    """Training steps, of about two seconds of CPU time each."""
    batch: int = 32
    """Scenes per training step."""
    every: int = 20
    """Training steps per line of output, which shows their mean loss."""
    size: int = 32
    """Height and width of the scenes in pixels: a multiple of 16."""
    lr: float = 5e-4
    """Learning rate of Adam."""
    seed: int = 0
    """Seed of weights, scenes and random draws."""
    figure: Path | None = None
    """PNG file to write at the end, with one validation scene taken apart."""


@torch.no_grad()
def compete(model: DeadLeaves, guide: AmortizedGuide, x: Tensor) -> Selection:
    """Section 5.2: select an expert for each layer of each image, ``(B, 3, H, W)``."""
    scenes, slots, experts = len(x), model.num_slots, model.num_experts
    noise = torch.randn(scenes, slots, model.latent_dim)  # of each layer's latent
    gumbel = draw_gumbel((scenes, slots, experts), x)
    s_t, layers = torch.ones_like(x[:, :1]), []  # s_T = 1: everything is still to be explained
    for i in range(slots):  # layer t = T - i
        if i < slots - 1:
            r = guide.attend_all(x, s_t)  # Eq. 9 by every expert, (B, K, 1, H, W)
        else:
            r = s_t[:, None].expand(-1, experts, -1, -1, -1)  # footnote 7
        q_z = guide.encode_all(x, r, noise[:, i])  # q(z | x, r, k), batch (B, K)
        mean, shape = model.decode_all(q_z.rsample())  # Eqs. 5 and 4
        squared_error = (x[:, None] - mean).square().sum(2, keepdim=True)
        l_x = (r * squared_error).sum((2, 3, 4)) / (2 * model.pixel_noise.sigma**2)  # Eq. 10
        l_r = bernoulli_kl(r, s_t[:, None] * shape).sum((2, 3, 4))  # Eqs. 7 and 12
        losses = LAMBDA * l_x + l_r
        # P(k) ~ exp(-losses / temperature), by the Gumbel-max trick
        k_hat = (gumbel[:, i] - losses / TEMPERATURE).argmax(1)
        r_t = r[torch.arange(scenes), k_hat]
        layers.append((k_hat, losses, r_t))
        s_t = next_scope(s_t, r_t)  # Eq. 14
    k, all_losses, region = (torch.stack(part, 1) for part in zip(*layers, strict=True))
    return Selection(k, noise, seed_pixel=None, losses=all_losses, region=region)


def bernoulli_kl(q: Tensor, p: Tensor) -> Tensor:
    """KL(Bern(q) || Bern(p)) at each pixel."""
    taken = q * ((q + PROB_EPS) / (p + PROB_EPS)).log()
    return taken + (1 - q) * ((1 - q + PROB_EPS) / (1 - p + PROB_EPS)).log()


def train(
    model: DeadLeaves, guide: AmortizedGuide, scenes: GeneratedScenes, args: Args
) -> Iterator[float]:
    """Train both, and yield the loss of each step: Eq. 13 negated, mean over scenes, in nats."""
    elbo = ClassConditionalELBO(beta=BETA, gamma=GAMMA)
    optim = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=args.lr)
    for step in range(args.steps):
        x = scenes.images(batch_indices(len(scenes), args.batch, step, args.seed))
        won = compete(model, guide, x)
        # guide and model are traced with the noise that the winners competed with
        loss = elbo.differentiable_loss(model, guide.given(won), x, won.k)
        optim.zero_grad(set_to_none=True)  # Adam would move losers that have gradients of zero
        loss.backward()
        optim.step()
        yield loss.item()


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    model_config, scene_config = replace(MODEL, size=parsed.size), SceneConfig(size=parsed.size)
    torch.manual_seed(parsed.seed)
    model, guide = DeadLeaves(model_config), AmortizedGuide(model_config)
    for name in ("steps", "batch", "every"):
        errors.check_positive(f"--{name}", getattr(parsed, name))
    scenes, losses = GeneratedScenes(scene_config, parsed.seed, SCENES), []
    torch.manual_seed(parsed.seed)  # of the random draws, whatever the size of the networks
    # Adam holds the parameters: nothing goes into Pyro's store
    with pyro.settings.context(module_local_params=True):
        for step, loss in enumerate(train(model, guide, scenes, parsed), 1):
            losses.append(loss)
            if step % parsed.every == 0 or step == parsed.steps:
                print(f"step {step:5d}   loss {sum(losses) / len(losses):9.1f} nats", flush=True)
                losses.clear()
    if parsed.figure is not None:
        x = GeneratedScenes(scene_config, parsed.seed, 1, "valid").images(torch.tensor([0]))
        d = GreedyCompetition(MODEL.num_slots, LAMBDA).decompose(model, guide, x)
        names = [f"expert-{k}" for k in range(MODEL.num_experts)]
        figures.decomposition_strip(d, names, parsed.figure)


if __name__ == "__main__":
    cli.run(main)
