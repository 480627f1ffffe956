"""Draws overview.svg, the README's picture: python docs/overview.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

WIDTH, HEIGHT, GAP = 2.1, 2.0, 0.34  # of a box, in inches
INK, PAPER, ACCENT, QUIET = "#1f2933", "#f5f7fa", "#2563a8", "#616e7c"

CELL = """def step(self, x, h):
  return tanh(
    affine("net", x, h))"""
DERIVATION = (
    r"$h_t = \tanh(W x_t + R\,h_{t-1} + b)$",
    r"$e_t = \partial E_t/\partial h_t + R^{\!\top} \delta_{t+1}$",
    r"$\delta_t = e_t \odot (1 - h_t^2)$",
    r"$\partial E/\partial R = \sum_t \delta_t\,h_{t-1}^{\top}$",
)
KERNEL = """// forward
h = tanh(net + Rh);
// backward
e = d_out + Rtd;
d = e * fma(-h, h, 1);"""
LAYER = """layer = Recurrent(
  Cell(), 3000, 150)

output, state = \\
  layer(x, lengths=n)"""
BOXES = [
    ("equation", "all that you write"),
    ("derivation", "exact, through time"),
    ("kernel", "C++, compiled once"),
    ("layer", "a torch module"),
    ("trained model", "from the command line"),
]


def box(axes: Axes, left: float, title: str, subtitle: str) -> None:
    shape = FancyBboxPatch(
        (left, 0), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.1", facecolor=PAPER, edgecolor=QUIET
    )
    axes.add_patch(shape)
    middle = left + WIDTH / 2
    axes.text(middle, HEIGHT - 0.27, title, ha="center", va="center", size=13, color=ACCENT, weight="bold")
    axes.text(middle, 0.2, subtitle, ha="center", va="center", size=9.5, color=QUIET, style="italic")


def curve(axes: Axes, left: float) -> None:
    """A falling loss: a sketch, not a measurement."""
    along = np.linspace(0, 1, 60)
    down = np.exp(-4 * along) + 0.12 * along * np.sin(45 * along) * np.exp(-3 * along)
    start, bottom, width, height = left + 0.4, 0.48, WIDTH - 0.65, 0.98
    axes.plot([start, start, start + width], [bottom + height, bottom, bottom], color=QUIET, linewidth=1)
    axes.plot(start + width * along, bottom + 0.1 + 0.8 * height * down, color=ACCENT, linewidth=2)
    axes.text(start - 0.12, bottom + height / 2, "loss", rotation=90, ha="center", va="center", size=9.5, color=INK)


def main() -> None:
    rcParams["svg.hashsalt"] = "throughtime"  # the same bytes every time
    rcParams["mathtext.fontset"] = "cm"
    full = len(BOXES) * WIDTH + (len(BOXES) - 1) * GAP
    figure = Figure(figsize=(full + 0.1, HEIGHT + 0.1))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.05, full + 0.05), ylim=(-0.05, HEIGHT + 0.05), aspect="equal")
    axes.axis("off")
    lefts = [number * (WIDTH + GAP) for number in range(len(BOXES))]
    for left, (title, subtitle) in zip(lefts, BOXES, strict=True):
        box(axes, left, title, subtitle)
    for left, text in ((lefts[0], CELL), (lefts[2], KERNEL), (lefts[3], LAYER)):
        axes.text(left + 0.13, 0.96, text, va="center", size=9, family="monospace", color=INK, linespacing=1.35)
    for height, line in zip((1.46, 1.18, 0.9, 0.58), DERIVATION, strict=True):
        axes.text(lefts[1] + WIDTH / 2, height, line, ha="center", va="center", size=11, color=INK)
    curve(axes, lefts[4])
    for left in lefts[1:]:
        arrow = {"arrowstyle": "-|>,head_width=0.3,head_length=0.5", "color": ACCENT, "linewidth": 2}
        ends = (left - 0.03, HEIGHT / 2), (left - GAP + 0.03, HEIGHT / 2)
        axes.annotate("", *ends, arrowprops=arrow)
    target = Path(__file__).with_name("overview.svg")
    figure.savefig(target, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
