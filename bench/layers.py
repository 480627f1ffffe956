"""Layers against torch.nn, and a cell of one's own against the same equation in a Python loop.

    python bench/layers.py [--rounds 15] [--threads N] [--csv FILE] [--readme README.md]

See README.md in this folder for what is measured and how.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import throughtime as tt
from measure import Row, interleaved, machine, markdown, peak, write_csv

STEPS = 100
BATCHES = (1, 32)
WIDTHS = (64, 150, 512)
Layer = Callable[[Tensor], tuple[Tensor, Any]]


class LoopedMinimalGatedUnit(nn.Module):
    """The minimal gated unit as one writes it in torch: W x for all steps at once, then a loop over time."""

    def __init__(self, compiled: tt.Recurrent) -> None:
        super().__init__()
        self.weight_ih_l0, self.weight_hh_l0 = compiled.weight_ih_l0, compiled.weight_hh_l0
        self.bias_l0 = compiled.bias_l0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, B, I] -> output [T, B, H], state [1, B, H]."""
        recurrent_f, recurrent_h = self.weight_hh_l0.chunk(2)
        h = x.new_zeros(x.shape[1], recurrent_f.shape[1])
        outputs = []
        for net in linear(x, self.weight_ih_l0, self.bias_l0).unbind():
            net_f, net_h = net.chunk(2, -1)
            f = torch.sigmoid(net_f + linear(h, recurrent_f))
            candidate = torch.tanh(net_h + linear(f * h, recurrent_h))
            h = (1 - f) * h + f * candidate
            outputs.append(h)
        return torch.stack(outputs), h[None]


def pair(kind: str, width: int) -> tuple[nn.Module, nn.Module, int]:
    """Our layer, its rival with the same weights, and the number of H x (I + H) matrices in the cell."""
    if kind == "MGU":
        layer = tt.Recurrent(tt.cells.MinimalGatedUnit(), width, width)
        return layer, LoopedMinimalGatedUnit(layer), 2
    ours, rival = getattr(tt, kind)(width, width), getattr(nn, kind)(width, width)
    ours.load_state_dict(rival.state_dict())
    return ours, rival, {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]


def forward(layer: Layer, x: Tensor) -> Callable[[], Tensor]:
    """Inference: no gradients are recorded."""

    def call() -> Tensor:
        with torch.no_grad():
            return layer(x)[0]

    return call


def training(layer: nn.Module, x: Tensor, cotangent: Tensor) -> Callable[[], list[Tensor]]:
    """Forward and backward: the gradients of the input and of every weight."""
    inputs = [x, *layer.parameters()]

    def call() -> list[Tensor]:
        return list(torch.autograd.grad(layer(x)[0], inputs, cotangent))

    return call


def check_equal(ours: list[Tensor], rival: list[Tensor], tolerance: float, what: str) -> None:
    """Speed is only worth comparing where the numbers agree."""
    for a, b in zip(ours, rival, strict=True):
        error = ((a - b).norm() / b.norm()).item()
        if not error <= tolerance:
            raise SystemExit(
                f"{what}: results differ by {error:.2g} relative in norm, at most {tolerance:.2g} is expected"
            )


@dataclass(frozen=True)
class Measured:
    """Seconds of one configuration; `operations` of the forward pass: multiplications and additions."""

    cell: str
    batch: int
    hidden: int
    operations: int
    forward: float
    rival_forward: float
    training: float
    rival_training: float

    def row(self, machine_peak: float) -> Row:
        """The row of the long table."""
        return {
            "cell": self.cell,
            "batch": self.batch,
            "hidden": self.hidden,
            "forward ms": round(1e3 * self.forward, 3),
            "rival ms": round(1e3 * self.rival_forward, 3),
            "ratio": round(self.rival_forward / self.forward, 2),
            "of peak": f"{self.operations / self.forward / machine_peak:.0%}",
            "forward+backward ms": round(1e3 * self.training, 3),
            "rival's ms": round(1e3 * self.rival_training, 3),
            "its ratio": round(self.rival_training / self.training, 2),
            # For every product of the forward pass the backward pass makes two of the same size.
            "its part of peak": f"{3 * self.operations / self.training / machine_peak:.0%}",
        }


def measure(kind: str, batch: int, width: int, rounds: int) -> Measured:
    """Check that both layers compute the same, then time them."""
    torch.manual_seed(0)
    ours, rival, matrices = pair(kind, width)
    x = torch.randn(STEPS, batch, width, requires_grad=True)
    cotangent = torch.randn(STEPS, batch, width)
    calls: dict[str, Callable[[], Any]] = {
        "forward": forward(ours, x),
        "rival_forward": forward(rival, x),
        "training": training(ours, x, cotangent),
        "rival_training": training(rival, x, cotangent),
    }
    what = f"{kind}, batch {batch}, hidden {width}"
    check_equal([calls["forward"]()], [calls["rival_forward"]()], 1e-5, what)
    check_equal(calls["training"](), calls["rival_training"](), 1e-4, what)
    operations = 2 * STEPS * batch * matrices * width * (width + width)
    return Measured(kind, batch, width, operations, **interleaved(calls, rounds))


def summary(results: list[Measured]) -> str:
    """The README's table: how many times faster, forward / forward and backward."""
    rivals = {"RNN": "nn.RNN", "GRU": "nn.GRU", "LSTM": "nn.LSTM", "MGU": "a Python loop"}
    table: dict[str, dict[str, str | int | float]] = {}
    for one in results:
        row = table.setdefault(one.cell, {"": f"{one.cell} against {rivals[one.cell]}"})
        ratios = one.rival_forward / one.forward, one.rival_training / one.training
        row[f"batch {one.batch}, hidden {one.hidden}"] = f"{ratios[0]:.1f} / {ratios[1]:.1f}"
    return markdown(list(table.values()))


def put_into(path: Path, text: str) -> None:
    """Replace what stands between the two marks in the file."""
    marks = "<!-- made by bench/layers.py -->", "<!-- end -->"
    pattern = re.compile(f"({re.escape(marks[0])}\n).*?({re.escape(marks[1])})", re.DOTALL)
    old = path.read_text(encoding="utf-8")
    if not pattern.search(old):
        raise SystemExit(f"{path} has no place for the table: put the lines {marks[0]} and {marks[1]} into it")
    path.write_text(pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", old), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Layers against torch.nn.")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that the medians are taken over")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's choice")
    parser.add_argument("--csv", type=Path, help="write the rows to this file too")
    parser.add_argument("--readme", type=Path, help="put the short table into this file")
    options = parser.parse_args()
    counts = sorted({1, 2, options.threads})
    peaks = dict.fromkeys(counts, 0.0)
    torch.set_num_threads(options.threads)
    results: list[Measured] = []
    for kind in ("RNN", "GRU", "LSTM", "MGU"):
        for batch in BATCHES:
            for width in WIDTHS:
                # The best of many moments: another program may be running at any of them.
                peaks = {count: max(value, peak(count)) for count, value in peaks.items()}
                results.append(measure(kind, batch, width, options.rounds))
                print(f"{kind}, batch {batch}, hidden {width}: done", file=sys.stderr, flush=True)
    rows = [one.row(peaks[options.threads]) for one in results]
    best = ", ".join(f"{value / 1e9:.0f} GFLOP/s with {many(count)}" for count, value in peaks.items())
    about = (
        f"T = {STEPS}, input as wide as hidden, float32, {many(options.threads)}; {machine()}; "
        f"one large matrix product of torch's reaches {best}."
    )
    print(f"{about}\n\n{markdown(rows)}")
    if options.csv:
        write_csv(options.csv, rows)
    if options.readme:
        put_into(options.readme, f"{summary(results)}\n\n{about}")


def many(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


if __name__ == "__main__":
    main()
