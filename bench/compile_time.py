"""What a cell costs before its first step: derivation, compilation, loading; and what each call costs.

    python bench/compile_time.py [--csv FILE]

See README.md in this folder for what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.bench.cases import Row
from throughtime.bench.machine import processor, versions
from throughtime.bench.report import markdown, write_csv
from throughtime.bench.timing import interleaved
from throughtime.nn.libraries import routines

ROUNDS, SECONDS = 200, 10.0


def first_steps() -> dict[str, dict[str, float]]:
    """For every cell of the catalogue: seconds until its first forward and backward pass, in this process. First, what
    all of them share: the pool of threads and the products."""
    begun = time.perf_counter()
    tt.runtime.parallel_address()
    routines("float32")
    shared = time.perf_counter() - begun
    warm_up = nn.Linear(8, 8)
    warm_up(torch.zeros(1, 8)).sum().backward()
    moments: list[tuple[str, float]] = []
    tt.runtime.subscribe(lambda event: moments.append((event.stage, time.perf_counter())))
    found = {"shared by all": {"before": 0.0, "compiling": shared, "total": shared}}
    for name, factory in tt.cells.catalogue.items():
        moments.clear()
        begun = time.perf_counter()
        layer = tt.Recurrent(factory(), 8, 8)
        layer(torch.zeros(2, 1, 8))[0].sum().backward()
        total = time.perf_counter() - begun
        compiling = moments[-1][1] - moments[0][1] if moments else 0.0
        before = moments[0][1] - begun if moments else total
        found[name] = {"before": before, "compiling": compiling, "total": total}
    return found


def in_fresh_process(cache: str) -> dict[str, dict[str, float]]:
    """`first_steps`, run by another Python with that cache."""
    done = subprocess.run(
        [sys.executable, __file__, "--first-steps"],
        env={**os.environ, "THROUGHTIME_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    result: dict[str, dict[str, float]] = json.loads(done.stdout)
    return result


def compile_rows() -> list[Row]:
    """Seconds per cell, first with an empty cache, then with the cache that this left."""
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = in_fresh_process(cache), in_fresh_process(cache)
    return [
        {
            "cell": name,
            "derive and print s": round(cold[name]["before"], 3),
            "compile s": round(cold[name]["compiling"], 2),
            "first call with a warm cache s": round(warm[name]["total"], 3),
        }
        for name in cold
    ]


def call_rows() -> list[Row]:
    """Microseconds of one call with next to nothing to compute: T = 1, B = 1, H = 8."""
    torch.set_num_threads(1)  # there is nothing to share
    rows: list[Row] = []
    x = torch.randn(1, 1, 8)
    ones = torch.ones(1, 1, 8)
    for kind in ("RNN", "GRU", "LSTM"):
        ours, rival = getattr(tt, kind)(8, 8), getattr(nn, kind)(8, 8)
        times = interleaved(
            {
                "forward": inference(ours, x),
                "rival's forward": inference(rival, x),
                "training": training(ours, x, ones),
                "rival's training": training(rival, x, ones),
            },
            ROUNDS,
            SECONDS,
        )
        rows.append(
            {
                "layer": kind,
                "forward µs": round(1e6 * times["forward"].wall, 1),
                "nn's forward µs": round(1e6 * times["rival's forward"].wall, 1),
                "forward+backward µs": round(1e6 * times["training"].wall, 1),
                "nn's forward+backward µs": round(1e6 * times["rival's training"].wall, 1),
            }
        )
    return rows


def inference(layer: nn.Module, x: Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return layer(x)

    return call


def training(layer: nn.Module, x: Tensor, cotangent: Tensor) -> Callable[[], object]:
    parameters = list(layer.parameters())
    return lambda: torch.autograd.grad(layer(x)[0], parameters, cotangent)


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a cell before its first step, and of each call.")
    parser.add_argument("--csv", type=Path, help="write the rows of the first table to this file too")
    parser.add_argument("--first-steps", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_steps:
        json.dump(first_steps(), sys.stdout)
        return
    print(f"{processor()}; {versions()}\n")
    rows = compile_rows()
    print(f"{markdown(rows)}\n\nT = 1, batch 1, hidden 8, 1 thread:\n\n{markdown(call_rows())}")
    if options.csv:
        write_csv(options.csv, rows)


if __name__ == "__main__":
    main()
