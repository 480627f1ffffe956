"""States and errors so small that they are subnormal numbers, which some processors compute slowly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.bench.cases import Bench, Case, Chart, Row, Table
from throughtime.bench.contestants import PASSES, Point, pair

POINTS = (Point(100, 1, 150), Point(100, 32, 150))
NORMAL, SUBNORMAL = 1e-20, 1e-40
KEEP = 30.0
"""A bias of a gate under which the state stays what it is."""


def steady_(layer: nn.Module, kind: str, hidden: int) -> None:
    """Weights under which a small state keeps its size for ever: an orthogonal map, or open memory gates."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        rotation = torch.linalg.qr(torch.randn(hidden, hidden))[0]
        recurrent, bias = layer.weight_hh_l0, layer.bias_hh_l0
        assert isinstance(recurrent, Tensor) and isinstance(bias, Tensor)
        recurrent.view(-1, hidden, hidden)[:] = rotation
        if kind == "GRU":
            bias[hidden : 2 * hidden] = KEEP  # z: h stays
        elif kind == "LSTM":
            bias[hidden : 2 * hidden] = KEEP  # f: c stays


def measure(kind: str, what: str, point: Point, bench: Bench) -> Sequence[Row]:
    torch.manual_seed(0)
    layers = dict(zip(("ours", "rival"), pair(kind, point.hidden, point.hidden), strict=True))
    steady_(layers["rival"], kind, point.hidden)
    layers["ours"].load_state_dict(layers["rival"].state_dict())
    x = torch.zeros(point.steps, point.batch, point.hidden)
    calls: dict[str, Callable[[], Any]] = {}
    for size in (NORMAL, SUBNORMAL):
        start = torch.randn(1, point.batch, point.hidden).sign() * size
        # The error enters at the end, as small, and flows back through all steps.
        error = torch.zeros(point.steps, point.batch, point.hidden)
        error[-1] = size
        for name, layer in layers.items():
            state = (start, start) if kind == "LSTM" else start
            calls[f"{name} {size}"] = _call(layer, what, x, state, error)
    times = bench.time(calls)
    slower = {name: times[f"{name} {SUBNORMAL}"].wall / times[f"{name} {NORMAL}"].wall for name in layers}
    return [
        {
            "pass": what,
            "cell": kind,
            "point": point.name,
            "ours ms": 1e3 * times[f"ours {NORMAL}"].wall,
            "subnormal ms": 1e3 * times[f"ours {SUBNORMAL}"].wall,
            "slower": slower["ours"],
            "rival ms": 1e3 * times[f"rival {NORMAL}"].wall,
            "its slower": slower["rival"],
        }
    ]


def _call(layer: nn.Module, what: str, x: Tensor, state: Any, error: Tensor) -> Callable[[], Any]:
    parameters = list(layer.parameters())

    def call() -> Any:
        with torch.set_grad_enabled(what == "training"):
            output = layer(x, state)[0]
            return torch.autograd.grad(output, parameters, error) if what == "training" else output

    return call


subnormals = Table(
    f"States and, in training, errors of size {SUBNORMAL:g}, which float32 holds as subnormal numbers, beside "
    f"{NORMAL:g}: how many times slower.",
    lambda: [
        Case(f"{what} {kind} {point.name}", partial(measure, kind, what, point))
        for what in PASSES
        for kind in ("RNN", "GRU", "LSTM")
        for point in POINTS
    ],
    Chart("slower", level=None),
)
