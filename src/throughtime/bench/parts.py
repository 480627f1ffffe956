"""Where the time of a training step goes: each kernel, each kind of product, and the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.autograd.profiler import profile

from throughtime.bench.cases import Bench, Case, Chart, Row, Table
from throughtime.bench.contestants import KINDS, POINTS, Point, asked, matrix_rows, pair

ROUNDS = 5
PARTS = ("W x", "forward kernel", "backward kernel", "∂x", "∂W", "∂R", "∂x ∂W ∂R")
OWN = "throughtime::"
OWN_PRODUCTS = "throughtime::products"
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::addmm_", "aten::baddbmm", "aten::linear", "aten::matmul"}


def spans(events: Sequence[Any], rows: int) -> Iterator[tuple[str, float]]:
    """Part and microseconds of every outermost kernel and product among the profile's events.

    The forward kernel makes W x itself; torch's products in the forward pass are W x. Of torch's in the backward pass
    those beside the backward kernel are ∂R, and the one that sums over all `rows`, T · B, is ∂W; the package's own make
    all gradients in one go.
    """
    for event in events:
        names = [a.name for a in ancestors(event)]
        if any(name in PRODUCTS or name.startswith(OWN) for name in names):
            continue
        backward = any("Backward" in name for name in names)
        if event.name == OWN_PRODUCTS:
            yield "∂x ∂W ∂R", event.cpu_time_total
        elif event.name.startswith(OWN):
            yield ("backward kernel" if backward else "forward kernel"), event.cpu_time_total
        elif event.name in PRODUCTS:
            summed = next(shape for shape in reversed(event.input_shapes) if len(shape) >= 2)[-2]
            part = "∂R" if any("Recur" in name for name in names) else "∂W" if summed == rows else "∂x"
            yield (part if backward else "W x"), event.cpu_time_total


def ancestors(event: Any) -> Iterator[Any]:
    while (event := event.cpu_parent) is not None:
        yield event


def measure(kind: str, point: Point, bench: Bench) -> Sequence[Row]:
    torch.manual_seed(0)
    ours, _ = pair(kind, point.hidden, point.hidden)
    x = torch.randn(point.steps, point.batch, point.hidden, requires_grad=True)
    cotangent = torch.randn(point.steps, point.batch, point.hidden)
    call = asked("training", ours, x, cotangent)
    total = bench.time({"ours": call})["ours"].wall
    with profile(use_kineto=False, record_shapes=True) as found:
        for _ in range(ROUNDS):
            call()
    seconds = dict.fromkeys(PARTS, 0.0)
    for part, microseconds in spans(found.function_events, point.steps * point.batch):
        seconds[part] += microseconds / 1e6 / ROUNDS
    rest = max(0.0, total - sum(seconds.values()))
    of_input, of_state = matrix_rows(ours)
    forward = 2 * point.steps * point.batch * (of_input + of_state)
    backward = 2 * point.steps * point.batch * of_state
    outside = 2 * point.steps * point.batch * (2 * of_input + of_state)
    products = sum(seconds[part] for part in PARTS if "kernel" not in part)
    row: Row = {"cell": kind, "point": point.name, "ms": 1e3 * total}
    row |= {f"{part} ms": 1e3 * value for part, value in seconds.items()} | {"rest ms": 1e3 * rest}
    for name, operations, took in (
        ("forward kernel", forward, seconds["forward kernel"]),
        ("backward kernel", backward, seconds["backward kernel"]),
        ("products", outside, products),
    ):
        row[f"of peak: {name}"] = operations / took / bench.machine.peak if took else 0.0
    return [row]


parts = Table(
    "A training step of ours in parts, in milliseconds: the kernels (W x is part of the forward one), the products "
    "outside them (the gradients of x, W and R), and the rest: Python, autograd, allocation, copies. The parts come "
    "from torch's profiler, the sum from a run without it.",
    lambda: [Case(f"{kind} {point.name}", partial(measure, kind, point)) for kind in KINDS for point in POINTS],
    Chart("ms", panel="", level=None),
)
