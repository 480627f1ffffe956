"""Pictures of any numbers over time: heat maps and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from throughtime.inspect.pictures.style import (
    ACROSS,
    ALARM,
    DOWN,
    FAINT,
    INK,
    Labels,
    character_axis,
    finished,
    new_figure,
    plain,
    titled,
    width_for,
)
from throughtime.inspect.words import Lang, speaker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = (ACROSS, DOWN, INK, ALARM, "#2a8f5a", "#7a4fa3", FAINT)
Lines = Mapping[str, Any]
"""Name -> the numbers [T] of a line: a list, an array or a tensor."""


def draw_heat(tables: Mapping[str, Any], labels: Labels | None = None, title: str = "", *, lang: Lang = "en") -> Figure:
    """Numbers of many units over time, as colours on one scale around 0.

    Args:
        tables: what a heat map shows -> its numbers [T, units]; one below the other, all with the same T.
        labels: what was read at each of the T steps, or their numbers as a range. None: 0 to T - 1.
        title: above all of them.
    """
    say = speaker(lang)
    found = {name: _numbers(table, 2) for name, table in tables.items()}
    steps = {len(table) for table in found.values()}
    if len(steps) != 1 or (labels is not None and len(labels) not in steps):
        given = "" if labels is None else f" and {len(labels)} labels"
        raise ValueError(f"tables and labels should have the same number of steps, got {sorted(steps)}{given}")
    shown: Labels = range(steps.pop()) if labels is None else labels
    figure = new_figure(width_for(len(shown), 7), 0.6 + 1.7 * len(found), title)
    grid = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    bound = max(float(np.abs(table).max()) for table in found.values()) or 1.0
    for axes, (name, table) in zip(grid, found.items(), strict=True):
        image = axes.imshow(table.T, aspect="auto", cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
        character_axis(axes, shown, say, named=axes is grid[-1])
        axes.set(ylabel=say("units"), yticks=[])
        titled(axes, name)
    figure.colorbar(image, ax=list(grid), pad=0.01)
    return finished(figure)


def draw_lines(
    lines: Lines | Mapping[str, Lines],
    title: str = "",
    *,
    at: Sequence[float] | None = None,
    along: str | None = None,
    log: Literal["", "x", "y", "xy"] = "y",
    mean: int = 1,
    lang: Lang = "en",
) -> Figure:
    """Lengths of errors over the steps, a loss over the updates: one or more lines.

    Args:
        lines: name -> numbers [T]. Or title -> such lines, for several pictures side by side on one scale.
        at: the T places of the numbers. None: 0 to T - 1.
        along: what these places are. None: time steps.
        log: the axes with a logarithmic scale, on which only numbers above 0 are drawn.
        mean: draw, over the numbers in grey, their mean over so many.
    """
    say = speaker(lang)
    several = all(isinstance(value, Mapping) for value in lines.values())
    panels = cast(Mapping[str, Lines], lines) if several else {title: cast(Lines, lines)}
    figure = new_figure(max(7.0, 5.0 * len(panels)), 3.2, title if several else "")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (name, own) in zip(grid, panels.items(), strict=True):
        for color, (line, given) in zip(COLORS, own.items(), strict=False):
            numbers = _numbers(given, 1)
            places = np.arange(len(numbers)) if at is None else np.asarray(at, dtype=float)
            if len(places) != len(numbers):
                raise ValueError(f"at has {len(places)} places, but {line!r} has {len(numbers)} numbers")
            if not 1 <= mean <= len(numbers):
                raise ValueError(f"mean should be 1 to {len(numbers)} for {line!r}, got {mean}")
            seen = numbers if "y" not in log else np.where(numbers > 0, numbers, np.nan)
            dots = {"marker": "o", "markersize": 3.0} if len(numbers) <= 30 else {}
            if mean == 1:
                axes.plot(places, seen, color=color, linewidth=1.5, label=line, **dots)
                continue
            axes.plot(places, seen, ".", color=FAINT, markersize=2, label=line)
            smooth = np.convolve(numbers, np.ones(mean) / mean, "valid")
            told = say("mean over {count}", count=mean)
            axes.plot(places[mean - 1 :], smooth, color=color, linewidth=1.5, label=told)
        axes.set_xscale("log" if "x" in log else "linear")
        axes.set_yscale("log" if "y" in log else "linear")
        if "y" not in log:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_xlabel(say("time step") if along is None else along)
        titled(axes, name)
        plain(axes)
    if len(axes.get_lines()) > 1:
        grid[0].legend(frameon=False, fontsize=8)
    return finished(figure)


def _numbers(given: Any, axes: int) -> np.ndarray:
    given = given.detach().cpu() if hasattr(given, "detach") else given
    numbers = np.asarray(given, dtype=np.float64)
    if numbers.ndim != axes or not numbers.size:
        wanted = "[T]" if axes == 1 else "[T, units]"
        raise ValueError(f"numbers over time should have the shape {wanted}, got {list(numbers.shape)}")
    return numbers
