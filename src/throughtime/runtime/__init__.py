"""Compile C++ text once, keep the library on disk, load it, and run its loops on a pool of threads.

This room knows nothing of recurrent cells or tensors and needs only the standard library.
"""

from throughtime.runtime.cache import Built, build, find, load
from throughtime.runtime.compilers import Compiler, CompilerNotFound, find_compiler
from throughtime.runtime.compiling import CompileError, CompileEvent, subscribe
from throughtime.runtime.cuda_driver import CudaError, Function, enter, load_function, shared_memory
from throughtime.runtime.entries import CacheInfo, cache_clear, cache_info
from throughtime.runtime.location import CacheWarning
from throughtime.runtime.nvrtc import Nvrtc, NvrtcNotFound, find_nvrtc
from throughtime.runtime.pool import meeting_nanoseconds, parallel_address

__all__ = [
    "Built",
    "CacheInfo",
    "CacheWarning",
    "CompileError",
    "CompileEvent",
    "Compiler",
    "CompilerNotFound",
    "CudaError",
    "Function",
    "Nvrtc",
    "NvrtcNotFound",
    "build",
    "cache_clear",
    "cache_info",
    "enter",
    "find",
    "find_compiler",
    "find_nvrtc",
    "load",
    "load_function",
    "meeting_nanoseconds",
    "parallel_address",
    "shared_memory",
    "subscribe",
]
