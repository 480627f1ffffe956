"""JAX's scan and ONNX Runtime beside our layers and torch.nn's, in one process, in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch

from throughtime.bench.cases import Bench, Case, Chart, Row, Table
from throughtime.bench.contestants import PASSES, POINTS, TOLERANCE, Point, asked, check_equal, pair
from throughtime.tasks.errors import UsageError

KINDS = ("RNN", "GRU", "LSTM")
RIVALS = {"jax": ("JAX scan", PASSES), "onnxruntime": ("ONNX Runtime", ("inference",))}
"""Package -> what it is called in the table, and what it can do."""


def measure(package: str, kind: str, what: str, point: Point, bench: Bench) -> Sequence[Row]:
    torch.manual_seed(0)
    ours, plain = pair(kind, point.hidden, point.hidden)
    x = torch.randn(point.steps, point.batch, point.hidden, requires_grad=what == "training")
    cotangent = torch.randn(point.steps, point.batch, point.hidden)
    calls: dict[str, Callable[[], Any]] = {
        "ours": asked(what, ours, x, cotangent),
        "torch.nn": asked(what, plain, x, cotangent),
    }
    if what == "inference":  # what ONNX Runtime's own session is
        session = ours.session(point.batch)  # type: ignore[operator]
        calls["session"] = lambda: session.run(x)
    weights = [p.detach() for p in ours.parameters()]
    if package == "jax":
        from throughtime.bench.rival_jax import make
    else:
        from throughtime.bench.rival_onnx import make
    call, results = make(kind, what, weights, x.detach(), cotangent, bench.machine.threads)
    calls["rival"] = call
    check_equal(calls["ours"](), results(call()), TOLERANCE[what], f"{kind} {point.name} of {package}")
    times = bench.time(calls)
    kept = times.get("session")
    return [
        {
            "pass": what,
            "cell": kind,
            "point": point.name,
            "rival": f"{RIVALS[package][0]} {version(package)}",
            "ours ms": 1e3 * times["ours"].wall,
            "rival ms": 1e3 * times["rival"].wall,
            "ratio": times["rival"].wall / times["ours"].wall,
            "session ms": 1e3 * kept.wall if kept else "",
            "session ratio": times["rival"].wall / kept.wall if kept else "",
            "torch.nn ms": 1e3 * times["torch.nn"].wall,
            "ours cpu ms": 1e3 * times["ours"].cpu,
            "rival cpu ms": 1e3 * times["rival"].cpu,
            "cpu ratio": times["rival"].cpu / times["ours"].cpu,
        }
    ]


def cases() -> list[Case]:
    there = [package for package in RIVALS if find_spec(package) is not None]
    if not there:
        raise UsageError(
            "neither jax nor onnxruntime is installed, and there is nothing else to measure beside: "
            'run pip install "throughtime[rivals]"'
        )
    return [
        Case(f"{package} {what} {kind} {point.name}", partial(measure, package, kind, what, point))
        for package in there
        for what in RIVALS[package][1]
        for kind in KINDS
        for point in POINTS
    ]


rivals = Table(
    "Rivals beside ours, and torch.nn: the clock's time and the time of all processors together; without gradients "
    "also a session of ours, which keeps its weights prepared as ONNX Runtime's does. A ratio above 1: ours is faster.",
    cases,
    Chart("ratio", panel="rival"),
)
