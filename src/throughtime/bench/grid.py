"""A wide grid of sizes, stacks, directions, lengths and one-hot input: is any point slower than torch.nn?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from throughtime.bench.cases import Bench, Case, Chart, Row, Table, number
from throughtime.bench.contestants import PASSES, TOLERANCE, check_equal, inference, pair, training
from throughtime.bench.lengths import Packed, draw

STEPS = (1, 10, 35, 100, 300, 1000)
BATCHES = (1, 2, 4, 8, 32, 64, 128, 256)
WIDTHS = (8, 16, 64, 150, 256, 512, 1024)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
MOST_OPERATIONS = 60e9
"""Points above take more than a second a pass."""
WORST = 10


class Place(NamedTuple):
    """One point of the grid; `what` the input is: "dense", "lengths" or "onehot" (H words)."""

    kind: str
    steps: int
    batch: int
    hidden: int
    layers: int
    directions: int
    what: str

    @property
    def operations(self) -> float:
        """Multiplications and additions of a training step."""
        inputs = self.hidden * (1 + (self.layers - 1) * self.directions)
        numbers = GATES[self.kind] * self.hidden * (inputs + self.layers * self.hidden) * self.directions
        return 6.0 * self.steps * self.batch * numbers

    @property
    def point(self) -> str:
        sizes = f"T{self.steps} B{self.batch} H{self.hidden} L{self.layers}"
        return f"{sizes} {'both' if self.directions == 2 else 'forward'} {self.what}"


def places() -> Iterator[Place]:
    axes = GATES, STEPS, BATCHES, WIDTHS, (1, 2, 3), (1, 2), ("dense", "lengths", "onehot")
    for place in (Place(*values) for values in product(*axes)):
        ragged = place.what == "lengths"
        # Packed sequences make training of torch.nn quadratic in T.
        if place.operations <= MOST_OPERATIONS and not (ragged and (place.steps in (1, 1000) or place.batch == 1)):
            yield place


class Words(nn.Module):
    """torch's layer on one-hot vectors of word numbers [T, B]."""

    def __init__(self, rival: nn.Module, words: int) -> None:
        super().__init__()
        self.rival, self.words = rival, words

    def forward(self, x: Tensor) -> Any:
        return self.rival(one_hot(x, self.words).float())


def measure(place: Place, what: str, bench: Bench) -> Sequence[Row]:
    torch.manual_seed(0)
    kind, steps, batch, hidden, layers, directions, given = place
    ours, rival = pair(kind, hidden, hidden, num_layers=layers, bidirectional=directions == 2)
    x = torch.randn(steps, batch, hidden, requires_grad=what == "training" and given != "onehot")
    more: tuple[Any, ...] = ()
    if given == "onehot":
        x, rival = torch.randint(hidden, (steps, batch)), Words(rival, hidden)
    elif given == "lengths":
        lengths = draw(batch, steps)
        more, rival = (None, lengths), Packed(rival, lengths, steps)
    cotangent = torch.randn(steps, batch, hidden * directions)

    def ask(layer: nn.Module, *arguments: Any) -> Callable[[], list[Tensor]]:
        return training(layer, cotangent, *arguments) if what == "training" else inference(layer, *arguments)

    calls = {"ours": ask(ours, x, *more), "rival": ask(rival, x)}
    check_equal(calls["ours"](), calls["rival"](), 10 * TOLERANCE[what], f"{kind} {place.point}")
    times = bench.time(calls)
    operations = place.operations / (1 if what == "training" else 3)
    return [
        {
            "pass": what,
            "cell": kind,
            "point": place.point,
            "ours ms": 1e3 * times["ours"].wall,
            "rival ms": 1e3 * times["rival"].wall,
            "ratio": times["rival"].wall / times["ours"].wall,
            "GFLOP/s": operations / times["ours"].wall / 1e9,
            "of peak": operations / times["ours"].wall / bench.machine.peak,
        }
    ]


def worst(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: number(row["ratio"]))[:WORST]


grid = Table(
    f"The {WORST} points of the wide grid where torch.nn is nearest or ahead, of those measured: T, batch, hidden, "
    "layers, directions, and dense, ragged or one-hot input as wide as hidden. A ratio above 1: ours is faster.",
    lambda: [
        Case(f"{what} {place.kind} {place.point}", partial(measure, place, what))
        for place in places()
        for what in PASSES
    ],
    Chart("ratio", kind="sorted"),
    worst,
)
