"""The short way of the commonest calls: one tensor of sequences in eager code, no noise or signals.

What the long way (`shapes.py`, `stack.py`) finds out about such a call follows from the layer and its mode. It is found
out once; a call of few steps takes less time than finding it out would. The results are the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from throughtime.nn.calls import Job, Kind
from throughtime.nn.modes import is_transformed
from throughtime.nn.operation import run_flat
from throughtime.nn.shapes import checked_words, real_lengths
from throughtime.nn.stack import bias_of
from throughtime.nn.states import stacked

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent

_PLAIN = (Tensor, nn.Parameter)
_KINDS = (torch.float32, torch.float64)
_BIAS = "bias"


class _Level(NamedTuple):
    """One layer of the stack: for each direction the parameters' names in the order of the operation's operands, the
    input's matrix first, with `_BIAS` for what `bias_of` makes of the `biases`."""

    kind: Kind
    operands: list[list[str]]
    biases: list[dict[str, str]]


def short_call(layer: Recurrent, input: Any, state: Any, lengths: Any = None) -> tuple[Tensor, Any] | None:
    """What `layer(input, state, lengths=lengths)` returns; None where it must go the long way, which also says what is
    wrong."""
    if torch.compiler.is_compiling() or type(input) not in _PLAIN or not input.is_cpu:
        return None
    training, parameters = layer.training, layer._parameters
    levels: list[_Level] | None = layer.derived.short_ways.get(training)
    if levels is None:
        levels = layer.derived.short_ways[training] = _levels(layer, training)
    weight = parameters.get(levels[0].operands[0][0]) if levels else None
    if (
        (weight is None or weight.dtype not in _KINDS)
        or (layer.backend != "compiled" or layer.recompute is not None)
        or (training and (layer.weight_drop or (layer.dropout and len(levels) > 1)))
        or (torch.is_autocast_enabled("cpu") or is_transformed() or torch._C._len_torch_dispatch_stack())
    ):
        return None
    dtype, words = weight.dtype, input.dtype == torch.int64
    if input.dim() != (2 if words else 3) or not (
        words or (input.dtype == dtype and input.shape[2] == layer.input_size)
    ):
        return None
    x = input.transpose(0, 1) if layer.batch_first else input
    steps, rows = x.shape[:2]
    starts = _starts(layer, state, rows, dtype) if steps and rows else None
    if starts is None:
        return None
    if words:
        if lengths is not None:  # words in the padding may be none of the vocabulary
            return None
        x = checked_words(x, layer.input_size)
    if lengths is not None:
        lengths = real_lengths(lengths, x)
    ends = []
    for number, level in enumerate(levels):
        values: list[Tensor | None] = [lengths, None, *starts[number]]
        for names, biases in zip(level.operands, level.biases, strict=True):
            for name in names:
                if name is _BIAS:
                    own = {n: parameters[p] if p in parameters else getattr(layer, p) for n, p in biases.items()}
                    value: Tensor | None = bias_of(layer, own)  # type: ignore[arg-type]
                else:
                    value = parameters.get(name)
                if type(value) not in _PLAIN or value.dtype != dtype or not value.is_cpu:  # type: ignore[union-attr]
                    return None
                values.append(value)
        job = Job(level.kind, steps, rows, layer.batch_first)
        keep, results = run_flat(job, values, x)
        plan = level.kind.plan(keep, dtype)
        x, first = results[0], len(plan.joint_writes)
        ends.append(list(results[first : first + len(plan.ends)]))
    states = stacked(layer, ends)
    return x.transpose(0, 1) if layer.batch_first else x, tuple(states) if len(states) > 1 else states[0]


def _levels(layer: Recurrent, training: bool) -> list[_Level]:
    """The layers of the stack; none if it has something that only the long way knows."""
    derived = layer.derived
    if (
        derived.signals
        or derived.noisy[training]
        or layer.learn_initial_state
        or layer.connections is not None
        or (layer.directions > 1 and layer.merge != "concat")
    ):
        return []
    directions = tuple(range(layer.directions))
    reverse = tuple(layer.runs_backwards(d) for d in directions)
    levels = []
    for number in range(layer.num_layers):
        kind = derived.kind(layer.sizes(number), reverse, directions, training)
        if kind.program.own[:1] != ["net"] or "x" in kind.program.reads or kind.program.joint:
            return []
        operands, biases = [], []
        for d in directions:
            names = {"net": "weight_ih"}
            own = [_BIAS if n == _BIAS else layer._name(names.get(n, n), number, d) for n in kind.program.own]
            operands.append(own + [layer._name(n, number, d) for n in derived.loops[training]])
            biases.append({n: layer._name(n, number, d) for n in derived.biases})
        levels.append(_Level(kind, operands, biases))
    return levels


def _starts(layer: Recurrent, state: Any, rows: int, dtype: torch.dtype) -> list[list[Tensor | None]] | None:
    """For each layer the states before the first step; None where they are none that the short way knows."""
    count, directions = layer.num_layers, layer.directions
    if state is None:
        return [[None] * len(layer.state_names)] * count
    sizes = layer.state_sizes
    parts = state if isinstance(state, tuple) else (state,)
    if not layer.uniform or len(parts) != len(sizes):
        return None
    for part, size in zip(parts, sizes, strict=True):
        if type(part) not in _PLAIN or part.dtype != dtype or not part.is_cpu:
            return None
        if part.shape != (count * directions, rows, size):
            return None
    if count == 1:
        return [list(parts)]
    return [[p[k * directions : (k + 1) * directions] for p in parts] for k in range(count)]


__all__ = ["short_call"]
