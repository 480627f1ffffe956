"""How threads share the sequences and the units of one step: a model of what that saves, and of what the meetings of
threads cost here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from throughtime.codegen.phases import schedule
from throughtime.symbolic.program import Recurrence, Sizes, size_of

LARGEST_NEAR_SLICE = 4
"""More sequences of one reading of the matrices gain nothing: with two threads they are always two slices."""
SMALLEST_FAR_SLICE, SMALLEST_EXCHANGING_SLICE = 13, 8
"""Sequences of a slice, at least, of matrices that a thread's own caches do not hold: to read them takes as long as the
multiply-adds of so many; and where the members of a team would have more to exchange than their own units."""
NEAR, FAR, NEAR_BYTES = 150, 30, 2 << 20
"""Bytes that a thread reads in a nanosecond of a matrix that its own caches hold, and of a larger one."""
ROWS_OF_ONE_READING = 2.7
"""Multiply-adds of so many sequences take as long as reading a matrix once from a near cache."""
OF_A_UNIT = 0.6
"""Nanoseconds that the pointwise part takes for one unit in one phase."""
OF_A_LINE, LINE_BYTES = 0.35, 64
"""To get a cache line that another thread has written, and to be allowed to write it anew, takes this part of a
meeting."""


class Step(NamedTuple):
    """One step of one group, for one sequence. `size`: bytes of a number; `matrix`: numbers of the matrices;
    `meetings`: of the members of a team; `units`: that its phases make; `exchanged`: numbers that products read, which
    all members have a part in."""

    size: int
    matrix: int
    meetings: int
    units: int
    exchanged: int


def step_of(recurrence: Recurrence, sizes: Sizes, size: int) -> Step:
    """`sizes`: of every symbolic width, per head."""
    phases = schedule(recurrence).phases
    matrix = exchanged = 0
    for phase in phases:
        for product in phase.products:
            depth = sum(size_of(v.width, sizes) for v in product.vectors)
            matrix += size_of(phase.width, sizes) * depth * len(product.nets)
            exchanged += depth
    meetings = len(phases)
    if not any(p.width == 1 and (p.nets or p.totals) for p in phases):
        meetings = sum(p.width != 1 for p in phases)  # single numbers are made by every member for itself, see totals.h
    return Step(size, matrix, meetings, sum(size_of(p.width, sizes) for p in phases), exchanged)


class Division(NamedTuple):
    """How the sequences of a group are divided: into slices of at least `smallest` of them; `team`: threads that may
    share a slice's units."""

    smallest: int
    team: int


def slices(smallest: int, rows: int, groups: int, threads: int) -> int:
    """How many threads, or teams of them, share the sequences of one group; recurrence.h says the same."""
    share = -(-threads // groups)
    count = max(1, min(rows // smallest, share))
    return count if smallest <= LARGEST_NEAR_SLICE else share // -(-share // count)


def division(step: Step, rows: int, groups: int, threads: int, meeting: int, least: int = 1) -> Division:
    """The one with which a step takes least time. `meeting`: nanoseconds of one between two threads; `least`: fewer
    sequences than this are no slice."""
    if step.matrix * step.size > NEAR_BYTES:
        sizes = [SMALLEST_FAR_SLICE if step.exchanged <= step.units else SMALLEST_EXCHANGING_SLICE]
    else:
        sizes = list(range(LARGEST_NEAR_SLICE, least - 1, -1))

    def nanoseconds(found: Division) -> float:
        count = slices(found.smallest, rows, groups, threads)
        return _nanoseconds(step, -(-rows // count), found.team, meeting)

    def divisions() -> Iterator[Division]:
        for smallest in sizes:
            most = max(1, threads // (groups * slices(smallest, rows, groups, threads)))
            yield from (Division(smallest, team) for team in range(1, most + 1))

    return min(divisions(), key=nanoseconds)


def _nanoseconds(step: Step, rows: int, team: int, meeting: int) -> float:
    """Of one step of a slice of so many sequences."""
    own = step.matrix * step.size / team
    reading = own / (NEAR if own <= NEAR_BYTES else FAR)
    found = max(reading, own / NEAR * rows / ROWS_OF_ONE_READING) + OF_A_UNIT * rows * step.units / team
    if team > 1:
        lines = rows * step.exchanged * step.size / LINE_BYTES * (team - 1) / team
        found += meeting * (step.meetings * (1 + (team - 2) / 4) + OF_A_LINE * lines)
    return found
