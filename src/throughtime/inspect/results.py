"""What `flow` returns: numbers by name, and the same as plain lists for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from throughtime.inspect.contributions import StepGradients
from throughtime.inspect.jacobians import Jacobians
from throughtime.inspect.statistics import GateStatistics, Histogram, Spectrum
from throughtime.inspect.words import Lang, Say, layer_name, speaker


@dataclass(frozen=True)
class LayerFlow:
    """One layer in one direction. T time, B sequences; everything is 0 in the padding.

    Attributes:
        name: "layer 1", or "layer 1 backward" for the direction that runs backwards in time; `index` and `reverse`
            say the same in numbers, `cell` its cell.
        values: name -> [T, B, width]: states, gates and pre-activations (`net.<map>`), as in a `Trace`.
        errors: under the same names, δ_t = ∂E/∂value_t.
        states: the names of the states, the output first.
        error: state -> ‖∂E/∂state_t‖ [T, B].
        delta: map -> ‖δ_t‖ = ‖∂E/∂net_t‖ [T, B].
        vertical: ‖·‖ [T, B] of the part of the output state's error that came down at t, from the layer above or the
            loss; `horizontal`: of the part that came from the neighbouring step.
        reach: ‖∂E'/∂h_t‖ [T, B], where E' is the error of one step alone: the last (backwards in time: the first), or
            the k that was asked for.
        by_lag: Σ_b reach at so many steps from there, relative to lag 0 [T]; NaN where no sequence is that long.
        vanished_after, exploded_after: the first lag at which `by_lag` is below and above the thresholds, or None.
        gates, histograms, spectra, step_gradients, jacobians: see their classes; `jacobians` is None where they were
            not asked for or cannot be had (`Flow.notes` says why).
    """

    name: str
    index: int
    reverse: bool
    cell: str
    states: tuple[str, ...]
    values: Mapping[str, Tensor] = field(repr=False)
    errors: Mapping[str, Tensor] = field(repr=False)
    error: Mapping[str, Tensor] = field(repr=False)
    delta: Mapping[str, Tensor] = field(repr=False)
    vertical: Tensor = field(repr=False)
    horizontal: Tensor = field(repr=False)
    reach: Tensor = field(repr=False)
    by_lag: Tensor = field(repr=False)
    vanished_after: int | None
    exploded_after: int | None
    gates: Mapping[str, GateStatistics] = field(repr=False)
    histograms: Mapping[str, Histogram] = field(repr=False)
    spectra: Mapping[str, Spectrum] = field(repr=False)
    step_gradients: Mapping[str, StepGradients] = field(repr=False)
    jacobians: Jacobians | None = field(repr=False)

    def called(self, say: Say) -> str:
        """The name in another language."""
        return layer_name(say, self.index + 1, self.name.endswith(" backward"))


@dataclass(frozen=True)
class Flow:
    """How error flows through a model. Print it for a summary; `to_dict` for JSON.

    `loss`: E; `loss_at`: where it was taken; `lengths` [B]; `vanished`, `exploded`: the thresholds, as shares of the
    error at the step of the loss; `notes`: a sentence for everything that was left out.
    """

    layers: tuple[LayerFlow, ...]
    loss: float
    loss_at: str | int
    steps: int
    lengths: Tensor
    vanished: float
    exploded: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return self.summary()

    def summary(self, lang: Lang = "en") -> str:
        """What was found, in a few lines of words."""
        say = speaker(lang)
        where = {"last": say("the last step"), "all": say("all steps")}
        at = where.get(str(self.loss_at), say("step {step}", step=self.loss_at))
        begin = {"loss": self.loss, "where": at, "steps": self.steps, "count": len(self.lengths)}
        if len(self.lengths) == 1:
            lines = [say("E = {loss:.6g} at {where}, {steps} steps, 1 sequence", **begin)]
        else:
            lines = [say("E = {loss:.6g} at {where}, {steps} steps, {count} sequences", **begin)]
        for layer in self.layers:
            fate = self._fate(layer, say)
            lines.append(say("{layer} ({cell}): {fate}", layer=layer.called(say), cell=layer.cell, fate=fate))
            stuck = ", ".join(f"{n} {g.saturated:.0%}" for n, g in layer.gates.items())
            radii = ", ".join(f"{n} {s.radius:.3g}" for n, s in layer.spectra.items())
            lines += [say("  saturated: {gates}", gates=stuck)] if stuck else []
            lines += [say("  spectral radius: {radii}", radii=radii)] if radii else []
        return "\n".join([*lines, *(say("note: {note}", note=note) for note in self.notes)])

    def _fate(self, layer: LayerFlow, say: Say) -> str:
        if bool(layer.by_lag[:1].isnan().all()):
            return say("no error enters")
        if layer.vanished_after is not None:
            share, steps = self.vanished, layer.vanished_after
            return say("error vanishes (below {share:g}) after {steps} steps", share=share, steps=steps)
        if layer.exploded_after is not None:
            share, steps = self.exploded, layer.exploded_after
            return say("error explodes (above {share:g}) after {steps} steps", share=share, steps=steps)
        return say("error reaches through all steps")

    def to_dict(self, units: bool = False, digits: int = 5) -> dict[str, Any]:
        """Plain lists and numbers, of `digits` significant digits; NaN and infinity become None.

        `units`: also every unit's values and errors, [T, B, width] each.
        """

        def listed(value: Tensor) -> Any:
            return _rounded(value.detach().tolist(), digits)

        def mapped(values: Mapping[str, Tensor]) -> dict[str, Any]:
            return {name: listed(v) for name, v in values.items()}

        layers = []
        for f in self.layers:
            shown: dict[str, Any] = {
                "name": f.name, "index": f.index, "reverse": f.reverse, "cell": f.cell, "states": list(f.states),
                "error": mapped(f.error), "delta": mapped(f.delta), "vertical": listed(f.vertical),
                "horizontal": listed(f.horizontal), "reach": listed(f.reach), "by_lag": listed(f.by_lag),
                "vanished_after": f.vanished_after, "exploded_after": f.exploded_after,
                "gates": {
                    n: {"function": g.function, "low": _rounded(g.low, digits), "high": _rounded(g.high, digits),
                        "mean": listed(g.mean), "unit_low": listed(g.unit_low), "unit_high": listed(g.unit_high)}
                    for n, g in f.gates.items()
                },
                "histograms": {
                    n: {"counts": h.counts.tolist(), "edges": listed(h.edges)} for n, h in f.histograms.items()
                },
                "spectra": {
                    n: {"eigenvalues": listed(torch.view_as_real(s.eigenvalues)), "radius": _rounded(s.radius, digits),
                        "singular_values": listed(s.singular_values)}
                    for n, s in f.spectra.items()
                },
                "step_gradients": {n: listed(g.norms) for n, g in f.step_gradients.items()},
                "jacobians": None,
            }  # fmt: skip
            if f.jacobians is not None:
                j = f.jacobians
                shown["jacobians"] = {
                    "sequences": list(j.sequences), "target": j.target.tolist(), "norms": mapped(j.norms),
                    "singular_values": mapped(j.singular_values),
                    "pair_norms": {
                        n: [listed(j.pair_norms(n, b)) for b in range(len(j.sequences))] for n in j.states
                    },
                }  # fmt: skip
            if units:
                shown |= {"values": mapped(f.values), "errors": mapped(f.errors)}
            layers.append(shown)
        return {
            "loss": _rounded(self.loss, digits), "loss_at": self.loss_at, "steps": self.steps,
            "lengths": self.lengths.tolist(), "vanished": self.vanished, "exploded": self.exploded,
            "notes": list(self.notes), "layers": layers,
        }  # fmt: skip


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, list):
        return [_rounded(v, digits) for v in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
