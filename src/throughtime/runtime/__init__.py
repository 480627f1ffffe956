"""Compile C++ text once, keep the library on disk, load it, and run its loops on a pool of threads.

This room knows nothing of recurrent cells or tensors and needs only the standard library.
"""

from throughtime.runtime.cache import Built, build, find, load
from throughtime.runtime.compilers import Compiler, CompilerNotFound, find_compiler
from throughtime.runtime.compiling import CompileError, CompileEvent, subscribe
from throughtime.runtime.entries import CacheInfo, cache_clear, cache_info
from throughtime.runtime.location import CacheWarning
from throughtime.runtime.pool import parallel_address

__all__ = [
    "Built",
    "CacheInfo",
    "CacheWarning",
    "CompileError",
    "CompileEvent",
    "Compiler",
    "CompilerNotFound",
    "build",
    "cache_clear",
    "cache_info",
    "find",
    "find_compiler",
    "load",
    "parallel_address",
    "subscribe",
]
