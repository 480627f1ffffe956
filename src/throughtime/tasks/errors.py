"""Errors a command reports as one sentence, without a traceback."""

from __future__ import annotations


class CommandError(Exception):
    """A problem to be told to the person at the terminal in one sentence.

    Its text names what was given, what was expected and what to do; `exit_code` is the process's exit status.
    """

    exit_code = 1


class UsageError(CommandError):
    """The command was asked for something that cannot be: a missing file, an unknown name, a bad value."""

    exit_code = 2


class Failure(CommandError):
    """The command was right but could not be carried out: damaged run, full disk, diverged training."""

    exit_code = 1


class Interrupted(CommandError):
    """Training was stopped by a signal, after its state was saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def library_errors() -> tuple[type[Exception], ...]:
    """The package's own errors, with messages for people: a bad equation, no compiler, a failed one."""
    from throughtime.runtime import CompileError, CompilerNotFound
    from throughtime.symbolic.graph import EquationError

    return EquationError, CompileError, CompilerNotFound
