"""Layers against torch.nn, and a cell of one's own against the same equation in a Python loop.

    python bench/layers.py [--rounds 15] [--threads N] [--csv FILE] [--readme README.md]

See README.md in this folder for what is measured and how.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import Row, interleaved, machine, markdown, peak, write_csv
from torch import Tensor, nn
from torch.nn.functional import linear

import throughtime as tt

STEPS = 100
BATCHES = (1, 32)
WIDTHS = (64, 150, 512)
Layer = Callable[[Tensor], tuple[Tensor, Any]]


class LoopedMinimalGatedUnit(nn.Module):
    """The minimal gated unit as one would write it in torch: W x for all steps at once, then a loop over time."""

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
            raise SystemExit(f"{what}: results differ by {error:.2g} relative in norm, at most {tolerance:.2g} is expected")


def measure(kind: str, batch: int, width: int, rounds: int, machine_peak: float) -> Row:
    """One row of the table."""
    torch.manual_seed(0)
    ours, rival, matrices = pair(kind, width)
    x = torch.randn(STEPS, batch, width, requires_grad=True)
    cotangent = torch.randn(STEPS, batch, width)
    calls: dict[str, Callable[[], Any]] = {
        "ours": forward(ours, x),
        "rival": forward(rival, x),
        "ours training": training(ours, x, cotangent),
        "rival training": training(rival, x, cotangent),
    }
    what = f"{kind}, batch {batch}, hidden {width}"
    check_equal([calls["ours"]()], [calls["rival"]()], 1e-5, what)
    check_equal(calls["ours training"](), calls["rival training"](), 1e-4, what)
    times = interleaved(calls, rounds)
    operations = 2 * STEPS * batch * matrices * width * (width + width)
    return {
        "cell": kind,
        "batch": batch,
        "hidden": width,
        "forward ms": round(1e3 * times["ours"], 3),
        "rival ms": round(1e3 * times["rival"], 3),
        "forward ratio": round(times["rival"] / times["ours"], 2),
        "forward+backward ms": round(1e3 * times["ours training"], 3),
        "rival f+b ms": round(1e3 * times["rival training"], 3),
        "f+b ratio": round(times["rival training"] / times["ours training"], 2),
        # The backward pass makes two products of the same size for every one of the forward pass.
        "of peak": f"{operations / times['ours'] / machine_peak:.0%}",
        "f+b of peak": f"{3 * operations / times['ours training'] / machine_peak:.0%}",
    }


def summary(rows: list[Row]) -> str:
    """The README's table: how many times faster, forward / forward and backward."""
    sizes = [(batch, width) for batch in BATCHES for width in WIDTHS]
    head = [f"batch {batch}, hidden {width}" for batch, width in sizes]
    found = {(row["cell"], row["batch"], row["hidden"]): row for row in rows}
    table: list[Row] = []
    for kind, rival in {"RNN": "nn.RNN", "GRU": "nn.GRU", "LSTM": "nn.LSTM", "MGU": "Python loop"}.items():
        row: dict[str, str] = {"": f"{kind} against {rival}"}
        for name, (batch, width) in zip(head, sizes, strict=True):
            one = found[kind, batch, width]
            row[name] = f"{one['forward ratio']:.1f} / {one['f+b ratio']:.1f}"
        table.append(row)
    return markdown(table)


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
    peaks = {threads: peak(threads) for threads in sorted({1, 2, options.threads})}
    torch.set_num_threads(options.threads)
    about = (
        f"T = {STEPS}, input as wide as hidden, float32, {options.threads} threads; {machine()}; one large "
        "product of torch's: "
        + ", ".join(f"{value / 1e9:.0f} GFLOP/s with {threads} threads" for threads, value in peaks.items())
    )
    rows: list[Row] = []
    for kind in ("RNN", "GRU", "LSTM", "MGU"):
        for batch in BATCHES:
            for width in WIDTHS:
                rows.append(measure(kind, batch, width, options.rounds, peaks[options.threads]))
                print(f"{kind}, batch {batch}, hidden {width}: done", flush=True)
    print(f"\n{about}\n\n{markdown(rows)}")
    if options.csv:
        write_csv(options.csv, rows)
    if options.readme:
        put_into(options.readme, f"{summary(rows)}\n\n{about}.")


if __name__ == "__main__":
    main()
