"""Training and inference of RNN, GRU, LSTM and a cell of one's own, at nine sizes; and in other dtypes than float32."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from throughtime.bench.cases import Bench, Case, Chart, Row, Table
from throughtime.bench.contestants import (
    KINDS,
    PASSES,
    POINTS,
    TOLERANCE,
    Cost,
    Point,
    asked,
    check_equal,
    matrix_rows,
    pair,
)
from throughtime.bench.timing import Timing

NARROWER = {torch.float64: 1e-5, torch.bfloat16: 1000.0}
"""How much further apart than in float32 the results may be: torch rounds a bfloat16 state in every step."""


def compared(
    kind: str, what: str, point: Point, dtype: torch.dtype, bench: Bench
) -> tuple[Row, dict[str, Timing], Cost]:
    """Check that both compute the same, then time them."""
    torch.manual_seed(0)
    ours, rival = (layer.to(dtype) for layer in pair(kind, point.hidden, point.hidden))
    x = torch.randn(point.steps, point.batch, point.hidden, dtype=dtype, requires_grad=what == "training")
    cotangent = torch.randn(point.steps, point.batch, point.hidden, dtype=dtype)
    calls = {name: asked(what, layer, x, cotangent) for name, layer in (("ours", ours), ("rival", rival))}
    check_equal(
        calls["ours"](), calls["rival"](), TOLERANCE[what] * NARROWER.get(dtype, 1.0), f"{kind} {point.name} {dtype}"
    )
    times = bench.time(calls)
    row: Row = {
        "pass": what,
        "cell": kind,
        "point": point.name,
        "rival": KINDS[kind],
        "ours ms": 1e3 * times["ours"].wall,
        "rival ms": 1e3 * times["rival"].wall,
        "ratio": times["rival"].wall / times["ours"].wall,
    }
    return row, times, Cost(what, point, *matrix_rows(ours))


def measure(kind: str, what: str, point: Point, bench: Bench) -> Sequence[Row]:
    row, times, cost = compared(kind, what, point, torch.float32, bench)
    ours_seconds = times["ours"].wall
    return [
        {
            **row,
            "GFLOP/s": cost.operations / ours_seconds / 1e9,
            "of peak": cost.operations / ours_seconds / bench.machine.peak,
            "of roofline": cost.least_seconds(bench.machine) / ours_seconds,
            "ours cpu ms": 1e3 * times["ours"].cpu,
            "rival cpu ms": 1e3 * times["rival"].cpu,
        }
    ]


def measure_dtype(kind: str, what: str, point: Point, dtype: torch.dtype, bench: Bench) -> Sequence[Row]:
    row, _, _ = compared(kind, what, point, dtype, bench)
    return [{**row, "pass": f"{what} {name_of(dtype)}"}]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dtype_cases() -> list[Case]:
    return [
        Case(
            f"{name_of(dtype)} {what} {kind} {point.name}",
            partial(measure_dtype, kind, what, point, dtype),
        )
        for dtype in NARROWER
        for what in PASSES
        for kind in KINDS
        if kind != "MGU"
        for point in POINTS
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
dtypes = Table(
    "float64, and bfloat16, in which numbers are stored: training is forward with backward; T = 100 unless said, "
    "inputs as wide as hidden. A ratio above 1: ours is faster.",
    dtype_cases,
    Chart("ratio"),
)
