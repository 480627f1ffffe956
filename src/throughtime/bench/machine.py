"""The machine: its name, its multiply-add peak, how fast it reads memory, and the versions of what is measured."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import re
import threading
import time
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path

import torch

from throughtime import runtime

PROBE_SECONDS = 0.01


@cache
def _probe() -> ctypes.CDLL:
    text = resources.files("throughtime.bench").joinpath("probe.cpp").read_text(encoding="utf-8")
    # A product and a sum written apart are to be one fused multiply-add here.
    library = runtime.load(runtime.build("probe", {"probe.cpp": text}, "probe.cpp", ["-ffp-contract=fast"]).path)
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    library.multiply_add.argtypes, library.multiply_add.restype = [number, pointer], number
    library.chained.argtypes, library.chained.restype = [number, pointer], None
    library.read_floats.argtypes, library.read_floats.restype = [pointer, number, number, pointer], None
    return library


def _rate(work: Callable[[int, int], int], threads: int) -> float:
    """Units per second of all threads together; work(thread, rounds) returns how many units it has done."""
    rounds = 1
    while True:  # as many rounds as last long enough, found on one thread
        begun = time.perf_counter()
        work(0, rounds)
        if (took := time.perf_counter() - begun) > PROBE_SECONDS / 4:
            break
        rounds *= 2
    rounds = max(1, int(rounds * PROBE_SECONDS / took))
    rates = [0.0] * threads
    start = threading.Barrier(threads)

    def run(thread: int) -> None:
        start.wait()
        begun = time.perf_counter()
        done = work(thread, rounds)
        rates[thread] = done / (time.perf_counter() - begun)

    workers = [threading.Thread(target=run, args=(k,)) for k in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(rates)


def multiply_add_rate(threads: int) -> float:
    """FLOP/s of float32 that a loop of independent multiply-adds in registers reaches."""
    results = (ctypes.c_float * threads)()

    def work(thread: int, rounds: int) -> int:
        address = ctypes.addressof(results) + 4 * thread
        return int(_probe().multiply_add(4096 * rounds, address))

    return _rate(work, threads)


def multiply_add_seconds() -> float:
    """Seconds from one multiply-add to the next that needs its result."""
    result = ctypes.c_float()

    def work(_: int, rounds: int) -> int:
        _probe().chained(4096 * rounds, ctypes.addressof(result))
        return 4096 * rounds

    return 1 / max(_rate(work, 1) for _ in range(3))


def product_rate(threads: int, size: int = 1536) -> float:
    """FLOP/s that one large torch.mm in float32 reaches."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.randn(size, size), torch.randn(size, size)
        torch.mm(a, b)
        begun = time.perf_counter()
        torch.mm(a, b)
        return float(2 * size**3 / (time.perf_counter() - begun))
    finally:
        torch.set_num_threads(before)


def read_rate(size: int, threads: int) -> float:
    """Bytes per second at which `threads` threads read `size` bytes again and again, each its own share of them."""
    step = 8 * 64 // 4  # floats: eight of the widest vectors
    count = max(1, size // (4 * threads * step)) * step
    shares = [torch.ones(count) for _ in range(threads)]
    results = (ctypes.c_float * threads)()

    def work(thread: int, rounds: int) -> int:
        address = ctypes.addressof(results) + 4 * thread
        _probe().read_floats(shares[thread].data_ptr(), count, rounds, address)
        return 4 * count * rounds

    return _rate(work, threads)


class Machine:
    """The best rates seen so far: another program may be running at any moment, so each case looks again."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.peak = self.product = 0.0
        self._reading: dict[int, float] = {}

    def look(self) -> None:
        """Measures the peak again; the first time until two results out of ten have agreed on the best."""
        for _ in range(1 if self.peak else 10):
            before, found = self.peak, multiply_add_rate(self.threads)
            self.peak = max(before, found)
            if min(before, found) > 0.98 * self.peak:
                break

    def look_at_products(self) -> None:
        """Measures one large product of torch's again."""
        self.product = max(self.product, *(product_rate(self.threads) for _ in range(3)))

    def seconds_to_read(self, size: int) -> float:
        """The least time in which `size` bytes, read again and again, come from the cache or memory they fit in, with
        one thread or as many as there are, and none waiting for another."""
        counts = {1, self.threads}
        rate = max(read_rate(size, count) for count in counts for _ in range(3))
        self._reading[size] = max(self._reading.get(size, 0.0), rate)
        return size / self._reading[size]

    def about(self) -> str:
        """One line for under a table."""
        parts = [f"{processor()}, {many(self.threads)}; {versions()}"]
        if self.peak:
            parts.append(f"multiply-add peak {self.peak / 1e9:.0f} GFLOP/s")
        if self.product:
            parts.append(f"one large torch.mm {self.product / 1e9:.0f} GFLOP/s")
        return "; ".join(parts)


def many(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def processor() -> str:
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        found = re.search(r"model name\s*: (.*)", facts)
        units = " with AVX-512" if "avx512f" in facts else " with AVX2" if "avx2" in facts else ""
        name = (found[1] if found else platform.machine()) + units
    return name


def versions() -> str:
    own = importlib.metadata.version("throughtime")
    return (
        f"throughtime {own}, torch {torch.__version__}, {runtime.find_compiler()}, Python {platform.python_version()}"
    )
