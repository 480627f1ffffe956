"""Gates that are stuck, histograms, and the spectrum of the recurrent matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.inspect.recording import Recording
from throughtime.symbolic.equation import Equation
from throughtime.symbolic.graph import Node
from throughtime.symbolic.program import size_of

LOW, HIGH = 0.1, 0.9
"""A gate is saturated below and above these; Karpathy et al. 2015, arXiv:1506.02078, section 4.3. A tanh counts as
saturated beyond -0.9 and 0.9."""
BINS = 40


@dataclass(frozen=True)
class GateStatistics:
    """Over all real steps. `low`, `high`: shares below and above the bounds; `unit_low`, `unit_high` [H]: the same for
    each unit; `mean` [H]."""

    function: str
    low: float
    high: float
    mean: Tensor
    unit_low: Tensor
    unit_high: Tensor

    @property
    def saturated(self) -> float:
        return self.low + self.high


@dataclass(frozen=True)
class Histogram:
    """`counts` [bins] of real numbers between `edges` [bins + 1]."""

    counts: Tensor
    edges: Tensor


@dataclass(frozen=True)
class Spectrum:
    """Of one recurrent matrix. `eigenvalues` (complex) are those of each head's own matrix, one after the other."""

    eigenvalues: Tensor
    singular_values: Tensor

    @property
    def radius(self) -> float:
        """The largest |λ|."""
        return float(self.eigenvalues.abs().max())

    @property
    def norm(self) -> float:
        """The largest singular value."""
        return float(self.singular_values.max())


def gate_statistics(recording: Recording, level: int, direction: int) -> dict[str, GateStatistics]:
    """For every named value of a step that is made by sigmoid, tanh or relu (of which the zeros count as low)."""
    equation = recording.layer.derived.equations[recording.layer.training]
    trace, real = recording.of(level, direction).values, recording.real
    found = {}
    for name, node in _named(equation):
        if node.op in ("sigmoid", "tanh", "relu") and name in trace:
            value = recording.shaped(trace[name])[real].double()
            low = value <= 0 if node.op == "relu" else value < (LOW if node.op == "sigmoid" else -HIGH)
            high = torch.zeros_like(low) if node.op == "relu" else value > HIGH
            shares = low.double().mean(0), high.double().mean(0)
            found[name] = GateStatistics(
                node.op, float(shares[0].mean()), float(shares[1].mean()), value.mean(0), *shares
            )
    return found


def _named(equation: Equation) -> list[tuple[str, Node]]:
    named = [(s.name, s.new) for s in equation.states]
    states = {n for n, _ in named}
    return named + [(n.label, n) for n in equation.graph.nodes if n.label and n.label not in states]


def histograms(recording: Recording, level: int, direction: int) -> dict[str, Histogram]:
    """Of everything in the trace: states, gates, and pre-activations (`net.<map>`)."""
    found = {}
    for name, traced in recording.of(level, direction).values.items():
        value = recording.shaped(traced)[recording.real].double().flatten()
        value = value[value.isfinite()]
        low, high = (float(value.min()), float(value.max())) if len(value) else (0.0, 0.0)
        if high <= low:
            low, high = low - 0.5, high + 0.5
        counts, edges = torch.histogram(value, BINS, range=(low, high))
        found[name] = Histogram(counts.long(), edges)
    return found


def spectra(recording: Recording, level: int, direction: int) -> dict[str, Spectrum]:
    """Of every square matrix of the loop, by its block of rows ("r", "z", "n")."""
    layer = recording.layer
    own, sizes = layer.own_parameters(level, direction), layer.sizes(level)
    found = {}
    for matrix in layer.derived.programs[layer.training].recurrence.matrices:
        parameter, block = layer.derived.layout.places[matrix.name]
        rows, columns = size_of(matrix.rows, sizes), size_of(matrix.columns, sizes)
        if rows != columns:
            continue
        first = layer.derived.layout[parameter].first_row(block, sizes)
        weights = own[parameter].detach()[first : first + rows].double()
        heads = torch.unflatten(weights, 0, (-1, weights.shape[1]))
        found[matrix.name.partition(".")[0] if block in found else block] = Spectrum(
            torch.linalg.eigvals(heads).flatten(), torch.linalg.svdvals(heads).flatten()
        )
    return found
