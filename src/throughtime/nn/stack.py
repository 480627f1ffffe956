"""The forward pass of a stack: layer after layer, each as one compiled recurrence, in pieces, or by the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, one_hot
from torch.utils.checkpoint import checkpoint

from throughtime.nn.calls import Job, Operands
from throughtime.nn.operation import run
from throughtime.nn.reference import reference_layer
from throughtime.nn.registered import run_traced
from throughtime.symbolic.program import TRACE

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent
    from throughtime.nn.shapes import Call
    from throughtime.nn.trace import Trace


def run_stack(layer: Recurrent, call: Call, trace: Trace | None = None) -> tuple[Tensor, list[Tensor]]:
    """x [T, B, I] or word numbers [T, B] -> the output [T, B, D·H] and the final states [L·D, B, W]."""
    x = call.x
    ends: list[list[Tensor]] = []
    for level in range(layer.num_layers):
        first = level * layer.directions
        starts = [None if s is None else s[first : first + layer.directions] for s in call.states]
        x, final = _run_layer(layer, x, starts, call, level, trace)
        ends.append(final)
        if layer.dropout and layer.training and level < layer.num_layers - 1:
            x = call.dropped(x, layer.dropout)
    return x, ends[0] if len(ends) == 1 else [torch.cat(e) for e in zip(*ends, strict=True)]


def _run_layer(
    layer: Recurrent, x: Tensor, starts: list[Tensor | None], call: Call, level: int, trace: Trace | None
) -> tuple[Tensor, list[Tensor]]:
    """x [T, B, I] or word numbers [T, B], starts [D, B, W] -> output [T, B, D·H] and the final states [D, B, W]."""
    seed = torch.randint(2**62, ()) if layer.derived.noisy[layer.training] else None
    chunked = layer.recompute is not None and torch.is_grad_enabled()
    if layer.backend == "compiled" and not chunked:
        return _recur(layer, x, starts, call, level, tuple(range(layer.directions)), 0, seed, trace)
    parts = []
    for d in range(layer.directions):
        own = [None if s is None else s[d : d + 1] for s in starts]
        if layer.backend == "compiled":
            parts.append(_chunks(layer, x, own, call, level, d, seed))
        else:
            parts.append(reference_layer(layer, x, own, call.lengths, level, d, seed))
    states = [torch.cat(s) for s in zip(*(p[1] for p in parts), strict=True)]
    return torch.cat([p[0] for p in parts], -1), states


def _chunks(
    layer: Recurrent,
    x: Tensor,
    starts: list[Tensor | None],
    call: Call,
    level: int,
    direction: int,
    seed: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """The recurrence in pieces of `recompute` steps, each run again in the backward pass."""
    assert layer.recompute is not None
    origins = list(range(0, x.shape[0], layer.recompute))
    outputs: dict[int, Tensor] = {}
    states: Any = starts
    for origin in reversed(origins) if direction else origins:
        piece = x[origin : origin + layer.recompute]

        def body(piece: Tensor, *states: Tensor, origin: int = origin) -> tuple[Tensor, ...]:
            out, ends = _recur(layer, piece, list(states), call, level, (direction,), origin, seed)
            return (out, *ends)

        outputs[origin], *states = checkpoint(body, piece, *states, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([outputs[o] for o in origins]), states


def _recur(
    layer: Recurrent,
    x: Tensor,
    starts: list[Tensor | None],
    call: Call,
    level: int,
    directions: tuple[int, ...],
    origin: int,
    seed: Tensor | None,
    trace: Trace | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The compiled recurrence over x, whose first step is number `origin`."""
    derived = layer.derived
    kind = derived.kind(
        layer.sizes(level), tuple(d == 1 for d in directions), directions, layer.training, trace is not None
    )
    reads: list[dict[str, Tensor]] = []
    parameters: list[list[Tensor]] = []
    for d in directions:
        own = layer.own_parameters(level, d)
        found: dict[str, Tensor] = {}
        for array in kind.program.reads:
            if array == "net":
                found[array] = _input_product(x, own["weight_ih"])
            elif array == "x":
                found[array] = one_hot(x, layer.input_size).to(own[derived.names[0]]) if x.dim() == 2 else x
            elif array == "bias":
                found[array] = _bias(layer, own)
            else:
                found[array] = own[array]
        reads.append(found)
        parameters.append([own[name] for name in derived.loops[layer.training]])
    job = Job(kind, x.shape[0], x.shape[1], call.batch_first, origin)
    operands = Operands(call.lengths, seed, {}, starts, reads, parameters)
    if torch.compiler.is_compiling():
        return run_traced(job, operands)
    if trace is not None:
        job = job._replace(errors=trace.begin(kind))
    done = run(job, operands)
    if trace is not None:
        trace.fill(kind, [w[TRACE] for w in done.writes])  # type: ignore[misc]
    return done.joint["out"], done.ends  # type: ignore[return-value]


def _bias(layer: Recurrent, own: dict[str, Tensor]) -> Tensor:
    """What the loop adds to its maps; see `Layout.bias_blocks`."""
    tensors = [own[name] for name in layer.derived.biases]
    if len(tensors) == 1:
        return tensors[0]
    return tensors[0] + tensors[1] if layer.derived.layout.biases_add_up else torch.cat(tensors)


def _input_product(x: Tensor, matrix: Tensor) -> Tensor:
    """W x for all time steps at once, [T, B, rows]; for word numbers a gather of W's columns."""
    if x.dim() == 3:
        # Where x is a transposed [B, T, I], the product is made on what lies in memory.
        if x.stride(0) < x.stride(1):
            return linear(x.transpose(0, 1), matrix).transpose(0, 1)
        return linear(x, matrix)
    table = matrix.t()
    if not torch.compiler.is_compiling() and x.numel() * 4 > table.shape[0]:
        table = table.contiguous()  # rows that lie together are fetched faster than columns
    return embedding(x, table)
