"""Pictures of the error: how far it reaches back, and by which way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from throughtime.inspect.pictures.style import (
    ACROSS,
    ALARM,
    DOWN,
    FAINT,
    INK,
    MOST_LABELS,
    TOTAL,
    character_axis,
    new_figure,
    plain,
    shown,
    titled,
    width_for,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from throughtime.inspect.results import Flow, LayerFlow

FLOOR = 1e-9
"""Below this share of the largest error nothing is drawn."""


def draw_flow(flow: Flow, labels: Sequence[str], title: str, sequence: int = 0) -> Figure:
    """One row for each layer, from the top layer down: on the left the error at every step with its two parts, on the
    right the singular values of ∂h_τ/∂h_t, all on logarithmic scales over the characters read."""
    several = any(f.jacobians is not None for f in flow.layers)
    columns = 2 if several else 1
    figure = new_figure(columns * width_for(len(labels), 7), 0.9 + 2.7 * len(flow.layers), title, "".join(labels))
    grid = figure.subplots(len(flow.layers), columns, squeeze=False, sharex=False)
    for k, layer in enumerate(reversed(flow.layers)):
        lowest = k == len(flow.layers) - 1
        _errors(grid[k][0], flow, layer, sequence, legend=k == 0)
        character_axis(grid[k][0], labels, named=lowest)
        if several:
            _singular_values(grid[k][1], layer, sequence, legend=k == 0)
            character_axis(grid[k][1], labels, named=lowest)
    return figure


def _errors(axes: Axes, flow: Flow, layer: LayerFlow, sequence: int, legend: bool) -> None:
    output = layer.states[0]
    total = layer.error[output][:, sequence].double().numpy()
    steps = np.arange(len(total))
    largest = float(total.max()) or 1.0
    floor = largest * FLOOR

    def line(values: np.ndarray, **style: object) -> None:
        axes.plot(steps, np.where(values > floor, values, np.nan), **style)  # type: ignore[arg-type]

    axes.fill_between(steps, floor, np.maximum(total, floor), color=TOTAL, alpha=0.07, linewidth=0)
    line(total, color=TOTAL, linewidth=2.2, label=f"‖∂E/∂{output}‖ in all")
    across = layer.horizontal[:, sequence].double().numpy()
    down = layer.vertical[:, sequence].double().numpy()
    line(across, color=ACROSS, linewidth=1.2, marker="o", markersize=2.5, label="from the next step (horizontal)")
    line(down, color=DOWN, linewidth=1.2, marker="s", markersize=3, label="from above (vertical)")
    axes.set_yscale("log")
    lowest = total[total > floor].min() if (total > floor).any() else floor
    axes.set_ylim(max(floor, lowest / 3), largest * 3)
    axes.set_ylabel(f"‖∂E/∂{output}‖")
    text, color = _fate(flow, layer)
    titled(axes, f"{layer.name}: {text}", color=color)
    plain(axes)
    _mark(axes, flow, layer, sequence)
    if legend:
        axes.legend(frameon=False, fontsize=8, loc="lower right" if not layer.reverse else "lower left")


def _fate(flow: Flow, layer: LayerFlow) -> tuple[str, str]:
    """What becomes of the error, in words."""
    if layer.vanished_after is not None:
        return f"the error of one step is below {flow.vanished:.0%} after {layer.vanished_after} steps", ALARM
    if layer.exploded_after is not None:
        return f"the error of one step is {flow.exploded:g} times as large after {layer.exploded_after} steps", ALARM
    share = layer.by_lag[~layer.by_lag.isnan()]
    if not len(share):
        return "no error enters", FAINT
    return f"{float(share[-1]):.0%} of the error of one step is left after {len(share) - 1} steps", INK


def _mark(axes: Axes, flow: Flow, layer: LayerFlow, sequence: int) -> None:
    """A line at the step where error has vanished or exploded, and the threshold."""
    lag = layer.vanished_after if layer.vanished_after is not None else layer.exploded_after
    length = int(flow.lengths[sequence])
    start = 0 if layer.reverse else length - 1
    if isinstance(flow.loss_at, int):
        start = flow.loss_at
    share = flow.vanished if layer.vanished_after is not None or lag is None else flow.exploded
    level = share * float(layer.reach[start, sequence])
    low, high = axes.get_ylim()
    if flow.loss_at != "all" and low < level < high:
        axes.axhline(level, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(f" {share:.0%}", (axes.get_xlim()[1], level), color=FAINT, fontsize=8, va="center",
                      annotation_clip=False)  # fmt: skip
    if lag is None:
        return
    at = start + lag if layer.reverse else start - lag
    if 0 <= at < length:
        axes.axvline(at, color=ALARM, linewidth=1)
        word = "vanished" if layer.vanished_after is not None else "exploded"
        axes.annotate(f"{word} ", (at, 0.9), xycoords=("data", "axes fraction"), color=ALARM, fontsize=8, ha="right")


def _singular_values(axes: Axes, layer: LayerFlow, sequence: int, legend: bool) -> None:
    plain(axes)
    found = layer.jacobians
    if found is None or sequence >= len(found.sequences):
        axes.set_axis_off()
        return
    colors = [ACROSS, DOWN, INK]
    for name, color in zip(layer.states, colors, strict=False):
        values = found.singular_values[name][:, sequence].numpy()
        steps = np.arange(len(values))
        clipped = np.clip(values, FLOOR, None)
        ordered = np.sort(clipped, axis=1)
        count = ordered.shape[1]
        half, tenth = ordered[:, count // 2], ordered[:, count - 1 - count // 10]
        axes.plot(steps, ordered[:, -1], color=color, linewidth=2, label=f"∂{name}: largest singular value")
        axes.plot(steps, tenth, color=color, linewidth=0.8, label=f"∂{name}: a tenth are above")
        axes.plot(steps, half, color=color, linewidth=0.8, linestyle=":", label=f"∂{name}: half are above")
        axes.fill_between(steps, half, ordered[:, -1], color=color, alpha=0.1, linewidth=0)
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(FLOOR, axes.get_ylim()[0]))
    axes.axhline(1, color=FAINT, linewidth=0.8)
    target = int(found.target[sequence])
    titled(axes, f"{layer.name}: what a change of the state at each step does to the state at step {target}")
    axes.set_ylabel("singular values of ∂h_τ/∂h_t")
    if legend:
        axes.legend(frameon=False, fontsize=8, loc="lower right" if not layer.reverse else "lower left")


def draw_saliency(scores: np.ndarray, labels: Sequence[str], targets: Sequence[str], title: str) -> Figure:
    """`scores` [T, T]: how much what was read at step (column) moves the error of the prediction at step (row)."""
    from matplotlib.colors import LogNorm

    side = width_for(len(labels), 7)
    figure = new_figure(side + 1.2, side * 0.85 + 0.6, title, "".join([*labels, *targets]))
    axes = figure.subplots()
    largest = float(scores.max()) or 1.0
    masked = np.ma.masked_where(np.triu(np.ones_like(scores), 1) > 0, np.maximum(scores, largest * 1e-3))
    image = axes.imshow(masked, aspect="auto", cmap="magma_r", norm=LogNorm(largest * 1e-3, largest))
    character_axis(axes, labels)
    if len(targets) <= MOST_LABELS:
        axes.set_yticks(range(len(targets)), [shown(u) for u in targets], fontsize=9)
        for tick in axes.get_yticklabels():
            tick.set_fontfamily(figure.family)  # type: ignore[attr-defined]
    axes.set_ylabel("what it had to predict next")
    titled(axes, "the darker, the more what was read (column) decides the error of a prediction (row)")
    figure.colorbar(image, ax=axes, label="|∂E/∂x · x|, nats", shrink=0.8)
    return figure
