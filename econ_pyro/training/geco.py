r"""GECO: the weight of the KL follows a bound on the reconstruction error (GENESIS).

With the moving average :math:`\bar L` of L_x over training steps and a goal g for it,

.. math:: \bar L \leftarrow \alpha \bar L + (1 - \alpha) L_x, \qquad
          \beta \leftarrow \beta \exp(\eta \, (g - \bar L))

(Rezende and Viola, 2018): while the error is above the goal, the KL counts less and less. Below it
the rate eta is larger, so that beta comes back faster than it went.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.infer.elbo import ClassConditionalELBO
from econ_pyro.infer.svi import Step
from econ_pyro.model_config import GecoConfig
from econ_pyro.training.callbacks import Callback

LARGEST = 1e10  # of beta, so that it stays a number that can come back


class Geco(Callback):
    """Sets beta before each step.

    Args:
        config: goal and rates.
        elbo: whose beta is set.
        size: height and width of the image.
        group: processes that share each batch.
    """

    name = "geco"

    def __init__(
        self, config: GecoConfig, elbo: ClassConditionalELBO, size: int, group: ProcessGroup
    ) -> None:
        self.config, self.elbo, self.group = config, elbo, group
        self.goal = config.goal * 3 * size**2
        self.rate = config.rate * (64 / size) ** 2
        self.beta, self.error, self.steps = config.start, 0.0, 0

    def before_step(self, step: int, horizon: int) -> None:
        """Set beta."""
        self.elbo.beta = self.beta

    def after_step(self, step: int, result: Step, horizon: int) -> None:
        """Follow the error of the step."""
        error = self.group.sum(result.terms.x.sum(1).mean().double()).item() / self.group.size
        past = self.config.smoothing if self.steps else 0.0
        self.error = past * self.error + (1 - past) * error
        self.steps += 1
        below = self.goal - self.error
        rate = self.rate * (self.config.speed_up if below > 0 else 1.0)
        # exp overflows beyond 709
        factor = math.exp(min(rate * below, 50.0))
        self.beta = min(max(self.beta * factor, self.config.smallest), LARGEST)

    def metrics(self) -> dict[str, float]:
        """The error that the weight follows."""
        return {"geco_error": self.error}

    def state(self) -> dict[str, Any]:
        """Weight, average and number of its steps."""
        numbers = torch.tensor([self.beta, self.error, self.steps], dtype=torch.float64)
        return {"numbers": numbers}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.beta, self.error, steps = state["numbers"].tolist()
        self.steps = int(steps)
