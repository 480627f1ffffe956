"""What the benchmarks share: interleaved timing, the machine's peak, Markdown and CSV tables."""

from __future__ import annotations

import csv
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch

import throughtime as tt

Row = Mapping[str, str | int | float]
LEAST_SECONDS = 0.005  # a round repeats a call until it has lasted so long


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call. Every round runs all of them in turn, so that a busy moment of the machine
    meets all alike; two calls of each come first and do not count."""
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, int(LEAST_SECONDS / seconds(call, 1)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name].append(seconds(call, repeats[name]))
    return {name: median(values) for name, values in samples.items()}


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Seconds of one call, over `repeats` of them."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def peak(threads: int, size: int = 1536, rounds: int = 7) -> float:
    """Multiply-adds of float32 per second, times two, that one large matrix product of torch's reaches."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.randn(size, size), torch.randn(size, size)
        torch.mm(a, b)
        return 2 * size**3 / min(seconds(lambda: torch.mm(a, b), 1) for _ in range(rounds))
    finally:
        torch.set_num_threads(before)


def machine() -> str:
    """One line: processor, compiler, versions."""
    processor = platform.machine()
    if Path("/proc/cpuinfo").exists():
        facts = Path("/proc/cpuinfo").read_text()
        name = re.search(r"model name\s*: (.*)", facts)
        units = " with AVX-512" if "avx512f" in facts else " with AVX2" if "avx2" in facts else ""
        processor = (name[1] if name else processor) + units
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{processor}, {tt.runtime.find_compiler()}, {versions}"


def markdown(rows: Sequence[Row]) -> str:
    """A table with the keys of the first row as its head."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
