"""Seconds per call of several contestants that take turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

Call = Callable[[], object]
LEAST_SECONDS = 0.005
"""A round repeats a call until it has lasted so long."""
LEAST_ROUNDS = 3
REST_SECONDS = 0.01
MOST_RESTS = 20
"""Between turns a process rests for so many seconds, at most so often."""
LONG_SECONDS = 0.1
"""A call that lasts so long needs none before it to warm the caches."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: of the clock, and of all processors together in this process."""

    wall: float
    cpu: float


def interleaved(calls: Mapping[str, Call], rounds: int, seconds: float) -> dict[str, Timing]:
    """The medians of each call over at most `rounds` rounds, fewer when `seconds` have gone by, but at least 3.

    Every round runs all of them in turn, every second one in the opposite order, so that a busy moment of the machine
    meets all alike. Two calls of each come first and do not count, nor does the first of a turn if it is short.
    """
    repeats, short = {}, {}
    for name, call in calls.items():
        call()
        took = once(call).wall
        repeats[name], short[name] = max(1, int(LEAST_SECONDS / took)), took < LONG_SECONDS
    samples: dict[str, list[Timing]] = {name: [] for name in calls}
    deadline = time.perf_counter() + seconds
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            if turn >= LEAST_ROUNDS and time.perf_counter() > deadline:
                break
            for name in list(calls) if turn % 2 == 0 else reversed(list(calls)):
                rest()
                if short[name]:
                    calls[name]()
                samples[name].append(once(calls[name], repeats[name]))
    finally:
        if collecting:
            gc.enable()
    return {n: Timing(median(t.wall for t in ts), median(t.cpu for t in ts)) for n, ts in samples.items()}


def rest() -> None:
    """Waits until no thread of this process works any longer: those of libraries spin after a call (OpenMP's for some
    5 ms, ONNX Runtime's for 40), on cores that the next one needs."""
    for _ in range(MOST_RESTS):
        before = time.process_time()
        time.sleep(REST_SECONDS)
        if time.process_time() - before <= REST_SECONDS / 5:
            return


def once(call: Call, repeats: int = 1) -> Timing:
    """One call, on the average over `repeats` of them."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        call()
    return Timing((time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats)
