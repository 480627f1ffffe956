"""Runs the text of CUDA kernels on the CPU: tests/emulation/machine.h in the place of the one that speaks to a GPU."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from throughtime.codegen.cuda import cuda_skeletons
from throughtime.nn.cuda_layout import Scheme
from throughtime.nn.cuda_model import Facts
from throughtime.runtime.location import cache_directory

HERE = Path(__file__).parent / "emulation"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
OUTCOMES = ("done", "deadlock", "a message to a block that has gone", "a write outside memory", "too many arrivals")


class Emulator:
    """A `Machine` (see nn/cuda_kernels.py); each launch has another order of events. `change`: alters the files."""

    def __init__(
        self,
        processors: int = 4,
        shared: int = 1 << 16,
        threads: int = 64,
        tiles: int = 3,
        change: Callable[[dict[str, str]], None] | None = None,
    ) -> None:
        self.facts = Facts("sm_90a", processors, shared, threads, tiles)
        self.seed, self.change = 1, change
        self.schemes: list[Scheme] = []  # of every launch

    def seconds(self, call: Callable[[], None]) -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    def program(self, name: str, text: str, scheme: Scheme, capacity: int) -> Callable[..., None]:
        files = {**cuda_skeletons(), "kernel.cu": text}
        for own in ("machine.h", "main.cpp"):
            files[own] = (HERE / own).read_text()
        if self.change is not None:
            self.change(files)
        function = compiled(files, capacity, scheme.threads).emulate
        function.argtypes = [ctypes.c_void_p, *[ctypes.c_int] * 5, ctypes.c_ulonglong]

        def launch(words: NDArray[np.int64], scheme: Scheme, shared: int) -> None:
            self.seed += 1
            self.schemes.append(scheme)
            blocks, cluster = scheme.teams * scheme.members, scheme.members if scheme.exchange == "Cluster" else 1
            place = words.__array_interface__["data"][0]
            outcome = function(place, len(words), blocks, scheme.threads, cluster, shared, self.seed)
            if outcome:
                raise AssertionError(f"{name}, {scheme}: {OUTCOMES[outcome]}")

        return launch


def compiled(files: dict[str, str], capacity: int, threads: int) -> ctypes.CDLL:
    """The library of these files; as it is large, it is kept beside the package's own kernels."""
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", *WARNINGS]
    flags += [f"-DTT_WORDS={capacity}", f"-DTT_THREADS={threads}"]
    key = hashlib.sha256(repr((sorted(files.items()), flags)).encode()).hexdigest()[:24]
    folder = cache_directory() / "emulated" / key
    library = folder / "kernel.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text)
        done = subprocess.run(
            ["g++", *flags, "main.cpp", "-o", "made.so"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        (folder / "made.so").rename(library)
    return ctypes.CDLL(str(library))
