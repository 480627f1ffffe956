"""A very long sequence: memory and time of a training step, plain and with `recompute`, each in its own process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from throughtime.bench.cases import Bench, Case, Chart, Row, Table
from throughtime.tasks.errors import Failure

STEPS, BATCH, HIDDEN = 100_000, 1, 64
PIECE = math.isqrt(STEPS)
"""Steps between the states that are kept: about the square root of all takes the least memory."""
KINDS = ("RNN", "GRU", "LSTM")
PLAIN, RECOMPUTE, RIVAL = "plain", f"recompute={PIECE}", "torch.nn"


def run(kind: str, way: str, threads: int, gradients: Path) -> dict[str, float]:
    """What a fresh process finds: seconds of the step, bytes of memory at its peak above those before it."""
    command = [sys.executable, "-m", "throughtime.bench.long_step", kind, way, str(threads), str(gradients)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stderr.strip() or f"it was ended by signal {-done.returncode}").splitlines()[-1]
        raise Failure(f"the training step of {kind} ({way}) over {STEPS} steps failed: {told}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(kind: str, ways: Sequence[str], bench: Bench) -> Sequence[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{k}.pt" for k in range(len(ways))]
        for way, path in zip(ways, paths, strict=True):
            found = run(kind, way, bench.machine.threads, path)
            own, plain = torch.load(path), torch.load(paths[0])
            error = max(((a - b).norm() / b.norm()).item() for a, b in zip(own, plain, strict=True))
            rows.append(
                {
                    "cell": kind,
                    "way": way,
                    "seconds": found["seconds"],
                    "µs per step": 1e6 * found["seconds"] / STEPS,
                    "MiB": found["bytes"] / 2**20,
                    "bytes per step and unit": found["bytes"] / (STEPS * BATCH * HIDDEN),
                    f"gradients beside {ways[0]}": f"{error:.1e}",
                }
            )
    return rows


long = Table(
    f"A training step over T = {STEPS}, batch {BATCH}, hidden {HIDDEN}, inputs as wide: seconds, and the memory that "
    "it takes at its peak above what the process has before. The last column: the largest relative difference of a "
    "gradient from the first way's.",
    lambda: [
        *(Case(f"{kind} {PLAIN} {RECOMPUTE}", partial(measure, kind, (PLAIN, RECOMPUTE))) for kind in KINDS),
        *(Case(f"{kind} {RIVAL}", partial(measure, kind, (RIVAL,))) for kind in KINDS),
    ],
    Chart("MiB", x="cell", series="way", panel="", level=None),
)
