"""The arithmetic rate of less common cells beside that of GRU or LSTM at the same sizes: no slow path."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

import throughtime as tt
from throughtime.bench.cases import Bench, Case, Chart, Row, Table
from throughtime.bench.contestants import PASSES, Cost, Point, asked, matrix_rows

BESIDE = {
    "mgu": "gru",
    "gru-reset-before": "gru",
    "lstm-peephole": "lstm",
    "lstm-layernorm": "lstm",
    "lstm-mogrifier": "lstm",
}
"""Cell of the catalogue -> the common cell that it is measured beside."""
POINTS = [Point(100, 1, 150), Point(100, 1, 512), *(Point(100, 32, hidden) for hidden in (64, 150, 256, 512))]


def measure(name: str, what: str, point: Point, bench: Bench) -> Sequence[Row]:
    torch.manual_seed(0)
    x = torch.randn(point.steps, point.batch, point.hidden, requires_grad=what == "training")
    cotangent = torch.randn(point.steps, point.batch, point.hidden)
    calls, costs = {}, {}
    for one in (name, BESIDE[name]):
        layer = tt.Recurrent(tt.cells.catalogue[one](), point.hidden, point.hidden)
        calls[one] = asked(what, layer, x, cotangent)
        costs[one] = Cost(what, point, *matrix_rows(layer))
    times = bench.time(calls)
    rates = {one: costs[one].operations / times[one].wall for one in calls}
    return [
        {
            "pass": what,
            "cell": name,
            "point": point.name,
            "ms": 1e3 * times[name].wall,
            "GFLOP/s": rates[name] / 1e9,
            "of peak": rates[name] / bench.machine.peak,
            "beside": BESIDE[name],
            "its ms": 1e3 * times[BESIDE[name]].wall,
            "its GFLOP/s": rates[BESIDE[name]] / 1e9,
            "ratio": rates[name] / rates[BESIDE[name]],
        }
    ]


cells = Table(
    "Multiply-adds of the matrix products per second, of a cell and of GRU or LSTM beside it; float32, T = 100, inputs "
    "as wide as hidden. A ratio near 1: the equation costs what its products cost.",
    lambda: [
        Case(f"{what} {name} {point.name}", partial(measure, name, what, point))
        for what in PASSES
        for name in BESIDE
        for point in POINTS
    ],
    Chart("ratio"),
)
