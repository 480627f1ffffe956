"""Compile a set of source files once and keep the library on disk, safely for many processes and threads.

One directory per key: ``<cache>/<key>/`` holds the sources, the library and ``build.json``. It is made under
another name and appears by one atomic rename, so nobody ever sees half of it; nothing in it is ever written
again. No lock is needed for that: the lock only saves double work, and the kernel releases it when its holder
dies.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shlex
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from throughtime.runtime.compilers import find_compiler
from throughtime.runtime.compiling import AnyCompiler, CompileError, compile_library
from throughtime.runtime.entries import Damaged, read_entry, remove_surplus, write_metadata
from throughtime.runtime.location import CacheWarning, cache_directory, private_directory
from throughtime.runtime.nvrtc import Nvrtc

__all__ = ["Built", "build", "find", "load"]

# How long to wait for another process that compiles the same thing, before compiling it oneself.
LOCK_SECONDS = 60.0
POLL_SECONDS = 0.02

# Fast-math by any name; see compilers.FLAGS.
FORBIDDEN_FLAGS = (
    "-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-ffinite-math-only", "-fassociative-math",
    "-freciprocal-math", "-fno-signed-zeros", "-fcx-limited-range",
)  # fmt: skip
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Built:
    """A library that lies on disk, checked, ready to be loaded.

    Attributes:
        path: the shared library, or the GPU's program; a path is never used again for other bytes.
        cached: whether it was there already.
        seconds: how long the compiler ran; 0 when it was there already.
        compiler: the compiler that made it, as text for a person.
    """

    path: Path
    cached: bool
    seconds: float
    compiler: str


def build(
    name: str, files: Mapping[str, str], main: str, flags: Sequence[str] = (), nvrtc: Nvrtc | None = None
) -> Built:
    """The shared library of the source files given, compiled now unless it was compiled before.

    Args:
        name: what it is called in file names and messages.
        files: file name -> text, for the file to compile and every header that it includes.
        main: the name of the file to compile.
        flags: further compiler flags; those in the environment variable THROUGHTIME_CXXFLAGS come after them.
        nvrtc: compiles to a program for a GPU in the C++ compiler's place; it does not read that variable.

    Raises:
        ValueError: a name is not a plain file name, `main` is not in `files`, or a flag asks for fast-math.
        CompilerNotFound: there is no working compiler.
        CompileError: the compiler failed; its message says where the sources are kept.
    """
    every_flag = _checked(name, files, main, flags, nvrtc)
    directory = cache_directory()
    try:
        return _build(directory, name, files, main, every_flag, nvrtc)
    except OSError as error:
        private = private_directory()
        if directory != private:
            warnings.warn(
                f"The cache directory {directory} cannot be written ({error.strerror or error}): {name} is "
                "compiled into a temporary directory for this process only; make room there, or set "
                "THROUGHTIME_CACHE_DIR to another directory.",
                CacheWarning,
                stacklevel=2,
            )
    try:
        return _build(private, name, files, main, every_flag, nvrtc)
    except OSError as error:
        raise CompileError(
            f"{name} could not be compiled: neither the cache nor the temporary directory {private} can be "
            f"written ({error.strerror or error}); make room, or set THROUGHTIME_CACHE_DIR or TMPDIR to "
            "another directory."
        ) from None


def find(
    name: str, files: Mapping[str, str], main: str, flags: Sequence[str] = (), nvrtc: Nvrtc | None = None
) -> Path | None:
    """The library that `build` would return, if it was compiled before; compiles nothing.

    Raises:
        ValueError, CompilerNotFound: as `build` does.
    """
    every_flag = _checked(name, files, main, flags, nvrtc)
    directory = cache_directory()
    key = _key(name, files, main, every_flag, nvrtc or find_compiler(directory))
    with suppress(Damaged, FileNotFoundError):
        return read_entry(directory / key, key)
    return None


@functools.cache
def _open(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        raise OSError(
            f"The compiled library {path} could not be loaded ({error}): set THROUGHTIME_CACHE_DIR to a "
            "directory from which programs may be run, and if that is not it, clear the cache."
        ) from None


def load(path: Path) -> ctypes.CDLL:
    """Load a library that `build` returned; the same path is loaded once."""
    return _open(Path(path))


def _checked(
    name: str, files: Mapping[str, str], main: str, flags: Sequence[str], nvrtc: Nvrtc | None
) -> tuple[str, ...]:
    """All flags, after a look at everything that ends up in a path or on a command line."""
    for plain in (name, main, *files):
        if not PLAIN_NAME.fullmatch(plain):
            raise ValueError(f"{plain!r} is not a plain file name: use letters, digits, and _ . + - after the first.")
    if main not in files:
        raise ValueError(f"The file to compile, {main!r}, is not among the files given ({', '.join(files)}).")
    every = (*flags, *(() if nvrtc else shlex.split(os.environ.get("THROUGHTIME_CXXFLAGS", ""))))
    for flag in every:
        if flag in FORBIDDEN_FLAGS:
            raise ValueError(
                f"The compiler flag {flag} is refused: it breaks NaN and can flush subnormal numbers in the "
                "whole process; leave it out of `flags` and of THROUGHTIME_CXXFLAGS."
            )
    return every


def _key(name: str, files: Mapping[str, str], main: str, flags: tuple[str, ...], compiler: AnyCompiler) -> str:
    """The sha256 of everything that the library depends on."""
    abi = [platform.system(), platform.machine(), ctypes.sizeof(ctypes.c_void_p)]
    with suppress(ValueError, OSError, AttributeError):
        abi.append(os.confstr("CS_GNU_LIBC_VERSION") or "")
    command = compiler.compile_command(main, "out", flags)
    parts = [_version(), name, main, sorted(files.items()), command, compiler.identity, abi]
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()


@functools.cache
def _version() -> str:
    try:
        return importlib.metadata.version("throughtime")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree: the texts are in the key anyway
        return "unknown"


def _build(
    directory: Path, name: str, files: Mapping[str, str], main: str, flags: tuple[str, ...], nvrtc: Nvrtc | None
) -> Built:
    compiler = nvrtc or find_compiler(directory)
    key = _key(name, files, main, flags, compiler)
    entry = directory / key
    with suppress(Damaged, FileNotFoundError):
        return Built(read_entry(entry, key), True, 0.0, str(compiler))
    with _lock(directory, entry):
        try:
            return Built(read_entry(entry, key), True, 0.0, str(compiler))
        except FileNotFoundError:
            pass
        except Damaged as damage:
            _set_aside(entry, name, damage)
        made, seconds = _make(directory, key, compiler, name, files, main, flags)
        path, cached = _publish(made, entry, key)
    remove_surplus(directory, keep=entry)
    return Built(path, cached, 0.0 if cached else seconds, str(compiler))


def _make(
    directory: Path,
    key: str,
    compiler: AnyCompiler,
    name: str,
    files: Mapping[str, str],
    main: str,
    flags: tuple[str, ...],
) -> tuple[Path, float]:
    """Write the sources and compile them in a fresh directory; that directory and the seconds it took."""
    made = Path(tempfile.mkdtemp(prefix="building-", dir=directory))
    # A path must never come back with other bytes: glibc would hand out what it once loaded from that path.
    library = f"{name}-{secrets.token_hex(8)}{compiler.suffix}"
    try:
        for file, text in files.items():
            (made / file).write_text(text, encoding="utf-8", newline="")
        seconds = compile_library(compiler, name, main, library, flags, made)
        shutil.rmtree(made / "zig", ignore_errors=True)
        write_metadata(made, key, library, {
            "name": name,
            "files": {file: hashlib.sha256(text.encode()).hexdigest() for file, text in files.items()},
            "command": compiler.compile_command(main, library, flags),
            "compiler": json.loads(compiler.identity),
            "version": _version(),
            "seconds": round(seconds, 3),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        })  # fmt: skip
    except CompileError as error:
        kept = made.with_name(made.name.replace("building-", "failed-"))
        made.rename(kept)
        raise CompileError(f"{error}\nsources: {kept}") from None
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return made, seconds


def _publish(made: Path, entry: Path, key: str) -> tuple[Path, bool]:
    """Give the finished directory its name; the library's path, and whether somebody else was first."""
    for _ in range(3):
        try:
            made.rename(entry)
            return read_entry(entry, key), False
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                shutil.rmtree(made, ignore_errors=True)
                raise
        try:
            path = read_entry(entry, key)
        except FileNotFoundError:
            continue
        except Damaged as damage:
            _set_aside(entry, made.name, damage)
            continue
        shutil.rmtree(made, ignore_errors=True)
        return path, True
    # Somebody removes and damages entries as fast as they appear; what was just compiled is still good.
    return read_entry(made, key), False


def _set_aside(entry: Path, name: str, damage: Damaged) -> None:
    """Move a damaged entry out of the way, under a name that says so."""
    aside = entry.with_name(f"damaged-{entry.name[:16]}-{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):  # somebody else has moved it
        entry.rename(aside)
        warnings.warn(
            f"The cached library {name} was damaged ({damage}); it was moved to {aside} and is compiled again.",
            CacheWarning,
            stacklevel=2,
        )


@contextmanager
def _lock(directory: Path, entry: Path) -> Iterator[None]:
    """Wait while another process or thread makes `entry`; give up waiting rather than fail or hang."""
    import fcntl  # only where there is a compiler: not on Windows

    # A fixed set of files, so that they need not be removed, which cannot be done safely.
    try:
        handle = os.open(directory / f"lock-{entry.name[:2]}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while time.monotonic() < deadline:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(POLL_SECONDS)
            except OSError:  # no locks on this file system (ENOLCK, ENOTSUP)
                break
        yield
    finally:
        # A child forked meanwhile holds a copy of the handle: closing ours alone would not release the lock.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)
