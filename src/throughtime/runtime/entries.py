"""The entries of the cache: reading one with all checks, measuring them, removing the oldest or all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughtime.runtime.location import cache_directory

__all__ = [
    "CacheInfo",
    "Damaged",
    "cache_clear",
    "cache_info",
    "read_entry",
    "remove_surplus",
    "write_metadata",
]

METADATA = "build.json"
ENTRY = re.compile(r"[0-9a-f]{64}")
LEFTOVER = re.compile(r"(building|damaged|failed|removed|probe)-.*|compiler-.*\.part")

CACHE_BYTES = 1 << 30
# An entry just used may be about to be loaded by the process that used it.
RECENT_SECONDS = 60.0
# What a killed process left, and what was kept to be looked at, goes after a day.
LEFTOVER_SECONDS = 86400.0


class Damaged(Exception):
    """An entry is not what was once written; the message says in what."""


@dataclass(frozen=True)
class CacheInfo:
    """Where the cache is and what it holds.

    Attributes:
        location: its directory.
        entries: the number of compiled libraries.
        bytes: the size of everything in it.
    """

    location: Path
    entries: int
    bytes: int


def write_metadata(directory: Path, key: str, library: str, facts: dict[str, Any]) -> None:
    """Write ``build.json``: the given facts, and what `read_entry` checks."""
    content = (directory / library).read_bytes()
    checked = {"key": key, "library": library, "size": len(content), "sha256": _digest(content)}
    (directory / METADATA).write_text(json.dumps(checked | facts, indent=1) + "\n", encoding="utf-8")


def read_entry(entry: Path, key: str) -> Path:
    """The library of an entry, when every byte of it is as it was written.

    A truncated library kills the process that loads it, so this comes before every load.

    Raises:
        FileNotFoundError: there is no such entry.
        Damaged: there is, and it cannot be used.
    """
    if not entry.is_dir():
        if entry.exists():
            raise Damaged("it is not a directory")
        raise FileNotFoundError(entry)
    try:
        known = json.loads((entry / METADATA).read_text(encoding="utf-8"))
        library, size, digest = str(known["library"]), known["size"], known["sha256"]
        if known["key"] != key or os.path.basename(library) != library:
            raise Damaged(f"{METADATA} belongs to another entry")
        content = (entry / library).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not entry.exists():  # removed by another process between two lines of this function
            raise FileNotFoundError(entry) from None
        raise Damaged(f"{type(error).__name__}: {error}") from None
    if len(content) != size:
        raise Damaged(f"{library} has {len(content)} bytes instead of {size}")
    if _digest(content) != digest:
        raise Damaged(f"the checksum of {library} is wrong")
    with suppress(OSError):
        os.utime(entry / METADATA)  # the time of the last use
    return entry / library


def cache_info() -> CacheInfo:
    """Where the cache is, how many libraries it holds and how many bytes."""
    directory = cache_directory()
    count = sum(1 for path in directory.iterdir() if ENTRY.fullmatch(path.name))
    return CacheInfo(directory, count, sum(_size(path) for path in directory.iterdir()))


def cache_clear() -> int:
    """Remove every library of the cache; those that are loaded stay usable.

    Returns:
        The number of libraries removed.
    """
    entries = 0
    for path in list(cache_directory().iterdir()):
        if ENTRY.fullmatch(path.name):
            entries += _remove(path)
        elif path.name == "zig" or (LEFTOVER.fullmatch(path.name) and not path.name.startswith("building-")):
            _remove(path)
    return entries


def remove_surplus(directory: Path, keep: Path) -> None:
    """Remove old leftovers, then the least recently used entries above `CACHE_BYTES`, but never `keep`."""
    now = time.time()
    used = []
    with suppress(OSError):  # another process may be removing the same things
        for path in list(directory.iterdir()):
            if ENTRY.fullmatch(path.name):
                used.append((_modified(path / METADATA), _size(path), path))
            elif LEFTOVER.fullmatch(path.name) and now - _modified(path) > LEFTOVER_SECONDS:
                _remove(path)
    total = sum(size for _, size, _ in used)
    for last_use, size, path in sorted(used):
        if total <= CACHE_BYTES:
            break
        if path != keep and now - last_use > RECENT_SECONDS:
            _remove(path)
            total -= size


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _modified(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _size(path: Path) -> int:
    """The bytes of a file, or of the files in a directory; what has vanished counts as nothing."""
    with suppress(OSError):
        if path.is_dir():
            return sum(_size(inner) for inner in path.iterdir())
        return path.stat().st_size
    return 0


def _remove(path: Path) -> bool:
    """Remove a file or a directory; a directory first loses its name, so that nobody finds half of it."""
    try:
        if not path.is_dir():
            path.unlink()
            return True
        gone = path.with_name(f"removed-{secrets.token_hex(8)}")
        path.rename(gone)
    except OSError:  # another process was first
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True
