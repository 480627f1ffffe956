"""A name of the catalogue or FILE.py:Name -> a cell."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import throughtime as tt
from throughtime.tasks.errors import UsageError

if TYPE_CHECKING:
    from throughtime import Cell


def choose_cell(name: str, option: str = "--cell ") -> Cell:
    """The cell of this name; every way to get it wrong has its sentence, which begins with `option` and what it was
    given."""
    if name in tt.cells.catalogue:
        return tt.cells.catalogue[name]()
    file, colon, attribute = name.rpartition(":")
    if colon and file.endswith(".py"):
        return _from_file(file, attribute, option)
    if name.endswith(".py"):
        raise UsageError(f"{option}{name}: say which class in it, as {name}:Name")
    known = ", ".join(tt.cells.catalogue)
    near = difflib.get_close_matches(name.lower(), tt.cells.catalogue, n=1, cutoff=0.4)
    meant = f"; did you mean {near[0]}?" if near else "."
    raise UsageError(f"{option}{name}: no such cell{meant} Known: {known}, or FILE.py:Name for your own")


def _from_file(file: str, name: str, option: str) -> Cell:
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"{option}{file}:{name}: no such file {file}")
    found = getattr(_load(path, option), name, None)
    if found is None:
        raise UsageError(f"{option}{file}:{name}: {file} defines no {name}")
    try:
        cell: Any = found if isinstance(found, tt.Cell) else found()
    except Exception as error:
        raise UsageError(f"{option}{file}:{name}: {name}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(cell, tt.Cell):
        raise UsageError(f"{option}{file}:{name}: {name} is not a throughtime.Cell; derive it from one")
    return cell


def _load(path: Path, option: str) -> Any:
    specification = importlib.util.spec_from_file_location(f"throughtime_user_{path.stem}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        line = _line_in(path, error)
        raise UsageError(f"{option}{path} failed{line}: {type(error).__name__}: {error}") from error
    return module


def _line_in(path: Path, error: Exception) -> str:
    """Where in the user's file it went wrong."""
    if isinstance(error, SyntaxError):
        return f" in line {error.lineno}"
    trace, line = error.__traceback__, ""
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).resolve() == path.resolve():
            line = f" in line {trace.tb_lineno}"
        trace = trace.tb_next
    return line
