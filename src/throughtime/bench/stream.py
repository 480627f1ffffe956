"""One step at a time, as in an interactive program: a session beside what torch.nn offers for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from throughtime.bench.cases import Bench, Case, Chart, Row, Table
from throughtime.bench.contestants import FLOAT, TOLERANCE, check_equal, matrix_rows, pair

KINDS = ("RNN", "GRU", "LSTM")
SIZES = (("H64", 64, 64), ("H150", 150, 150), ("H150 I32", 32, 150), ("H150 onehot", 100, 150), ("H512", 512, 512))
"""Name, input size, hidden size; "onehot": word numbers, one after the other."""
STEPS = 20
"""A call that is timed takes so many steps, the state carried on."""


def measure(kind: str, name: str, inputs: int, hidden: int, bench: Bench) -> Sequence[Row]:
    torch.manual_seed(0)
    layer, rival = pair(kind, inputs, hidden)
    cell: nn.Module = getattr(nn, f"{kind}Cell")(inputs, hidden)
    cell.load_state_dict({key.removesuffix("_l0"): value for key, value in rival.state_dict().items()})
    words = name.endswith("onehot")
    xs = torch.randint(inputs, (STEPS,)) if words else torch.randn(STEPS, 1, inputs)
    vectors = list(one_hot(xs, inputs).float()[:, None] if words else xs)
    session = layer.session(1)  # type: ignore[operator]
    given = xs.tolist() if words else vectors

    def ours() -> Any:
        for x in given:
            output = session.step(x)
        return output

    calls = {
        "ours": ours,
        "layer": _stepped(lambda x, state: rival(x[None], state), vectors),
        "cell": _stepped(lambda x, state: (None, cell(x, state)), vectors),
    }
    session.reset()
    with torch.no_grad():
        whole = layer(xs[:, None] if words else xs)[0][-1]
    check_equal([ours()], [whole], TOLERANCE["inference"], f"a session of {kind}")
    times = {key: found.wall / STEPS for key, found in bench.time(calls).items()}
    of_input, of_state = matrix_rows(layer)
    read = bench.machine.seconds_to_read(FLOAT * (of_state + (0 if words else of_input)))
    return [
        {
            "cell": kind,
            "point": name,
            "ours µs": 1e6 * times["ours"],
            "nn layer µs": 1e6 * times["layer"],
            "nn cell µs": 1e6 * times["cell"],
            "ratio": min(times["layer"], times["cell"]) / times["ours"],
            "to read the weights µs": 1e6 * read,
            "times that": times["ours"] / read,
        }
    ]


def _stepped(step: Callable[[Tensor, Any], tuple[Any, Any]], vectors: Sequence[Tensor]) -> Callable[[], Any]:
    """Runs the steps, each with the state that the one before it left."""
    carried: list[Any] = [None]

    def call() -> Any:
        state = carried[0]
        with torch.no_grad():
            for x in vectors:
                state = step(x, state)[1]
        carried[0] = state
        return state

    return call


stream = Table(
    "One step of one sequence, microseconds: `layer.session(1).step(x)`, torch.nn's layer called with T = 1, "
    "torch.nn's cell; and how long reading the weights takes from their cache (of word numbers only R's). "
    "The ratio is to the faster of torch's two.",
    lambda: [
        Case(f"{kind} {name}", partial(measure, kind, name, inputs, hidden))
        for kind in KINDS
        for name, inputs, hidden in SIZES
    ],
    Chart("ratio", panel=""),
)
