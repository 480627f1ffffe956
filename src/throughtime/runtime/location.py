"""Where compiled kernels are kept: a directory that nobody else can write to, or a temporary one."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import stat
import sys
import tempfile
import threading
import warnings
from contextlib import suppress
from pathlib import Path

__all__ = ["CacheWarning", "cache_directory", "private_directory"]

VARIABLE = "THROUGHTIME_CACHE_DIR"


class CacheWarning(UserWarning):
    """The cache of compiled kernels could not be used as it was found; the work goes on without it."""


class _Unusable(Exception):
    """Why a directory is not used."""


def cache_directory() -> Path:
    """The directory of the cache, created with mode 0700 when it is missing.

    ``THROUGHTIME_CACHE_DIR``, else ``$XDG_CACHE_HOME/throughtime``, else ``~/.cache/throughtime`` (macOS:
    ``~/Library/Caches/throughtime``). Code is loaded from it, so one that somebody else owns or can write to
    is refused; then, or when it cannot be written, a private temporary directory takes its place, with one
    warning.
    """
    wanted = tuple(os.environ.get(name, "") for name in (VARIABLE, "XDG_CACHE_HOME", "HOME"))
    with _lock:
        return _choose(*wanted)


def private_directory() -> Path:
    """A directory of this process alone, removed when the process ends."""
    with _lock:
        return _private(os.getpid())


_lock = threading.RLock()
# A child of fork may be born while another thread holds the lock.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@functools.lru_cache(maxsize=16)
def _choose(explicit: str, xdg: str, home: str) -> Path:
    named = f", which {VARIABLE} names," if explicit else ""
    shown = explicit or "~/.cache/throughtime"
    try:
        directory = _wanted(explicit, xdg, home)
        shown = str(directory)
        _prepare(directory)
        return directory
    except (_Unusable, OSError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    warnings.warn(
        f"The cache directory {shown}{named} is not used ({why}): kernels are compiled anew by every "
        f"process, into a temporary directory; set {VARIABLE} to a directory that only you can write to.",
        CacheWarning,
        stacklevel=2,
    )
    return private_directory()


def _wanted(explicit: str, xdg: str, home: str) -> Path:
    if explicit:
        return Path(os.path.abspath(os.path.expanduser(explicit)))
    if os.path.isabs(xdg):  # The XDG specification: a relative path is to be ignored.
        return Path(xdg) / "throughtime"
    try:
        base = Path(home) if home else Path.home()
    except RuntimeError:
        raise _Unusable("the home directory is not known") from None
    return base / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "throughtime"


def _prepare(directory: Path) -> None:
    """Create `directory` if need be; raise if it is not safe or not usable."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    status = directory.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise _Unusable("it is a symbolic link")
    if not stat.S_ISDIR(status.st_mode):
        raise _Unusable("it is not a directory")
    if status.st_uid != os.geteuid():
        raise _Unusable(f"it belongs to user {status.st_uid}, and this process runs as user {os.geteuid()}")
    if status.st_mode & 0o022:
        raise _Unusable(f"others can write to it: its mode is {stat.S_IMODE(status.st_mode):04o}, not 0700")
    above = directory.parent.stat().st_mode
    if above & 0o002 and not above & stat.S_ISVTX:
        raise _Unusable(f"anybody can replace it: {directory.parent} is writable by all and has no sticky bit")
    if os.statvfs(directory).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise _Unusable("its file system is mounted noexec, so that no library can be loaded from it")
    with tempfile.NamedTemporaryFile(dir=directory, prefix="probe-") as probe:
        probe.write(bytes(4096))


@functools.lru_cache(maxsize=1)
def _private(process: int) -> Path:
    """The process's number is an argument so that a child of fork gets one of its own."""
    directory = Path(tempfile.mkdtemp(prefix="throughtime-"))  # mode 0700

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)
    return directory
