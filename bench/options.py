"""What each option costs: a training step of a layer with it, against the same layer without.

    python bench/options.py [--rounds 15] [--threads N] [--cells LSTM GRU MGU] [--batches 1 32] [--csv FILE]

See README.md in this folder for what is measured and how.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import throughtime as tt
from throughtime.bench.cases import Row
from throughtime.bench.machine import many, processor, versions
from throughtime.bench.report import markdown, write_csv
from throughtime.bench.timing import interleaved

STEPS, WIDTH, MOST_SECONDS = 100, 150, 600.0
CELLS = {"LSTM": tt.cells.LSTM, "GRU": tt.cells.GRU, "MGU": tt.cells.MinimalGatedUnit}
ONE_LAYER: dict[str, dict[str, Any]] = {
    "layer_norm=True": {"layer_norm": True},
    'layer_norm="states"': {"layer_norm": "states"},
    "recurrent_dropout=0.3": {"recurrent_dropout": 0.3},
    "the same, a mask per step": {"recurrent_dropout": 0.3, "recurrent_dropout_mask": "step"},
    "zoneout=0.1": {"zoneout": 0.1},
    "weight_drop=0.3": {"weight_drop": 0.3},
    "state_clip=1": {"state_clip": 1.0},
    "gradient_clip=1": {"gradient_clip": 1.0},
    'activation="softsign"': {"activation": "softsign"},
    'gate_activation="hard_sigmoid"': {"gate_activation": "hard_sigmoid"},
    "learn_initial_state": {"learn_initial_state": True},
    "heads=2": {"heads": 2},
    "heads=10": {"heads": 10},
    "reverse": {"reverse": True},
    "a reset mask": {},
    "return_all=True": {},
    "recompute=10": {"recompute": 10},
}
TWO_LAYERS: dict[str, dict[str, Any]] = {
    'connections="residual"': {"connections": "residual"},
    'connections="highway"': {"connections": "highway"},
    'connections="dense"': {"connections": "dense"},
    "dropout=0.3": {"dropout": 0.3},
}
TWO_DIRECTIONS: dict[str, dict[str, Any]] = {
    'merge="sum"': {"merge": "sum"},
    'merge="product"': {"merge": "product"},
}
BASES: list[tuple[str, dict[str, Any], dict[str, dict[str, Any]]]] = [
    ("one layer", {}, ONE_LAYER),
    ("two layers", {"num_layers": 2}, TWO_LAYERS),
    ("two directions", {"bidirectional": True}, TWO_DIRECTIONS),
]


def training(layer: tt.Recurrent, x: Tensor, name: str) -> Callable[[], list[Tensor]]:
    """Forward and backward: the gradients of the input and of every weight."""
    inputs = [x, *layer.parameters()]
    given: dict[str, Any] = {"return_all": name.startswith("return_all")}
    if name == "a reset mask":
        given["reset"] = torch.rand(x.shape[:2]) < 0.05
    cotangent = torch.randn_like(layer(x, **given)[0])

    def call() -> list[Tensor]:
        return list(torch.autograd.grad(layer(x, **given)[0], inputs, cotangent))

    return call


def measure(kind: str, batch: int, rounds: int) -> Mapping[str, tuple[str, float, float]]:
    """By option: what it is compared with, seconds without it, and with it."""
    found = {}
    for base, shape, options in BASES:
        torch.manual_seed(0)
        x = torch.randn(STEPS, batch, WIDTH, requires_grad=True)
        again = f"nothing ({base} a second time)"
        calls = {
            name: training(tt.Recurrent(CELLS[kind](), WIDTH, WIDTH, **shape, **option), x, name)
            for name, option in {base: {}, **options, again: {}}.items()
        }
        times = interleaved(calls, rounds, MOST_SECONDS)
        seconds = {name: time.wall for name, time in times.items()}
        without = (seconds[base] + seconds[again]) / 2
        found |= {name: (base, without, seconds[name]) for name in options}
        found[again] = base, seconds[base], seconds[again]
        print(f"{kind}, batch {batch}, {base}: done", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What each option costs.")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that the medians are taken over")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's choice")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 1])
    parser.add_argument("--csv", type=Path, help="write milliseconds to this file too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table: dict[str, Row] = {}
    rows: list[Row] = []
    for batch in options.batches:
        for kind in options.cells:
            for name, (base, without, own) in measure(kind, batch, options.rounds).items():
                row = table.setdefault(name, {"option": name, "against": base})
                row[f"{kind}, batch {batch}"] = f"{own / without:.2f}"
                times = {"without ms": round(1e3 * without, 3), "with ms": round(1e3 * own, 3)}
                rows.append({"cell": kind, "batch": batch, "option": name, **times})
    about = (
        f"Time with the option / without it; forward and backward, T = {STEPS}, input and hidden {WIDTH}, float32, "
        f"{many(options.threads)}; {processor()}; {versions()}."
    )
    print(f"{about}\n\n{markdown(list(table.values()))}")
    if options.csv:
        write_csv(options.csv, rows)


if __name__ == "__main__":
    main()
