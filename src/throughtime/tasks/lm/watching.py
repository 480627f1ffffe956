"""--watch: how far error flows back in time, now and then while a model trains."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor

from throughtime import inspect
from throughtime.inspect.flow import EXPLODED, VANISHED
from throughtime.tasks.lm.model import LanguageModel
from throughtime.tasks.lm.vocabulary import Ids

SEQUENCES = 4
SHARE = 0.02
"""Of the time of training, at most, between evaluations."""
SHORT = 4
"""Error that vanishes within this part of --bptt, a quarter, is worth a warning."""
CELLS, LEVELS = 12, "▁▂▃▄▅▆▇█"
WITHOUT_GATES = "Elman"


class ErrorWatch:
    """Looks at a few pieces of the training text, always the same ones, with the state starting at zero. It changes
    neither the model nor any random number: training is the same bits with it and without."""

    def __init__(self, model: LanguageModel, ids: Ids, bptt: int) -> None:
        self._model, self._bptt = model, min(bptt, len(ids) - 1)
        starts = np.linspace(0, len(ids) - self._bptt - 1, SEQUENCES).astype(int)
        pieces = np.stack([ids[s : s + self._bptt + 1] for s in starts], 1).astype(np.int64)
        self._inputs, self._targets = torch.from_numpy(pieces[:-1]), torch.from_numpy(pieces[1:])
        self._found: list[inspect.Reach] = []
        self._cost, self._last = 0.0, -math.inf
        self._told: set[tuple[str, str]] = set()

    @property
    def due(self) -> bool:
        """Whether enough time has passed for another look to cost little."""
        return time.monotonic() - self._last > self._cost / SHARE

    def look(self) -> None:
        """Follows the error of the last step of every piece back through time."""
        started = time.monotonic()
        training = self._model.training
        self._model.eval()
        try:
            self._found = inspect.reach(self._model, self._inputs, loss=self._errors)
        finally:
            self._model.train(training)
        self._last = time.monotonic()
        self._cost = self._last - started

    def _errors(self, features: Tensor) -> Tensor:
        """Nats of every step; only those of the last can be needed, the others are 0."""
        last = torch.nn.functional.cross_entropy(self._model.logits(features[-1]), self._targets[-1], reduction="none")
        return torch.cat([torch.zeros_like(features[:-1, :, 0]), last.unsqueeze(0)])

    @property
    def strip(self) -> str:
        """A bar for each layer: from the newest step on the left to the oldest, on a logarithmic scale."""
        return " ".join(_strip(found.by_lag) for found in self._found)

    @property
    def lines(self) -> list[str]:
        """The same with its meaning in words, a line for each layer."""
        return [f"error flow, {found.name} {_strip(found.by_lag)} {self._fate(found)}" for found in self._found]

    def _fate(self, found: inspect.Reach) -> str:
        if found.vanished_after is not None:
            return f"vanishes after {found.vanished_after} of {_steps(self._bptt)}"
        if found.exploded_after is not None:
            return f"explodes after {found.exploded_after} of {_steps(self._bptt)}"
        left = found.by_lag[~found.by_lag.isnan()]
        return f"{float(left[-1]):.0%} left after {_steps(self._bptt)}" if len(left) else "no error"

    def warnings(self) -> list[str]:
        """A sentence for everything that is wrong and has not been told before."""
        sentences: list[str] = []
        for found in self._found:
            ungated = found.cell == WITHOUT_GATES
            if found.exploded_after is not None:
                cure = "a smaller --lr or --clip" + (", gru or lstm, orthogonal init" if ungated else "")
                self._tell(sentences, found, "explodes", found.exploded_after, cure)
            elif found.vanished_after is not None and found.vanished_after * SHORT <= self._bptt:
                cure = "gru or lstm, or orthogonal init" if ungated else "longer training, or fewer layers"
                self._tell(sentences, found, "vanishes", found.vanished_after, cure)
        return sentences

    def _tell(self, sentences: list[str], found: inspect.Reach, fate: str, steps: int, cure: str) -> None:
        if (found.name, fate) not in self._told:
            self._told.add((found.name, fate))
            sentences.append(f"error {fate} after {steps} of {_steps(self._bptt)} in {found.name}; consider {cure}")


def _steps(count: int) -> str:
    return f"{count} step" + "s" * (count > 1)


def _strip(by_lag: Tensor) -> str:
    """Cells from full (all of the error) to low (a hundredth or less); ! where it has grown a hundredfold."""
    values = by_lag[~by_lag.isnan()].clamp(min=1e-30)
    spelled = ""
    for part in torch.tensor_split(values, min(CELLS, len(values))) if len(values) else []:
        size = float(part.log().mean().exp())
        if size > EXPLODED:
            spelled += "!"
            continue
        level = 1 - math.log(min(size, 1.0)) / math.log(VANISHED)
        spelled += LEVELS[max(0, min(len(LEVELS) - 1, round(level * (len(LEVELS) - 1))))]
    return spelled
