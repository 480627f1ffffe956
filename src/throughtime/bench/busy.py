"""A busy machine: how much slower a training step becomes while other processes take the cores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from throughtime.bench.cases import Bench, Case, Chart, Row, Table
from throughtime.bench.contestants import KINDS, Point, asked, pair
from throughtime.bench.timing import Timing

POINTS = (Point(100, 1, 150), Point(100, 32, 150), Point(64, 64, 256))
SPIN = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {int(sys.argv[1])})
print(flush=True)
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1000000):
        pass
"""
"""Another program at work on the core that it is given, for as long as this one lives."""
SETTLE_SECONDS = 0.2


@contextmanager
def competitors(cores: Sequence[int]) -> Iterator[None]:
    """A process on each of these cores that never rests."""
    others = [
        subprocess.Popen([sys.executable, "-c", SPIN, str(core)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        for core in cores
    ]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()  # it runs
        time.sleep(SETTLE_SECONDS if others else 0)
        yield
    finally:
        for other in others:
            other.kill()
            with other:
                pass


def my_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def measure(kind: str, point: Point, bench: Bench) -> Sequence[Row]:
    torch.manual_seed(0)
    ours, rival = pair(kind, point.hidden, point.hidden)
    x = torch.randn(point.steps, point.batch, point.hidden, requires_grad=True)
    cotangent = torch.randn(point.steps, point.batch, point.hidden)
    calls = {name: asked("training", layer, x, cotangent) for name, layer in (("ours", ours), ("rival", rival))}
    # As many cores as the layers have threads: the machine is full when each has a competitor.
    cores = my_cores()[: bench.machine.threads]
    rows: list[Row] = []
    quiet: dict[str, Timing] = {}
    for busy in sorted({0, 1, len(cores)}):
        with competitors(cores[:busy]):
            times = bench.time(calls)
        quiet = quiet or times
        rows.append(
            {
                "cell": kind,
                "point": point.name,
                "busy cores": f"{busy} of {len(cores)}",
                "ours ms": 1e3 * times["ours"].wall,
                "slower": times["ours"].wall / quiet["ours"].wall,
                "rival ms": 1e3 * times["rival"].wall,
                "its slower": times["rival"].wall / quiet["rival"].wall,
                "ratio": times["rival"].wall / times["ours"].wall,
            }
        )
    return rows


busy = Table(
    "Training while other processes compute on some of the cores: milliseconds, how many times slower than when the "
    "cores are free, and torch.nn's time over ours (ratio).",
    lambda: [
        Case(f"{kind} {point.name}", partial(measure, kind, point)) for kind in list(KINDS)[:3] for point in POINTS
    ],
    Chart("slower", panel="busy cores", level=None),
)
