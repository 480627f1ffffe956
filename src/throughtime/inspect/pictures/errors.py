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
    Labels,
    character_axis,
    finished,
    new_figure,
    plain,
    shown,
    titled,
    width_for,
)
from throughtime.inspect.words import Lang, Say, speaker

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from throughtime.inspect.results import Flow, LayerFlow

WIDEST_PAIR = 20.0
"""Inches up to which two axes stand side by side."""
FLOOR = 1e-9
"""Below this share of the largest error nothing is drawn."""


def draw_flow(flow: Flow, labels: Labels, title: str = "", sequence: int = 0, *, lang: Lang = "en") -> Figure:
    """From the top layer down: the error at every step with its two parts, and beside it (below it, where there are
    many steps) the singular values of ∂h_τ/∂h_t, all on logarithmic scales over the characters read."""
    say = speaker(lang)
    several = any(f.jacobians is not None for f in flow.layers)
    width = width_for(len(labels), 7)
    columns = 2 if several and 2 * width <= WIDEST_PAIR else 1
    rows = len(flow.layers) * (2 if several else 1) // columns
    figure = new_figure(columns * width, 0.9 + 2.7 * rows, title)
    grid = figure.subplots(rows, columns, squeeze=False)
    places = iter(grid.flat)
    for k, layer in enumerate(reversed(flow.layers)):
        _errors(next(places), flow, layer, sequence, say, legend=k == 0)
        if several:
            _singular_values(next(places), flow, layer, sequence, say, legend=k == 0)
    for axes in grid.flat:
        character_axis(axes, labels, say, named=axes in grid[-1])
    return finished(figure)


def _errors(axes: Axes, flow: Flow, layer: LayerFlow, sequence: int, say: Say, legend: bool) -> None:
    output = layer.states[0]
    total = layer.error[output][:, sequence].double().numpy()
    steps = np.arange(len(total))
    largest = float(total.max()) or 1.0
    floor = largest * FLOOR

    def line(values: np.ndarray, **style: object) -> None:
        axes.plot(steps, np.where(values > floor, values, np.nan), **style)  # type: ignore[arg-type]

    axes.fill_between(steps, floor, np.maximum(total, floor), color=TOTAL, alpha=0.07, linewidth=0)
    line(total, color=TOTAL, linewidth=2.2, label=say("‖∂E/∂{state}‖ in all", state=output))
    across = layer.horizontal[:, sequence].double().numpy()
    down = layer.vertical[:, sequence].double().numpy()
    line(across, color=ACROSS, linewidth=1.2, marker="o", markersize=2.5, label=say("from the next step (horizontal)"))
    line(down, color=DOWN, linewidth=1.2, marker="s", markersize=3, label=say("from above (vertical)"))
    axes.set_yscale("log")
    lowest = total[total > floor].min() if (total > floor).any() else floor
    axes.set_ylim(max(floor, lowest / 20), largest * 3)
    axes.set_ylabel(f"‖∂E/∂{output}‖")
    told, color = _fate(flow, layer, say)
    titled(axes, say("{layer}: {told}", layer=layer.called(say), told=told), color=color)
    plain(axes)
    _mark(axes, flow, layer, sequence, say)
    if legend:
        axes.legend(frameon=False, fontsize=8, loc="lower right" if not layer.reverse else "lower left")


def _fate(flow: Flow, layer: LayerFlow, say: Say) -> tuple[str, str]:
    """What becomes of the error, in words."""
    if layer.vanished_after is not None:
        steps = layer.vanished_after
        told = say("the error of one step is below {share:.0%} after {steps} steps", share=flow.vanished, steps=steps)
        return told, ALARM
    if layer.exploded_after is not None:
        times, steps = flow.exploded, layer.exploded_after
        told = say("the error of one step is {times:g} times as large after {steps} steps", times=times, steps=steps)
        return told, ALARM
    shares = layer.by_lag[~layer.by_lag.isnan()]
    if not len(shares):
        return say("no error enters"), FAINT
    share, steps = float(shares[-1]), len(shares) - 1
    return say("{share:.0%} of the error of one step is left after {steps} steps", share=share, steps=steps), INK


def _mark(axes: Axes, flow: Flow, layer: LayerFlow, sequence: int, say: Say) -> None:
    """A line at the step where the error of one step has vanished or exploded, and the threshold."""
    lag = layer.vanished_after if layer.vanished_after is not None else layer.exploded_after
    length = int(flow.lengths[sequence])
    start = 0 if layer.reverse else length - 1
    if isinstance(flow.loss_at, int):
        start = flow.loss_at
    share = flow.vanished if layer.vanished_after is not None or lag is None else flow.exploded
    level = share * float(layer.reach[start, sequence])
    low, high = axes.get_ylim()
    if flow.loss_at == "all":  # the errors of all steps lie on top of one another
        return
    if low < level < high:
        axes.axhline(level, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
        x, side = (0.995, "right") if layer.reverse else (0.005, "left")
        axes.annotate(f"{share:.0%}", (x, level), xycoords=("axes fraction", "data"), color=FAINT, fontsize=8,
                      va="bottom", ha=side)  # fmt: skip
    if lag is None:
        return
    at = start + lag if layer.reverse else start - lag
    if 0 <= at < length:
        axes.axvline(at, color=ALARM, linewidth=1)
        word = say("vanished") if layer.vanished_after is not None else say("exploded")
        axes.annotate(f"{word} ", (at, 0.9), xycoords=("data", "axes fraction"), color=ALARM, fontsize=8, ha="right")


def _singular_values(axes: Axes, flow: Flow, layer: LayerFlow, sequence: int, say: Say, legend: bool) -> None:
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
        for line, width, dashes, label in (
            (ordered[:, -1], 2.0, "-", say("∂{state}: largest singular value", state=name)),
            (tenth, 0.8, "-", say("∂{state}: a tenth are above", state=name)),
            (half, 0.8, ":", say("∂{state}: half are above", state=name)),
        ):
            axes.plot(steps, np.where(line > FLOOR, line, np.nan), dashes, color=color, linewidth=width, label=label)
        axes.fill_between(steps, half, ordered[:, -1], color=color, alpha=0.1, linewidth=0)
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(FLOOR, axes.get_ylim()[0]))
    axes.axhline(1, color=FAINT, linewidth=0.8)
    target = int(found.target[sequence])
    where = say("the last step") if target == int(flow.lengths[sequence]) - 1 else say("step {step}", step=target)
    told = say("what a change of the state at each step does to the state at {where}", where=where)
    titled(axes, say("{layer}: {told}", layer=layer.called(say), told=told))
    axes.set_ylabel(say("singular values of ∂h_τ/∂h_t"))
    if legend:
        axes.legend(frameon=False, fontsize=8, loc="lower right" if not layer.reverse else "lower left")


def draw_saliency(
    scores: np.ndarray, labels: Labels, targets: Sequence[str], title: str = "", *, lang: Lang = "en"
) -> Figure:
    """`scores` [T, T]: how much what was read at step (column) moves the error of the prediction at step (row)."""
    from matplotlib.colors import LogNorm

    say = speaker(lang)
    side = width_for(len(labels), 7)
    figure = new_figure(side + 1.2, side * 0.85 + 0.6, title)
    axes = figure.subplots()
    largest = float(scores.max()) or 1.0
    masked = np.ma.masked_where(np.triu(np.ones_like(scores), 1) > 0, np.maximum(scores, largest * 1e-3))
    image = axes.imshow(masked, aspect="auto", cmap="magma_r", norm=LogNorm(largest * 1e-3, largest))
    character_axis(axes, labels, say)
    if len(targets) <= MOST_LABELS:
        axes.set_yticks(range(len(targets)), [shown(u) for u in targets], fontsize=9)
    axes.set_ylabel(say("what it had to predict next"))
    titled(axes, say("the darker, the more what was read (column) decides the error of a prediction (row)"))
    figure.colorbar(image, ax=axes, label=say("|∂E/∂x · x|, nats"), shrink=0.8)
    return finished(figure)
