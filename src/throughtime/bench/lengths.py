"""Batches of unequal lengths: the time beside that of the padded batch, and beside torch's packed sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import throughtime as tt
from throughtime.bench.cases import Bench, Case, Chart, Row, Table
from throughtime.bench.contestants import PASSES, TOLERANCE, check_equal, inference, pair, training

STEPS = (100, 400, 1600)
SIZES = ((8, 64), (32, 150))
"""Batch, hidden."""
SLOW_STEPS = 400
"""nn.LSTM takes minutes to train on longer packed sequences, at the larger size."""


class Packed(nn.Module):
    """torch's layer on a padded input of unequal lengths [B]: packed, run and padded again."""

    def __init__(self, rival: nn.Module, lengths: Tensor, steps: int) -> None:
        super().__init__()
        self.rival, self.lengths, self.steps = rival, lengths, steps

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        output, state = self.rival(pack_padded_sequence(x, self.lengths, enforce_sorted=False))
        return pad_packed_sequence(output, total_length=self.steps)[0], state


def draw(batch: int, steps: int) -> Tensor:
    """Lengths [B], half to all of the steps, one of them all."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(steps // 2, steps + 1, (batch,), generator=generator)
    lengths[-1] = steps
    return lengths


def measure(kind: str, what: str, steps: int, batch: int, hidden: int, bench: Bench) -> Sequence[Row]:
    torch.manual_seed(0)
    rival = None
    if kind in tt.cells.catalogue:
        ours: nn.Module = tt.Recurrent(tt.cells.catalogue[kind](), hidden, hidden)
    else:
        ours, rival = pair(kind, hidden, hidden)
    x = torch.randn(steps, batch, hidden, requires_grad=what == "training")
    cotangent = torch.randn(steps, batch, hidden)
    lengths = draw(batch, steps)

    def ask(layer: nn.Module, *more: Any) -> Callable[[], list[Tensor]]:
        return training(layer, cotangent, x, *more) if what == "training" else inference(layer, x, *more)

    calls = {"padded": ask(ours), "ragged": ask(ours, None, lengths)}
    if rival is not None and (steps <= SLOW_STEPS or batch * hidden <= 512 or what == "inference"):
        calls["rival"] = ask(Packed(rival, lengths, steps))
        check_equal(calls["ragged"](), calls["rival"](), TOLERANCE[what], f"{kind} with lengths, T = {steps}")
    times = bench.time(calls)
    share = lengths.sum().item() / (batch * steps)
    row: Row = {
        "pass": what,
        "cell": kind,
        "point": f"T{steps} B{batch} H{hidden}",
        "padded ms": 1e3 * times["padded"].wall,
        "ragged ms": 1e3 * times["ragged"].wall,
        "of padded time": times["ragged"].wall / times["padded"].wall,
        "of padded steps": share,
        "over": times["ragged"].wall / times["padded"].wall - share,
    }
    if "rival" in times:
        row |= {"packed ms": 1e3 * times["rival"].wall, "ratio": times["rival"].wall / times["ragged"].wall}
    return [row]


KINDS = ("RNN", "GRU", "LSTM", "mgu", "lstm-layernorm")

lengths = Table(
    "A batch whose sequences have half to all of T steps: its time as a part of the padded batch's, beside the steps "
    "it really takes as a part of the padded ones; and torch.nn's time on the same batch, packed, over ours (ratio).",
    lambda: [
        Case(f"{what} {kind} T{steps} B{batch} H{hidden}", partial(measure, kind, what, steps, batch, hidden))
        for what in PASSES
        for kind in KINDS
        for steps in STEPS
        for batch, hidden in SIZES
    ],
    Chart("over", level=0.1),
)
