"""The language model: embedding or one-hot -> recurrent layers -> linear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.tasks.lm.batches import IGNORED

if TYPE_CHECKING:
    from throughtime import Cell

LayerState = Tensor | tuple[Tensor, ...]  # [L, B, H], or one such tensor for each state of the cell
State = list[LayerState]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. embedding 0: one-hot input. hidden: the width of each recurrent layer."""

    units: int
    embedding: int
    hidden: tuple[int, ...]
    dropout: float


class LanguageModel(nn.Module):
    """Predicts the next unit from all before it.

    Inputs are int64 [T, B]. Layers of one width form one stack; the state is a list with one entry per stack.
    """

    def __init__(self, cell: Cell, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.units, shape.embedding) if shape.embedding else None
        runs = [(width, len(list(same))) for width, same in groupby(shape.hidden)]
        widths = [shape.embedding or shape.units, *(width for width, _ in runs)]
        self.recurrent = nn.ModuleList(
            tt.Recurrent(cell, inner, width, num_layers=layers, dropout=shape.dropout if layers > 1 else 0.0)
            for (inner, width), (_, layers) in zip(pairwise(widths), runs, strict=True)
        )
        self.dropout = nn.Dropout(shape.dropout)
        self.output = nn.Linear(shape.hidden[-1], shape.units)

    @property
    def device(self) -> torch.device:
        """Where the weights are; inputs and targets may be elsewhere."""
        return self.output.weight.device

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Features [T, B, H] that the output layer reads, and the state after each sequence's last step."""
        # One-hot input stays a number [T, B]; embedded input is [T, B, I].
        inputs, lengths = inputs.to(self.device), None if lengths is None else lengths.to(self.device)
        features = inputs if self.embedding is None else self.dropout(self.embedding(inputs))
        after: State = []
        for k, stack in enumerate(self.recurrent):
            features, stack_state = stack(features, None if state is None else state[k], lengths=lengths)
            features = self.dropout(features)
            after.append(stack_state)
        return features, after

    def loss(self, features: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        """Mean cross-entropy in nats, and the number of targets [T, B] that it is the mean of: those not IGNORED."""
        mean = tt.linear_cross_entropy(
            features, self.output.weight, targets.to(self.device), linear_bias=self.output.bias, ignore_index=IGNORED
        )
        return mean, int(torch.count_nonzero(targets != IGNORED))

    @torch.no_grad()
    def nats(self, features: Tensor, targets: Tensor) -> float:
        """Summed cross-entropy of the targets [T, B] that are not IGNORED, added up in float64."""
        each = tt.linear_cross_entropy(
            features, self.output.weight, targets.to(self.device), linear_bias=self.output.bias, ignore_index=IGNORED,
            reduction="none",
        )  # fmt: skip
        return float(each.sum(dtype=torch.float64))

    def logits(self, features: Tensor) -> Tensor:
        """Scores [..., V] of the next unit."""
        scores: Tensor = self.output(features)
        return scores

    @torch.no_grad()
    def start_from_frequencies(self, counts: Tensor) -> None:
        """Set the output bias to the log frequencies, so that learning starts at the unigram loss."""
        frequencies = (counts + 1.0) / (counts + 1.0).sum()
        self.output.bias.copy_(frequencies.log())

    def parameter_count(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply `function` to every tensor of a state."""
    return [
        function(layer) if isinstance(layer, Tensor) else tuple(function(part) for part in layer) for layer in state
    ]
