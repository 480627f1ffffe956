"""Run a compiler on one set of source files in a private directory, and tell those who want to know."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from throughtime.runtime.compilers import Compiler, child_environment
from throughtime.runtime.nvrtc import Nvrtc

__all__ = ["CompileError", "CompileEvent", "DiskFull", "compile_library", "subscribe"]

ERROR_LINES = 8

AnyCompiler = Compiler | Nvrtc


class CompileError(RuntimeError):
    """The compiler failed. The message holds its command, its first errors and where the sources are kept."""


class DiskFull(OSError):
    """The compiler failed because its output could not be written."""


@dataclass(frozen=True)
class CompileEvent:
    """What a listener is told: a compiler was started, has finished, or has failed.

    Attributes:
        stage: ``started``, ``finished`` or ``failed``.
        name: the name that `build` was given.
        compiler: the compiler, as text for a person.
        seconds: how long it ran; 0 at the start.
    """

    stage: Literal["started", "finished", "failed"]
    name: str
    compiler: str
    seconds: float


Listener = Callable[[CompileEvent], None]
_listeners: list[Listener] = []


def subscribe(listener: Listener) -> Callable[[], None]:
    """Have `listener` called, in the thread that compiles, at the start and end of every compile.

    Returns:
        A function that ends the subscription.
    """
    _listeners.append(listener)

    def unsubscribe() -> None:
        with suppress(ValueError):
            _listeners.remove(listener)

    return unsubscribe


def compile_library(
    compiler: AnyCompiler, name: str, main: str, output: str, flags: tuple[str, ...], directory: Path
) -> float:
    """Compile `main` to the shared library `output`; both are names of files inside `directory`.

    Returns:
        The seconds that the compiler ran.

    Raises:
        CompileError: the compiler failed or was killed.
        DiskFull: the compiler failed and `directory` cannot hold its output.
    """
    command = compiler.compile_command(main, output, flags)
    _tell(CompileEvent("started", name, str(compiler), 0.0))
    start = time.perf_counter()
    finished = False
    try:
        if isinstance(compiler, Nvrtc):
            status, messages = compiler.compile(main, output, flags, directory)
        else:
            status, messages = _run(command, directory)
        finished = status == 0 and (directory / output).is_file()
    finally:
        seconds = time.perf_counter() - start
        _tell(CompileEvent("finished" if finished else "failed", name, str(compiler), seconds))
    if finished:
        return seconds
    if _is_full(messages, status, directory):
        raise DiskFull(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
    raise CompileError(_describe(name, command, status, messages))


def _tell(event: CompileEvent) -> None:
    for listener in tuple(_listeners):
        listener(event)


def _run(command: list[str], directory: Path) -> tuple[int, str]:
    """Run a command to its end; when this thread is interrupted, kill it with all its children."""
    process = None
    try:
        with _postponed_interrupt():
            process = subprocess.Popen(
                command, cwd=directory, env=child_environment(directory), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
                process_group=0,
            )  # fmt: skip
        messages, _ = process.communicate()
    except OSError as error:
        shown = shlex.join(command)
        raise CompileError(f"The C++ compiler could not be started ({error}).\ncommand: {shown}") from None
    except BaseException:
        if process is not None:
            with process, suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, messages


@contextmanager
def _postponed_interrupt() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: while a program is being started it would leave an orphan."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def _is_full(messages: str, status: int, directory: Path) -> bool:
    """Whether a failed compiler seems to have failed for want of space."""
    reasons = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    reasons.append(str(signal.strsignal(signal.SIGXFSZ)))  # of a program that the driver started
    space = os.statvfs(directory)
    return (
        status == -signal.SIGXFSZ
        or any(reason in messages for reason in reasons)
        or space.f_bavail * space.f_frsize < 1 << 16
    )


def _describe(name: str, command: list[str], status: int, messages: str) -> str:
    """The text of a CompileError."""
    how = f"failed with status {status}" if status else "ended with status 0 but wrote no library"
    if status < 0:
        how = f"was killed by signal {-status} ({signal.strsignal(-status)})"
    if status == -signal.SIGKILL:
        how += ", as happens when memory runs out,"
    lines = [line for line in messages.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if "error" in line.lower()), 0)
    shown = lines[first : first + ERROR_LINES]
    told = "\n".join(shown) if shown else "(it printed nothing)"
    what = "CUDA" if command[0] == "nvrtc" else "C++"
    return f'The {what} compiler {how} on "{name}".\ncommand: {shlex.join(command)}\n{told}'
