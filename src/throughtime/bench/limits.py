"""What each size costs at least on this machine, before anything is measured on layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from throughtime.bench.cases import Bench, Case, Chart, Row, Table
from throughtime.bench.contestants import FLOAT, KINDS, POINTS, Cost, Point, matrix_rows, pair
from throughtime.bench.machine import multiply_add_seconds


def measure(kind: str, point: Point, bench: Bench) -> Sequence[Row]:
    of_input, of_state = matrix_rows(pair(kind, point.hidden, point.hidden)[0])
    machine = bench.machine
    operations = 2 * point.batch * of_state
    row: Row = {
        "cell": kind,
        "point": point.name,
        "FLOP of W x": float(2 * point.batch * of_input),
        "FLOP of R h": float(operations),
        "KiB of R": FLOAT * of_state / 1024,
        "at the peak µs": 1e6 * operations / machine.peak,
        "to read R µs": 1e6 * machine.seconds_to_read(FLOAT * of_state),
        "one chain µs": 1e6 * point.hidden * multiply_add_seconds(),
    }
    for what in ("inference", "training"):
        row[f"{what} ms"] = 1e3 * Cost(what, point, of_input, of_state).least_seconds(machine)
    return [row]


limits = Table(
    "The least that one step costs: the operations of its two products; the bytes of the recurrent matrices; the "
    "product with the state at the peak; reading the matrices from the cache that holds them; H multiply-adds in a "
    "row, each waiting for the last, as in every net of our kernels. Then the least for all steps, with the "
    "products outside the loop at the peak, which `of roofline` elsewhere compares with.",
    lambda: [Case(f"{kind} {point.name}", partial(measure, kind, point)) for kind in KINDS for point in POINTS],
    Chart("training ms", panel="", level=None),
)
