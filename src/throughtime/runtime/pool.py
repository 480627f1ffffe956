"""The one pool of threads that all kernels share; it is compiled like a kernel, from ``pool.cpp``."""

from __future__ import annotations

import ctypes
import functools
from importlib import resources

from throughtime.runtime.cache import build, load

__all__ = ["parallel_address"]


@functools.cache
def _library() -> ctypes.CDLL:
    text = resources.files("throughtime.runtime").joinpath("pool.cpp").read_text(encoding="utf-8")
    return load(build("pool", {"pool.cpp": text}, "pool.cpp").path)


def parallel_address() -> int:
    """The address of the function with which a kernel runs its tasks on several threads.

    ``void tt_parallel(int64_t tasks, int64_t threads, void (*task)(void* context, int64_t index),
    void* context)``
    calls ``task(context, index)`` once for every ``0 <= index < tasks``, on the calling thread and at most
    ``threads - 1`` others, in no particular order, and returns when all are done. Calls from inside a task,
    and calls that come while another thread of the program is using the pool, run on the calling thread
    alone. After a fork the child starts threads of its own.

    Raises:
        CompilerNotFound: there is no working compiler.
        CompileError: the compiler failed.
    """
    address = ctypes.cast(_library().tt_parallel, ctypes.c_void_p).value
    assert address is not None
    return address
