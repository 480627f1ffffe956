"""Compiles the kernels' vector functions alone and measures their errors; used by test_functions.py."""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import mmap
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import torch
from numpy.typing import NDArray

SKELETONS = Path(__file__).parents[1] / "src" / "throughtime" / "codegen" / "skeletons"
FLAGS = (
    "-std=c++17", "-O3", "-fPIC", "-shared", "-fno-trapping-math", "-fmath-errno", "-ffp-contract=off",
    "-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra", "-Werror",
)  # fmt: skip
COMPILERS = [name for name in ("g++", "clang++") if shutil.which(name)]
FORMATS = {"float": np.float32, "double": np.float64}
# Name -> (error bound in float, in double), from the table that heads functions.h.
BOUNDS = {
    name: (float(single), float(double))
    for name, single, double in re.findall(
        r"^//   (\w+) +([\d.]+) +([\d.]+)$", (SKELETONS / "functions.h").read_text(), re.MULTILINE
    )
}
EXACT = ("absolute", "sign")
DRIVER = """
#include "functions.h"
template <class T, class F>
static void apply(const T* from, T* to, long n, F function) {
  for (long i = 0; i < n; i += tt::lanes<T>) {
    const int count = n - i < tt::lanes<T> ? int(n - i) : tt::lanes<T>;
    if (count == tt::lanes<T>)
      tt::store(to + i, function(tt::load(from + i)));
    else
      tt::store(to + i, function(tt::load(from + i, count)), count);
  }
}
#define UNARY(T, name) \\
  extern "C" void name##_##T(const T* a, T* to, long n) { \\
    apply(a, to, n, [](auto v) { return tt::name(v); }); }
#define BINARY(T, name) \\
  extern "C" void name##_##T(const T* a, const T* b, T* to) { \\
    tt::store(to, tt::name(tt::load(a), tt::load(b))); }
#define OTHERS(T) \\
  extern "C" int lanes_##T() { return tt::lanes<T>; } \\
  extern "C" void copy_##T(const T* from, T* to, int n) { tt::store(to, tt::load(from, n), n); } \\
  extern "C" void spread_##T(const T* from, T* to, int n) { tt::store(to, tt::load(from, n)); } \\
  extern "C" void fma_##T(const T* abc, T* to) { \\
    tt::store(to, tt::fma(tt::splat(abc[0]), tt::splat(abc[1]), tt::splat(abc[2]))); } \\
  extern "C" void choose_##T(int n, const T* a, const T* b, T* to) { \\
    tt::store(to, tt::select(tt::first_lanes<T>(n), tt::load(a), tt::load(b))); } \\
  extern "C" void sum_##T(const T* from, T* to) { *to = tt::sum_lanes(tt::load(from)); }
"""


class Library:
    """The driver, compiled by one compiler for one kind of processor."""

    def __init__(self, compiler: str, march: str, directory: Path) -> None:
        self.name = f"{compiler}-{march}"
        source, self.path = directory / f"{self.name}.cpp", directory / f"{self.name}.so"
        lines = [DRIVER]
        for format_ in FORMATS:
            lines += [f"UNARY({format_}, {name})" for name in (*BOUNDS, *EXACT)]
            lines += [f"BINARY({format_}, minimum)", f"BINARY({format_}, maximum)", f"OTHERS({format_})"]
        source.write_text("\n".join(lines) + "\n")
        command = [compiler, *FLAGS, f"-march={march}", f"-I{SKELETONS}", str(source), "-o", str(self.path)]
        done = subprocess.run([*command, "-lm"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self.library = ctypes.CDLL(str(self.path))

    def call(self, name: str, dtype: type, *arguments: object) -> int:
        """Runs `name` for this element type on arrays (their addresses) and integers."""
        format_ = next(key for key, value in FORMATS.items() if value is dtype)
        values = [
            ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_long(a)
            for a in arguments  # type: ignore[arg-type]
        ]
        return int(getattr(self.library, f"{name}_{format_}")(*values))

    def apply(self, name: str, x: NDArray) -> NDArray:
        y = np.empty_like(x)
        self.call(name, x.dtype.type, x, y, x.size)
        return y


def marches() -> list[str]:
    """The -march values to compile for that this processor can run."""
    if platform.machine() != "x86_64":
        return ["native"]
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    runs_v3 = {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"} <= flags
    return ["native", *(["x86-64-v3"] if runs_v3 else []), "x86-64"]


def logistic(x: NDArray) -> NDArray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


# In double precision, which is exact beside a float's last place.
REFERENCE: dict[str, Callable[[NDArray], NDArray]] = {
    **{name: getattr(np, name) for name in ("exp", "expm1", "tanh", "log", "log1p", "sin", "cos", "sqrt")},
    "sigmoid": logistic,
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    # Fast enough for all floats, and not the function of the C library that the kernels call.
    "erf": lambda x: torch.special.erf(torch.from_numpy(x)).numpy(),
}
PRECISE: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    **{name: getattr(mpmath, name) for name in BOUNDS if name not in ("sigmoid", "softplus")},
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)) if x < 0 else x + mpmath.log1p(mpmath.exp(-x)),
}


def errors(name: str, x: NDArray, y: NDArray) -> NDArray:
    """Errors of floats `y` in ulp; infinite where only one side is finite, or both are not but differ."""
    with np.errstate(all="ignore"):
        exact = REFERENCE[name](x.astype(np.float64))
        exponent = np.clip((exact.view(np.int64) >> 52) & 0x7FF, 1023 - 126, 2046)
        ulp = ((exponent - 23) << 52).view(np.float64)
        error = np.abs(y - exact) / ulp
        rounded = exact.astype(np.float32)
    special = ~(np.isfinite(y) & np.isfinite(rounded))
    if special.any():
        same = (y == rounded) | (np.isnan(y) & np.isnan(exact))
        error[special] = np.where(same[special], 0, np.inf)
    return error


def patterns(start: int, stop: int, stride: int = 1) -> NDArray:
    """The floats whose bits are start, start + stride, ... before stop."""
    return np.arange(start, stop, stride, dtype=np.uint64).astype(np.uint32).view(np.float32)


def guard(path: str) -> None:
    """Copies n elements from and to the very end of a page, behind which lies one that may not be touched."""
    library, libc, page = ctypes.CDLL(path), ctypes.CDLL(None), mmap.PAGESIZE
    memory = mmap.mmap(-1, 3 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for k in (0, 2):
        assert libc.mprotect(ctypes.c_void_p(address + k * page), ctypes.c_size_t(page), 0) == 0
    for format_, dtype in FORMATS.items():
        size = np.dtype(dtype).itemsize
        for n in range(getattr(library, f"lanes_{format_}")() + 1):
            end, start = address + 2 * page - n * size, address + page
            getattr(library, f"copy_{format_}")(ctypes.c_void_p(end), ctypes.c_void_p(start), n)
            getattr(library, f"copy_{format_}")(ctypes.c_void_p(start), ctypes.c_void_p(end), n)


def blocks(size: int = 1 << 22) -> Iterator[NDArray]:
    yield from (patterns(start, start + size) for start in range(0, 1 << 32, size))


RECORD = Path(__file__).with_name("golden") / "function_errors.json"
"""What `measure_all` has found: for each function its largest error over all floats, where, and its `checksum`."""
ROUNDED = ("sin", "cos", "erf")
"""Double functions of the C library, rounded: their bits may differ from one library to another."""


def checksum(library: Library, name: str) -> str:
    """Tells a function from one that gives other bits, at every 40 009th float."""
    y = library.apply(name, patterns(0, 1 << 32, 40_009))
    bits = np.where(np.isnan(y), np.float32(np.nan), y).astype("<f4").tobytes()
    return "" if name in ROUNDED else hashlib.sha256(bits).hexdigest()[:16]


def read_record() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    return found


def measure_all(names: list[str]) -> None:
    """Prints and records each function's largest float error over all bit patterns, and whether tanh ever decreases."""
    with tempfile.TemporaryDirectory() as directory:
        library = Library(COMPILERS[0], "native", Path(directory))
        for name in names:
            began, worst, where, falls, last = time.monotonic(), -1.0, 0.0, 0, -math.inf
            for x in blocks():
                y = library.apply(name, x)
                error = errors(name, x, y)
                k = int(error.argmax())
                if error[k] > worst:
                    worst, where = float(error[k]), float(x[k])
                if name == "tanh" and not np.signbit(x[0]):
                    falls += int(np.sum(np.diff(y, prepend=np.float32(last)) < 0) + np.sum(y > 1))
                    last = float(y[-1])
            note = f", {falls} times above 1 or decreasing" if name == "tanh" else ""
            seconds = time.monotonic() - began
            print(f"{name:9} {worst:.5f} ulp at {where!r}{note} ({seconds:.0f} s)", flush=True)
            found = {"ulp": round(worst, 5), "at": where, "checksum": checksum(library, name)}
            if name == "tanh":
                found["above 1 or decreasing"] = falls
            RECORD.write_text(json.dumps(read_record() | {name: found}, indent=1, sort_keys=True) + "\n", "utf-8")
