"""Text from a model, one unit at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from throughtime.tasks.errors import UsageError
from throughtime.tasks.lm.model import LanguageModel, State
from throughtime.tasks.lm.vocabulary import UNKNOWN, Vocabulary

PRIME_STEPS = 256  # time steps per call while the prime is read


@dataclass(frozen=True)
class Choice:
    """How the next unit is drawn. temperature 0 takes the likeliest; top_k, top_p None: all units."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"--temperature {self.temperature}: give a number from 0 (always the likeliest) up")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"--top-k {self.top_k}: give at least 1, or leave it out to choose among all")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p}: give a probability above 0 and at most 1")

    def draw(self, scores: NDArray[np.float64], generator: np.random.Generator) -> int:
        """A number drawn from the scores [V]; -inf is never drawn."""
        if self.temperature == 0:
            return int(scores.argmax())
        order = np.argsort(-scores, kind="stable")[: self.top_k]
        weights = np.exp((scores[order] - scores[order[0]]) / self.temperature)
        cumulative = np.cumsum(weights / weights.sum())
        if self.top_p is not None:
            kept = int(np.searchsorted(cumulative, self.top_p)) + 1
            cumulative = cumulative[:kept]
        place = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
        return int(order[min(place, len(cumulative) - 1)])


@torch.inference_mode()
def generate(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prime: str,
    choice: Choice,
    generator: np.random.Generator,
    by_line: bool,
) -> Iterator[int]:
    """Numbers of units, without end, as they follow `prime` (if empty: the start of a line).

    The unknown unit is never drawn. By line, the state starts afresh after each line end, as in training.
    """
    model.eval()
    read = [vocabulary.start, *vocabulary.encode(prime).tolist()]
    if by_line:
        read = read[len(read) - 1 - read[::-1].index(vocabulary.start) :]
    state: State | None = None
    for first in range(0, len(read), PRIME_STEPS):
        features, state = model(torch.tensor(read[first : first + PRIME_STEPS])[:, None], state)
    while True:
        scores = model.logits(features[-1, 0]).double().cpu().numpy()
        if vocabulary.unit != "byte":
            scores[UNKNOWN] = -np.inf
        number = choice.draw(scores, generator)
        yield number
        if by_line and number == vocabulary.start:
            state = None
        features, state = model(torch.tensor([[number]]), state)


def until(pieces: Iterable[str], stop: str | None) -> Iterator[str]:
    """The pieces up to, and without, the text `stop`; what may be its beginning is held back."""
    if not stop:
        yield from pieces
        return
    held = ""
    for piece in pieces:
        held += piece
        at = held.find(stop)
        if at >= 0:
            yield held[:at]
            return
        keep = next((n for n in range(min(len(stop) - 1, len(held)), 0, -1) if stop.startswith(held[-n:])), 0)
        yield held[: len(held) - keep]
        held = held[len(held) - keep :]
    yield held


def unknown_in(text: str, vocabulary: Vocabulary) -> list[str]:
    """The units of `text` the model does not know, each once, in order of appearance."""
    if vocabulary.unit == "byte":
        return []
    return list(dict.fromkeys(token for token in vocabulary.split(text) if token not in vocabulary))
