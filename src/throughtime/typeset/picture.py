"""Formulas as a picture, drawn by matplotlib's own mathematics; no TeX is needed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughtime.fonts import families

if TYPE_CHECKING:
    from throughtime.typeset.formulas import Formulas

INK, FAINT = "#1a1a1a", "#666666"
MARGIN, INDENT, GAP = 0.25, 0.25, 0.1
"""In inches; the gap is the least between two lines."""
WRAP = 110
"""Characters of a line of the legend."""


def draw(formulas: Formulas, path: str | None = None) -> bytes:
    """The picture as PNG. Raises FontMissing where no installed font has the characters of the headings."""
    import textwrap

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    words = [formulas.cell, *(title for title, _ in formulas.mathtext), *formulas.legend]
    family = families("".join(words))
    bold = "bold" if len(family) == 1 else "normal"  # a font with Chinese often has one weight only
    figure = Figure(dpi=150)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    placed: list[tuple[Any, float, float]] = []
    down = MARGIN

    def put(text: str, x: float, **style: Any) -> Any:
        made = figure.text(0, 0, text, transform=figure.dpi_scale_trans, va="baseline", family=family, **style)
        return made, x

    def size(made: Any) -> tuple[float, float, float]:
        """Width, height above the baseline and depth below it, in inches."""
        box = made.get_window_extent(renderer)
        return box.width / figure.dpi, box.y1 / figure.dpi, -box.y0 / figure.dpi

    right = 0.0

    def row(*columns: tuple[Any, float], before: float = GAP) -> None:
        nonlocal down, right
        sizes = [size(made) for made, _ in columns]
        down += before + max(s[1] for s in sizes)
        placed.extend((made, x, down) for made, x in columns)
        right = max(right, *(x + s[0] for (_, x), s in zip(columns, sizes, strict=True)))
        down += max(s[2] for s in sizes)

    row(put(formulas.cell, MARGIN, size=15, weight=bold, color=INK), before=0)
    for title, lines in formulas.mathtext:
        row(put(title, MARGIN, size=11, weight=bold, color=INK), before=0.22)
        lefts = [put(f"${left}$" if left else "", 0, size=12, color=INK)[0] for left, _ in lines]
        widths = [size(made)[0] if made.get_text() else 0.0 for made in lefts]
        edge = MARGIN + INDENT + max(widths)
        for made, width, (left, value) in zip(lefts, widths, lines, strict=True):
            first = [(made, edge - width)] if left else []
            row(*first, put(f"$= {value}$" if left else f"${value}$", edge + 0.06 * bool(left), size=12, color=INK))
    for number, line in enumerate(formulas.legend):
        for k, part in enumerate(textwrap.wrap(line, WRAP if line.isascii() or " " in line[:40] else WRAP // 2)):
            row(put(part, MARGIN, size=8, color=FAINT), before=0.22 if not (number or k) else 0.04)
    height = down + MARGIN
    for made, x, y in placed:
        made.set_position((x, height - y))
    figure.set_size_inches(right + MARGIN, height)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    if path is not None:
        Path(path).write_bytes(content.getvalue())
    return content.getvalue()
