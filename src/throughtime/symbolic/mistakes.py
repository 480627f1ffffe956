"""What a step's author is told when the step cannot be read: the reason and the line."""

from __future__ import annotations

import difflib
import inspect
import linecache
import traceback
from typing import Any

from throughtime.symbolic import activations, functions, language
from throughtime.symbolic.graph import EquationError


def quoted(error: Exception, cell: language.Cell, step: Any) -> EquationError:
    """The error with the line of the step that caused it; for an unknown symbol, the nearest known word."""
    # A step that replays another has no lines of its author's.
    file = step.__code__.co_filename if hasattr(step, "__code__") and not hasattr(step, "__signature__") else ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    line = ""
    if frames:
        source = linecache.getline(frames[-1].filename, frames[-1].lineno or 0).strip()
        line = f', in "{source}"' if source else ""
    if isinstance(error, EquationError):
        message = str(error)
    elif isinstance(error, NameError):
        words = [n for m in (functions, activations, language) for n, v in vars(m).items() if _is_word(m, n, v)]
        near = difflib.get_close_matches(str(error.name), words, 1)
        hint = f": did you mean {near[0]}? (from throughtime import {near[0]})" if near else ": import it or define it"
        message = f"the symbol {error.name!r} is not known{hint}"
    else:
        foreign = "Node" in str(error)
        hint = ": write functions of throughtime, such as tanh(v), not of other libraries" if foreign else ""
        reason = str(error).replace("'Node'", "a value of the equation").replace("Node", "a value of the equation")
        message = f"the step cannot be read as an equation ({type(error).__name__}: {reason}){hint}"
    return EquationError(f"{cell.name}.step: {message}{line}")


def _is_word(module: Any, name: str, value: Any) -> bool:
    """Whether this is a function that a step can use."""
    return inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
