"""The one pool of threads that all kernels share; it is compiled like a kernel, from ``pool.cpp``."""

from __future__ import annotations

import ctypes
import functools
import sys
from importlib import resources
from pathlib import Path

from throughtime.runtime.cache import build, load

__all__ = ["meeting_nanoseconds", "parallel_address"]


@functools.cache
def _library() -> ctypes.CDLL:
    folder = resources.files("throughtime.runtime")
    names = ("pool.cpp", "openmp.h", "waking.h", "meeting.h")
    texts = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in names}
    library = load(build("pool", texts, "pool.cpp").path)
    library.tt_meeting.restype = ctypes.c_int64
    openmp = _openmp()
    if openmp is not None:
        library.tt_use_openmp(openmp)
    return library


def _openmp() -> ctypes.c_void_p | None:
    """``GOMP_parallel`` of the OpenMP library that this process's torch is linked with (GNU's, LLVM's and Intel's have
    it), on Linux."""
    if sys.platform != "linux":
        return None
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        if line.endswith("/libtorch_cpu.so"):
            try:
                parallel = ctypes.CDLL(line.split(maxsplit=5)[5]).GOMP_parallel
            except (OSError, AttributeError):
                return None
            return ctypes.cast(parallel, ctypes.c_void_p)
    return None


def parallel_address() -> int:
    """The address of the function with which a kernel runs its tasks on several threads.

    ``void tt_parallel(int64_t tasks, int64_t threads, int64_t nanoseconds, void (*task)(void* context, int64_t index),
    void* context)``
    calls ``task(context, index)`` once for every ``0 <= index < tasks``, on the calling thread and at most
    ``threads - 1`` others, in no particular order but for index 0, which is the calling thread's, and returns when all
    are done. ``nanoseconds`` says how long they would take one thread, roughly: threads that sleep are not woken for
    little. Calls from inside a task,
    and calls that come while another thread of the program is using the pool, run on the calling thread
    alone. After a fork the child starts threads of its own. The others are the pool's own threads; or those of torch's
    OpenMP, as long as these spin after an operator of torch's.

    Raises:
        CompilerNotFound: there is no working compiler.
        CompileError: the compiler failed.
    """
    address = ctypes.cast(_library().tt_parallel, ctypes.c_void_p).value
    assert address is not None
    return address


USUAL_MEETING = 100
"""Nanoseconds, between cores that share a cache."""
_measured: list[int] = []


def meeting_nanoseconds(measure: bool = True) -> int:
    """How long two threads of the pool take to wait for each other, at best: measured once, in some 0.1 ms. A machine
    that has no second thread to spare at that moment is taken for a usual one, and so is one that has not been measured
    yet, unless it is to be."""
    if not _measured and measure:
        for _ in range(3):  # the first wakes the second thread
            found = _library().tt_meeting()
            if found:
                break
        _measured.append(found or USUAL_MEETING)
    return _measured[0] if _measured else USUAL_MEETING
