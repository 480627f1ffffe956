"""What a table is made of: cases, each measured into one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from throughtime.bench.machine import Machine
from throughtime.bench.timing import Call, Timing, interleaved

Value = str | float
Row = dict[str, Value]


class Bench(NamedTuple):
    """What a case measures with."""

    machine: Machine
    rounds: int
    seconds: float

    def time(self, calls: Mapping[str, Call]) -> dict[str, Timing]:
        return interleaved(calls, self.rounds, self.seconds)


class Case(NamedTuple):
    """One row to be: `name` is unique in its table, words apart; `measure` may return several rows."""

    name: str
    measure: Callable[[Bench], Sequence[Row]]


class Chart(NamedTuple):
    """How a table is drawn: bars of `y` over `x`, one colour for each value of `series`, one panel for each of `panel`.

    `kind` "sorted" draws y in ascending order instead. `level`: where y is as good as the rival's.
    """

    y: str
    x: str = "point"
    series: str = "cell"
    panel: str = "pass"
    kind: str = "bars"
    level: float | None = 1.0


@dataclass(frozen=True)
class Table:
    """`title`: what the numbers are. `shown`: which of the rows are printed, in which order; all by default."""

    title: str
    make: Callable[[], list[Case]]
    chart: Chart
    shown: Callable[[list[Row]], list[Row]] = list

    @cached_property
    def cases(self) -> list[Case]:
        return self.make()


def number(value: Value) -> float:
    """A figure of a row; CSV files hold them as text."""
    return float(value)
