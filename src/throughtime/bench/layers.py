"""Training and inference of RNN, GRU, LSTM and a cell of one's own, at nine sizes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from throughtime.bench.cases import Bench, Case, Chart, Row, Table
from throughtime.bench.contestants import KINDS, POINTS, TOLERANCE, Cost, Point, asked, check_equal, matrix_rows, pair


def measure(kind: str, what: str, point: Point, bench: Bench) -> Sequence[Row]:
    """Check that both compute the same, then time them."""
    torch.manual_seed(0)
    ours, rival = pair(kind, point.hidden, point.hidden)
    x = torch.randn(point.steps, point.batch, point.hidden, requires_grad=what == "training")
    cotangent = torch.randn(point.steps, point.batch, point.hidden)
    calls = {name: asked(what, layer, x, cotangent) for name, layer in (("ours", ours), ("rival", rival))}
    check_equal(calls["ours"](), calls["rival"](), TOLERANCE[what], f"{kind} {point.name}")
    times = bench.time(calls)
    cost = Cost(what, point, *matrix_rows(ours))
    ours_seconds, rival_seconds = times["ours"].wall, times["rival"].wall
    return [
        {
            "pass": what,
            "cell": kind,
            "point": point.name,
            "rival": KINDS[kind],
            "ours ms": 1e3 * ours_seconds,
            "rival ms": 1e3 * rival_seconds,
            "ratio": rival_seconds / ours_seconds,
            "GFLOP/s": cost.operations / ours_seconds / 1e9,
            "of peak": cost.operations / ours_seconds / bench.machine.peak,
            "of roofline": cost.least_seconds(bench.machine) / ours_seconds,
            "ours cpu ms": 1e3 * times["ours"].cpu,
            "rival cpu ms": 1e3 * times["rival"].cpu,
        }
    ]


def cases(what: str) -> list[Case]:
    return [
        Case(f"{what} {kind} {point.name}", partial(measure, kind, what, point)) for kind in KINDS for point in POINTS
    ]


layers = Table(
    "Training: forward with backward, gradients of the input and of every weight; float32, T = 100 unless said, inputs "
    "as wide as hidden. A ratio above 1: ours is faster.",
    partial(cases, "training"),
    Chart("ratio"),
)
inference = Table(
    "Inference: forward without gradients; float32, T = 100 unless said, inputs as wide as hidden. A ratio above 1: "
    "ours is faster.",
    partial(cases, "inference"),
    Chart("ratio"),
)
