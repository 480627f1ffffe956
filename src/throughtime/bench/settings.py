"""What `throughtime bench` is told. Loads neither torch nor NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from throughtime.tasks.errors import UsageError

TableName = Literal[
    "layers", "inference", "dtypes", "grid", "cells", "lengths", "stream", "busy", "long", "subnormals", "parts",
    "rivals", "limits",
]  # fmt: skip


@dataclass(frozen=True)
class BenchSettings:
    """Measure throughtime's layers against torch.nn's on this machine, with the same weights, in the same run.

    layers: training, RNN, GRU, LSTM and a cell in a Python loop, nine sizes. inference: the same without gradients.
    dtypes: both in float64 and bfloat16.
    grid: a wide range of sizes, stacks, directions, lengths and one-hot input; the worst ten points.
    cells: the arithmetic rate of less common cells beside GRU's and LSTM's. lengths: ragged batches beside padded ones.
    stream: one step at a time. busy: with other processes on one and on both cores. long: 100 000 steps, memory and
    time. subnormals: states too small for ordinary floats. parts: where the time goes. rivals: JAX and ONNX Runtime.
    limits: what each size costs at least.
    """

    tables: Positional[Annotated[tuple[TableName, ...], arg(metavar="[TABLE ...]")]] = ()
    """Which tables: layers, inference, dtypes, grid, cells, lengths, stream, busy, long, subnormals, parts, rivals,
    limits.
    Default: layers and inference."""
    only: UseAppendAction[tuple[str, ...]] = ()
    """Measure only the cases with all these words in their names, as in --only "GRU B1"; may be repeated: any of
    them."""
    threads: int | None = None
    """CPU threads. Default: torch's choice."""
    rounds: int = 15
    """Rounds that the medians are taken over, the contestants in turn in each."""
    seconds: float = 2.0
    """End the rounds of a case after so many seconds, but not before the third."""
    minutes: float | None = None
    """Begin no case after so many minutes."""
    seed: int | None = None
    """Shuffle the cases, the same seed in the same way: with --minutes a random choice among them."""
    csv: str | None = None
    """Write the rows to this file too, whole after every case."""
    png: str | None = None
    """Draw the tables into this file; with several tables their names are added to it."""
    resume: bool = False
    """Keep the rows that the CSV file holds already and measure only the cases that it lacks."""

    def check(self) -> None:
        """Raises UsageError where something cannot be."""
        for name in ("threads", "rounds", "seconds", "minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name} {value}: give a number above 0")
        if self.resume and self.csv is None:
            raise UsageError("--resume needs --csv FILE, the file to continue")
