"""A table as a picture."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any

from throughtime.bench.cases import Chart, Row, Table, number
from throughtime.tasks.files import write_atomic

INK, GUIDE = "#333333", "#c46a1b"
COLOURS = ("#0b6e99", "#5fa777", "#8c6bb1", "#9a9a9a", "#d08a3c", "#b04a5a", "#3f6f5f", "#6b6b6b")


def draw_table(target: Path, name: str, table: Table, rows: list[Row], about: str) -> None:
    """Draw `rows` as the table's chart says, and write the PNG file."""
    # matplotlib is slow to load, and nothing before this needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chart = table.chart
    panels = list(dict.fromkeys(str(row.get(chart.panel, "")) for row in rows))
    figure = Figure(figsize=(10, 1.2 + 3.4 * len(panels)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        own = [row for row in rows if str(row.get(chart.panel, "")) == panel]
        (_sorted if chart.kind == "sorted" else _bars)(axes, chart, own)
        if chart.level is not None:
            axes.axhline(chart.level, color=GUIDE, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_ylabel(chart.y, color=INK)
        axes.set_title(panel, loc="left", fontsize=10, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"throughtime bench {name}", x=0.01, ha="left", fontsize=12, color=INK)
    figure.supxlabel("\n".join(textwrap.wrap(about, 150)), fontsize=7, color=INK)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomic(target, content.getvalue())


def _bars(axes: Any, chart: Chart, rows: list[Row]) -> None:
    """Groups of bars; a logarithmic axis where the values lie far apart."""
    places = list(dict.fromkeys(str(row[chart.x]) for row in rows))
    series = list(dict.fromkeys(str(row[chart.series]) for row in rows))
    width = 0.8 / len(series)
    values = [number(row[chart.y]) for row in rows]
    if min(values) > 0 and max(values) / min(values) > 8:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    for k, one in enumerate(series):
        own = {str(row[chart.x]): number(row[chart.y]) for row in rows if str(row[chart.series]) == one}
        at = [places.index(place) + (k - (len(series) - 1) / 2) * width for place in own]
        bars = axes.bar(at, list(own.values()), 0.9 * width, label=one, color=COLOURS[k % len(COLOURS)])
        if len(rows) <= 40:
            axes.bar_label(bars, fmt="{:.2g}", fontsize=6, color=INK)
    axes.set_xticks(range(len(places)), places, fontsize=8, rotation=0 if len(places) < 12 else 30)
    axes.legend(frameon=False, fontsize=8, ncols=len(series), loc="upper right", bbox_to_anchor=(1, 1.12))


def _sorted(axes: Any, chart: Chart, rows: list[Row]) -> None:
    """Every value, the worst first."""
    for k, one in enumerate(dict.fromkeys(str(row[chart.series]) for row in rows)):
        values = sorted(number(row[chart.y]) for row in rows if str(row[chart.series]) == one)
        share = [(i + 0.5) / len(values) for i in range(len(values))]
        axes.plot(share, values, label=one, color=COLOURS[k % len(COLOURS)], marker=".", linewidth=1)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("share of the points", fontsize=8)
    axes.legend(frameon=False, fontsize=8)
