"""Pictures of what is inside: states and gates over time, weights, spectra, and how surprised a model was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from throughtime.inspect.pictures.style import (
    ALARM,
    FAINT,
    INK,
    Labels,
    character_axis,
    finished,
    new_figure,
    plain,
    shown,
    titled,
    width_for,
)
from throughtime.inspect.statistics import HIGH, LOW
from throughtime.inspect.words import Lang, speaker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from throughtime.inspect.results import Flow


def draw_states(flow: Flow, labels: Labels, title: str = "", sequence: int = 0, *, lang: Lang = "en") -> Figure:
    """Every unit of every state over time, the units ordered by their mean; one row for each layer and state."""
    say = speaker(lang)
    rows = [(f, s) for f in reversed(flow.layers) for s in f.states]
    figure = new_figure(width_for(len(labels)) + 1, 0.8 + 2.4 * len(rows), title)
    grid = figure.subplots(len(rows), 1, squeeze=False)
    for axes, (layer, state) in zip(grid[:, 0], rows, strict=True):
        values = layer.values[state][:, sequence].double().numpy().T
        values = values[np.argsort(values.mean(1))]
        largest = float(np.abs(values).max())
        bound = float(np.quantile(np.abs(values), 0.995)) or 1.0  # a few units that count on should not hide the others
        bound = 1.0 if bound < 1 and state == layer.states[0] else bound
        image = axes.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
        character_axis(axes, labels, say, named=(layer, state) == rows[-1])
        axes.set_ylabel(say("units, by their mean"))
        axes.set_yticks([])
        moved = float(np.abs(np.diff(values, axis=1)).mean())
        told = say("a unit of {state} moves by {moved:.2f} from step to step on average", state=state, moved=moved)
        titled(axes, say("{layer}: {told}", layer=layer.called(say), told=told))
        figure.colorbar(image, ax=axes, label=say("value of {state}", state=state), pad=0.01,
                        extend="both" if largest > bound else "neither")  # fmt: skip
    return finished(figure)


def draw_gates(flow: Flow, labels: Labels, title: str = "", sequence: int = 0, *, lang: Lang = "en") -> Figure:
    """Every gate over time, and on the right for each unit how often it is stuck low and stuck high."""
    say = speaker(lang)
    rows = [(f, name) for f in reversed(flow.layers) for name in f.gates]
    height = 0.8 + 1.9 * len(rows)
    figure = new_figure(width_for(len(labels)) + 3.6, height, title)
    grid = figure.subplots(len(rows), 2, squeeze=False, width_ratios=[width_for(len(labels)) - 1, 2.2])
    for (axes, beside), (layer, name) in zip(grid, rows, strict=True):
        gate = layer.gates[name]
        low, high = (0.0, 1.0) if gate.function == "sigmoid" else (-1.0, 1.0)
        values = layer.values[name][:, sequence].double().numpy().T
        if gate.function == "relu":
            low, high = 0.0, float(values.max()) or 1.0
        order = np.argsort(values.mean(1))
        image = axes.imshow(values[order], aspect="auto", cmap="viridis" if low == 0 else "RdBu_r", vmin=low, vmax=high,
                            interpolation="nearest")  # fmt: skip
        character_axis(axes, labels, say, named=(layer, name) == rows[-1])
        axes.set_yticks([])
        axes.set_ylabel(say("units"))
        below, above = say("at 0"), ""
        if gate.function != "relu":
            below = say("below {bound}", bound=LOW if gate.function == "sigmoid" else -HIGH)
            above = say("above {bound}", bound=HIGH)
        numbers = {"gate": name, "function": gate.function, "low": gate.low, "below": below}
        told = say("{gate} ({function}): {low:.0%} {below}", **numbers)
        if above:
            numbers |= {"high": gate.high, "above": above}
            told = say("{gate} ({function}): {low:.0%} {below}, {high:.0%} {above}", **numbers)
        titled(axes, say("{layer}: {told}", layer=layer.called(say), told=told))
        figure.colorbar(image, ax=axes, pad=0.01)
        beside.scatter(gate.unit_low.numpy(), gate.unit_high.numpy(), s=9, color=INK, alpha=0.5, linewidth=0)
        beside.plot([0, 1], [1, 0], color=FAINT, linewidth=0.8)
        beside.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel=say("share of steps {which}", which=below),
                   ylabel=say("share of steps {which}", which=above) if above else "")  # fmt: skip
        beside.tick_params(labelsize=7)
        beside.xaxis.label.set_size(8)
        beside.yaxis.label.set_size(8)
        plain(beside)
    return finished(figure)


def draw_weights(matrices: Mapping[str, Mapping[str, np.ndarray]], title: str = "", *, lang: Lang = "en") -> Figure:
    """`matrices`: "layer 1, weight_hh" -> name of a block of its rows -> their numbers. A row of heat maps for each
    matrix, all on one scale, the last matrix at the top."""
    say = speaker(lang)
    columns = max(len(m) for m in matrices.values())
    figure = new_figure(max(6.0, 1.4 + 2.7 * columns), 0.8 + 2.9 * len(matrices), title)
    grid = figure.subplots(len(matrices), columns, squeeze=False)
    for row, (matrix, blocks) in zip(grid, reversed(list(matrices.items())), strict=True):
        bound = max(float(np.quantile(np.abs(b), 0.995)) for b in blocks.values()) or 1.0
        images = []
        for axes, (name, block) in zip(row, blocks.items(), strict=False):
            images.append(
                axes.imshow(block, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest", aspect="auto")
            )
            spread = float(block.std())
            titled(axes, say("{matrix}: σ = {spread:.2f}", matrix=name, spread=spread))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(say("{count} columns", count=block.shape[1]), fontsize=8)
            axes.set_ylabel(say("{count} rows", count=block.shape[0]), fontsize=8)
        for axes in row[len(blocks) :]:
            axes.set_axis_off()
        figure.colorbar(images[0], ax=list(row), label=matrix, pad=0.01)
    return finished(figure)


def draw_spectrum(flow: Flow, title: str = "", *, lang: Lang = "en") -> Figure:
    """The eigenvalues of every recurrent matrix, with the unit circle."""
    say = speaker(lang)
    columns = max(len(f.spectra) for f in flow.layers)
    figure = new_figure(1 + 3.0 * max(columns, 2), 0.8 + 3.2 * len(flow.layers), title)
    grid = figure.subplots(len(flow.layers), columns, squeeze=False)
    circle = np.exp(2j * np.pi * np.linspace(0, 1, 200))
    for row, layer in zip(grid, reversed(flow.layers), strict=True):
        for axes in row[len(layer.spectra) :]:
            axes.set_axis_off()
        for axes, (name, found) in zip(row, layer.spectra.items(), strict=False):
            values = found.eigenvalues.numpy()
            outside = np.abs(values) > 1
            axes.plot(circle.real, circle.imag, color=FAINT, linewidth=1)
            axes.scatter(values.real[~outside], values.imag[~outside], s=9, color=INK, linewidth=0, alpha=0.7)
            axes.scatter(values.real[outside], values.imag[outside], s=11, color=ALARM, linewidth=0, alpha=0.8)
            side = 1.1 * max(1.0, float(np.abs(values).max()))
            axes.set(xlim=(-side, side), ylim=(-side, side), box_aspect=1)
            told = say(
                "{matrix}, {outside} of {count} outside,\nlargest |λ| {radius:.2f}",
                matrix=name, outside=outside.sum(), count=len(values), radius=found.radius,
            )  # fmt: skip
            titled(axes, say("{layer}: {told}", layer=layer.called(say), told=told))
            axes.set_xlabel(say("real part of λ"), fontsize=8)
            axes.set_ylabel(say("imaginary part of λ"), fontsize=8)
            axes.tick_params(labelsize=7)
            plain(axes)
    return finished(figure)


def draw_surprise(
    bits: np.ndarray, units: Sequence[str], title: str = "", columns: int = 40, *, lang: Lang = "en"
) -> Figure:
    """The text itself, every unit on a colour that says how many bits it cost the model."""
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    say = speaker(lang)
    longest = max((len(u) for u in units), default=1)
    columns = columns if longest == 1 else 8
    lines = -(-len(units) // columns)
    figure = new_figure(12, 1.2 + 0.42 * lines, title)
    axes = figure.subplots()
    scale = Normalize(0, max(8.0, float(np.quantile(bits, 0.98))))
    import matplotlib

    colors = matplotlib.colormaps["YlOrRd"]
    for k, (unit, cost) in enumerate(zip(units, bits, strict=True)):
        x, y = k % columns, k // columns
        axes.add_patch(Rectangle((x, y), 1, 1, color=colors(scale(cost)), linewidth=0))
        dark = scale(cost) > 0.65
        axes.text(x + 0.5, y + 0.55, shown(unit), ha="center", va="center", fontsize=13 if longest == 1 else 9,
                  color="white" if dark else INK)  # fmt: skip
    axes.set(xlim=(0, min(columns, len(units))), ylim=(lines, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    titled(axes, say("mean {bits:.2f} bits; the redder, the less the model expected it", bits=bits.mean()))
    figure.colorbar(matplotlib.cm.ScalarMappable(scale, colors), ax=axes, label=say("surprise, bits"), pad=0.01)
    return finished(figure)
