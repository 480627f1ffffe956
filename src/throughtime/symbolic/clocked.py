"""A cell that is told the number of its time step, so that steps of different times can be run side by side."""

from __future__ import annotations

import inspect
from typing import Any

from throughtime.symbolic import language
from throughtime.symbolic.language import Cell, Context
from throughtime.symbolic.replay import with_signature

CLOCK = "number_of_the_time_step"
"""The signal that takes the place of `time()`."""


class Clocked(Cell):
    """The same step, with `signal(CLOCK)` wherever it says `time()`."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.gates, self.recurrent_gates = cell.gates, cell.recurrent_gates  # type: ignore[misc]
        self.biases, self.projection = cell.biases, cell.projection  # type: ignore[misc]
        self.state_widths = cell.state_widths  # type: ignore[misc]
        self.step = with_signature(self._run, list(inspect.signature(cell.step).parameters))

    @property
    def name(self) -> str:
        return self.cell.name

    def _run(self, *values: Any) -> Any:
        with language.running(_Clock(language.current("time"))):
            return self.cell.step(*values)


class _Clock:
    """A step's context with another `time`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def time(self) -> Any:
        return self._context.signal(CLOCK)


__all__ = ["CLOCK", "Clocked"]
