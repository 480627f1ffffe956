"""How long to train, and how fast to learn meanwhile."""

from __future__ import annotations

import math
from dataclasses import dataclass

LONGEST_WARM_UP = 0.05  # of the budget
DEFAULT_LR = {"sgd": 1.0, "momentum": 0.3, "rmsprop": 1e-3, "adagrad": 1e-2, "adam": 5e-3, "adamw": 5e-3}


@dataclass(frozen=True)
class Budget:
    """Limits of a run, any of them None; the first one reached ends it."""

    epochs: float | None
    minutes: float | None
    steps: int | None

    def fraction(self, epochs: float, seconds: float, steps: int) -> float:
        """How much of the budget is used, from 0 to 1."""
        shares = [0.0]
        if self.epochs is not None:
            shares.append(epochs / self.epochs)
        if self.minutes is not None:
            shares.append(seconds / (60 * self.minutes))
        if self.steps is not None:
            shares.append(steps / self.steps)
        return min(1.0, max(shares))


def learning_rate(peak: float, schedule: str, warmup: int, fraction: float, step: int) -> float:
    """The rate of update `step` (from 0): a linear rise over `warmup` steps, then constant or half a cosine.

    The rise takes at most a twentieth of the budget. With minutes as the budget the cosine follows the clock,
    so that no two runs are equal; with epochs or steps they are.
    """
    shape = 0.5 * (1 + math.cos(math.pi * fraction)) if schedule == "cosine" else 1.0
    return peak * shape * min(1.0, max((step + 1) / (warmup + 1), fraction / LONGEST_WARM_UP))
