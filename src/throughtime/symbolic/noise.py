"""Counter-based random numbers: a function of (seed, stream, time, sequence, unit), the same in every backend.

The mixing function is triple32 (C. Wellons, "Prospecting for hash functions"), applied to one counter after the other.
"""

from __future__ import annotations

import zlib
from typing import Any

MASK = 0xFFFFFFFF
GOLDEN = 0x9E3779B9
"""2^32 / golden ratio: neighbouring counters start far apart."""


def stream_number(name: str) -> int:
    """The number that keeps two noises of one equation apart."""
    return zlib.crc32(name.encode())


def mix(v: Any) -> Any:
    """triple32 on 32-bit numbers held in Python or int64 tensor integers."""
    v = v ^ (v >> 17)
    v = (v * 0xED5AD4BB) & MASK
    v = v ^ (v >> 11)
    v = (v * 0xAC4C1B51) & MASK
    v = v ^ (v >> 15)
    v = (v * 0x31848BAB) & MASK
    return v ^ (v >> 14)


def direction_seed(seed: int, direction: int) -> int:
    """The two directions of a layer draw different numbers."""
    return (seed + direction * GOLDEN * GOLDEN) % 2**62


def uniform(seed: int, stream: int, time: Any, sequence: Any, unit: Any) -> Any:
    """Numbers in [0, 1), multiples of 2^-24. `sequence` [B, 1] and `unit` [W] are int64 tensors, `time` a number."""
    key = mix((seed & MASK) ^ stream)
    key = mix(key ^ ((seed >> 32) & MASK))
    key = mix(key ^ (time & MASK))
    key = mix(key ^ sequence)
    return (mix((key + unit * GOLDEN) & MASK) >> 8) * 2.0**-24
