"""∇_{W_t}E: what each time step adds to the gradient of each matrix, δ_t vᵀ (Σ_t of which is the whole gradient)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from throughtime.inspect.recording import Recording
from throughtime.symbolic import functions
from throughtime.symbolic.equation import Affine, Equation
from throughtime.symbolic.graph import Node
from throughtime.symbolic.program import matrix_name


@dataclass(frozen=True)
class StepGradients:
    """The contributions to one block of rows of one matrix. `delta` [T, B, rows]: the error terms; `vector` [T, B,
    columns]: what the matrix multiplied, or word numbers [T, B] that stand for one-hot vectors; both 0 in the padding.
    A matrix with heads is that many matrices [rows / heads, columns / heads] one below the other."""

    delta: Tensor
    vector: Tensor
    columns: int
    heads: int = 1

    def at(self, t: int) -> Tensor:
        """∇_{W_t}E [rows, columns / heads], over all sequences."""
        delta, vector = self.delta[t], self.vector[t]
        if vector.dim() == 1:
            vector = one_hot(vector, self.columns).to(delta)
        cut_delta, cut_vector = _cut(delta, self.heads), _cut(vector, self.heads)
        return torch.einsum("bhi,bhj->hij", cut_delta, cut_vector).flatten(0, 1)

    def total(self) -> Tensor:
        """The gradient of the block, Σ_t."""
        return torch.stack([self.at(t) for t in range(len(self.delta))]).sum(0)

    @property
    def norms(self) -> Tensor:
        """‖∇_{W_t}E‖ (Frobenius) [T], without forming the matrices: Σ_bb' (δ_b·δ_b') (v_b·v_b')."""
        cut = _cut(self.delta.double(), self.heads)
        errors = torch.einsum("tbhi,tchi->tbch", cut, cut)
        if self.vector.dim() == 2:
            inner = (self.vector.unsqueeze(1) == self.vector.unsqueeze(2)).double().unsqueeze(-1)
        else:
            vectors = _cut(self.vector.double(), self.heads)
            inner = torch.einsum("tbhi,tchi->tbch", vectors, vectors)
        return (errors * inner).sum((1, 2, 3)).clamp(min=0).sqrt()


def _cut(vectors: Tensor, heads: int) -> Tensor:
    cut: Tensor = torch.unflatten(vectors, -1, (heads, -1))
    return cut


def step_gradients(
    recording: Recording, level: int, direction: int, errors: Mapping[str, Tensor]
) -> dict[str, StepGradients]:
    """For every matrix of a layer, as "weight_hh.r": the parameter and the block of its rows. A map that is used more
    than once in a step has one entry for each use ("weight_hh.r.2"). `errors` [T, B, width]: of the layer's values."""
    layer = recording.layer
    equation = layer.derived.equations[layer.training]
    values = _Values(recording, equation, level, direction)
    real = recording.real.unsqueeze(2)
    found: dict[str, StepGradients] = {}
    for a in equation.affines:
        delta = errors[traced_name(equation, a)]
        for k, v in enumerate(a.vectors):
            is_input = v is equation.input
            parameter, block = (
                ("weight_ih", a.name) if is_input else layer.derived.layout.places[matrix_name(a.name, k)]
            )
            heads = 1 if is_input else layer.heads
            vector = values.of(v)
            columns = layer.sizes(level)["input"] if vector.dim() == 2 else vector.shape[-1]
            shown = torch.where(real if vector.dim() == 3 else recording.real, vector, 0)
            key, number = f"{parameter}.{block}", 2
            while key in found:
                key, number = f"{parameter}.{block}.{number}", number + 1
            found[key] = StepGradients(delta, shown, columns, heads)
    return found


def traced_name(equation: Equation, affine: Affine) -> str:
    """The name of a map's result in a trace."""
    for s in equation.states:
        if s.new is affine.node:
            return s.name
    uses = [a for a in equation.affines if a.name == affine.name and all(s.new is not a.node for s in equation.states)]
    uses.sort(key=lambda a: a.node.index)
    number = uses.index(affine) + 1
    return f"net.{affine.name}" if number == 1 else f"net.{affine.name}_{number}"


class _Values:
    """Values of a step for all T and B at once: from the trace, or made again from what is in it."""

    def __init__(self, recording: Recording, equation: Equation, level: int, direction: int) -> None:
        self._recording, self._level, self._direction = recording, level, direction
        self._equation, self._traced = equation, recording.of(level, direction).values
        self._made: dict[int, Tensor] = {equation.input.index: recording.inputs(level)}
        for state, before in zip(equation.states, recording.before(level, direction), strict=True):
            self._made[state.seen.index] = before
        labels = Counter(n.label for n in equation.graph.nodes if n.label)
        states = {s.name for s in equation.states}
        self._labels = {label for label, count in labels.items() if count == 1 and label not in states}
        self._maps = {a.node.index: traced_name(equation, a) for a in equation.affines}

    def of(self, node: Node) -> Tensor:
        if node.index not in self._made:
            self._made[node.index] = self._value(node)
        return self._made[node.index]

    def _value(self, node: Node) -> Tensor:
        layer, recording = self._recording.layer, self._recording
        name = self._maps.get(node.index) or (node.label if node.label in self._labels else None)
        if name is not None and name in self._traced:
            return recording.shaped(self._traced[name])
        like = layer.any_weight
        match node.op:
            case "const":
                return torch.tensor(node.data, dtype=like.dtype)
            case "time":
                return torch.arange(recording.steps, dtype=like.dtype).reshape(-1, 1, 1)
            case "weight":
                return layer.own_parameters(self._level, self._direction)[str(node.data)].detach()
            case "size":
                return torch.tensor(float(layer.sizes(self._level)[node.data]), dtype=like.dtype)
            case "signal":
                return recording.signals(self._direction)[str(node.data)].to(like.dtype).unsqueeze(2)
            case "total":
                return self.of(node.args[0]).sum(-1, keepdim=True)
            case "spread":
                return self.of(node.args[0])
            case "noise":
                raise ValueError(
                    "per-step gradients need what a matrix multiplied, which is random here: call model.eval() first"
                )
        made: Tensor = functions.apply(node.op, *(self.of(a) for a in node.args))
        return made
