"""Loss, perplexity and bits per character of a text."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from throughtime.tasks.lm.batches import IGNORED, Lines, Reading
from throughtime.tasks.lm.corpus import Text
from throughtime.tasks.lm.model import LanguageModel, State, map_state
from throughtime.tasks.lm.vocabulary import Vocabulary

STREAMS = 64  # pieces of the text that are read side by side
WARM_UP = 256  # units each piece reads before its first counted one, so that its state is not cold
STEPS = 128  # time steps per call
PIECES = 20  # that stand for a long text


@dataclass(frozen=True)
class Score:
    """Summed cross-entropy of a text. nats: total; units: predicted ones; characters: of the text."""

    nats: float
    units: int
    characters: int
    unknown_rate: float

    @property
    def loss(self) -> float:
        """Nats per unit."""
        return self.nats / self.units

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite when that is too large for a float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_character(self) -> float:
        """Bits per character of text, whatever the unit."""
        return self.nats / math.log(2) / self.characters


def thinned(text: Text, vocabulary: Vocabulary, units: int, by_line: bool) -> Text:
    """A part of `text` of about `units` units that stands for all of it: every k-th line, or 20 even pieces."""
    if len(text.ids) <= units:
        return text
    if by_line:
        ends = np.flatnonzero(text.ids == vocabulary.start) + 1
        parts = np.split(text.ids, ends[:-1])[:: -(-len(text.ids) // units)]
    else:
        begins = np.linspace(0, len(text.ids) - units // PIECES, PIECES).astype(int)
        parts = [text.ids[begin : begin + units // PIECES] for begin in begins]
    ids = np.concatenate(parts)
    # Of a word or byte text the characters of a part are not known; the part's share of all is.
    share = len(ids) / len(text.ids)
    return Text(ids, len(ids) if vocabulary.unit == "char" else max(1, round(text.characters * share)))


@torch.no_grad()
def evaluate(model: LanguageModel, text: Text, vocabulary: Vocabulary, by_line: bool) -> Score:
    """Predict every unit of `text` once: the first from the start of a line, each other from all before it.

    Long texts are read in pieces side by side; each piece first reads the 256 units before it. By line, the
    state starts afresh at each line.
    """
    training = model.training
    model.eval()
    measure = _lines if by_line else _streams
    nats = measure(model, text, vocabulary)
    model.train(training)
    return Score(nats, len(text.ids), text.characters, text.unknown_rate(vocabulary))


def _streams(model: LanguageModel, text: Text, vocabulary: Vocabulary) -> float:
    ids = torch.from_numpy(text.ids.astype(np.int64))
    pieces = max(1, min(STREAMS, len(ids) // (4 * WARM_UP)))
    length = -(-len(ids) // pieces)
    padded = ids.new_full((pieces * length,), IGNORED)
    padded[: len(ids)] = ids
    targets = padded.view(pieces, length).T  # [T, B]
    before = torch.cat((ids.new_tensor([vocabulary.start]), padded[:-1]))
    inputs = before.view(pieces, length).T.clamp(min=0)
    state = _warm_state(model, before, pieces, length) if pieces > 1 else None
    nats = 0.0
    for first in range(0, length, STEPS):
        here = slice(first, first + STEPS)
        features, state = model(inputs[here], state)
        nats += model.nats(features, targets[here])
    return nats


def _warm_state(model: LanguageModel, before: Tensor, pieces: int, length: int) -> State:
    """The state in which each piece begins; zero for the first one."""
    begins = torch.arange(1, pieces) * length
    place = begins + torch.arange(-WARM_UP, 0)[:, None]  # [T, B - 1]
    state: State
    _, state = model(before[place])
    return map_state(lambda part: torch.cat((torch.zeros_like(part[:, :1]), part), dim=1), state)


def _lines(model: LanguageModel, text: Text, vocabulary: Vocabulary) -> float:
    lines = Lines(Reading(text.ids, vocabulary.start, rare_unknown=False), STREAMS, STEPS, seed=0)
    state: State | None = None
    nats = 0.0
    for index in range(lines.windows_in(0)):
        window = lines.window(0, index)
        assert window.lengths is not None
        lengths = torch.from_numpy(window.lengths)
        features, state = model(torch.from_numpy(window.inputs), None if window.fresh else state, lengths)
        nats += model.nats(features, torch.from_numpy(window.targets))
    return nats
