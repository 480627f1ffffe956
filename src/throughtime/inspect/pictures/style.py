"""What all pictures have in common: fonts, colours, an axis of characters, and saving."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughtime.fonts import families
from throughtime.inspect.words import Say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, TOTAL, ACROSS, DOWN, ALARM = "#222222", "#8a8a8a", "#222222", "#0b6e99", "#c46a1b", "#b3261e"
MOST_LABELS = 100
"""Up to so many steps, each has its character below the axis."""
Labels = Sequence[str] | range
"""What was read at each step, or a range: the numbers of the steps."""
_SHOWN = {" ": "␣", "\n": "↵", "\t": "⇥", "": "�"}


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure, of so many inches; see `finished`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    return figure


def finished(figure: Figure) -> Figure:
    """The figure, every text of it in fonts that have all its characters, Chinese too. Raises FontMissing."""
    from matplotlib.text import Text

    texts = [found for found in figure.findobj(Text) if isinstance(found, Text)]
    family = families("".join(text.get_text() for text in texts))
    for text in texts:
        text.set_fontfamily(family)
    return figure


def width_for(steps: int, least: float = 8.0) -> float:
    """Inches for an axis of so many steps."""
    return min(28.0, max(least, 2.0 + 0.125 * steps))


def shown(unit: str) -> str:
    """A character or word as it stands below an axis."""
    return _SHOWN.get(unit, unit)


def character_axis(axes: Axes, labels: Labels, say: Say, named: bool = True) -> None:
    """Time goes to the right, with what was read at each step below it."""
    axes.set_xlim(-0.5, len(labels) - 0.5)
    numbers = isinstance(labels, range)
    if len(labels) > MOST_LABELS:
        axes.set_xlabel(say("time step") if named else "")
        return
    axes.set_xticks(range(len(labels)), [shown(str(u)) for u in labels] if named else [], fontsize=8)
    for tick in axes.get_xticklabels():
        tick.set_rotation(90 if len(tick.get_text()) > 1 and not numbers else 0)
    axes.tick_params(axis="x", length=0 if named else 2)
    if named:
        axes.set_xlabel(say("time step") if numbers else say("what the model read, step by step"))


def plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_color(INK)


def titled(axes: Axes, text: str, **style: Any) -> None:
    axes.set_title(text, loc="left", fontsize=10, color=style.pop("color", INK), **style)


def picture(figure: Figure, path: str | Path | None = None) -> bytes:
    """The figure as PNG, or as SVG if the path ends so; written there if a path is given."""
    kind = "svg" if path is not None and Path(path).suffix == ".svg" else "png"
    content = io.BytesIO()
    figure.savefig(content, format=kind)
    if path is not None:
        Path(path).write_bytes(content.getvalue())
    return content.getvalue()
