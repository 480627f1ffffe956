"""The loss curve as a picture."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from throughtime.tasks.files import write_atomic
from throughtime.tasks.lm.baselines import Baselines

INK, TRAINING, HELD_OUT, GUIDE = "#333333", "#9a9a9a", "#0b6e99", "#c46a1b"


def draw_curve(metrics: Path, target: Path, baselines: Baselines | None, title: str) -> bool:
    """Draw the picture from metrics.jsonl; False when there is no line to draw yet.

    Bits per character over training time, with unigram and xz as guides; without held-out text nats per unit.
    """
    rows: list[dict[str, Any]] = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    if not rows:
        return False
    # matplotlib is slow to load, and nothing before this needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    held_out = baselines is not None and rows[-1]["bits_per_character"] is not None
    scale = rows[-1]["bits_per_character"] / rows[-1]["held_out_loss"] if held_out else 1.0
    minutes = [row["seconds"] / 60 for row in rows]
    marker = "o" if len(rows) < 40 else None
    axes.plot(minutes, [row["training_loss"] * scale for row in rows], color=TRAINING, label="training",
              marker=marker, markersize=3)  # fmt: skip
    if baselines is not None and held_out:
        values = [row["bits_per_character"] for row in rows]
        axes.plot(minutes, values, color=HELD_OUT, label="held-out", marker=marker, markersize=3, linewidth=2)
        axes.annotate(f" {values[-1]:.3f}", (minutes[-1], values[-1]), color=HELD_OUT, va="center")
        for name, value in (("unigram", baselines.unigram), ("xz -9", baselines.xz)):
            axes.axhline(value, color=GUIDE, linewidth=1, linestyle=(0, (4, 3)))
            place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
            axes.annotate(f"{name} {value:.2f}", (0.99, value), color=GUIDE, fontsize=9, **place)
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("bits per character" if held_out else "nats per unit")
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.06)
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.85))
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomic(target, content.getvalue())
    return True
