"""The forward pass of a stack: layer after layer, each as one compiled recurrence, in pieces, or by the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import dropout, one_hot
from torch.utils.checkpoint import checkpoint

from throughtime.nn import connections
from throughtime.nn.calls import Job, Operands
from throughtime.nn.operation import run, takes_input
from throughtime.nn.precision import widened
from throughtime.nn.products import input_product, without_padding
from throughtime.nn.reference import reference_layer
from throughtime.nn.registered import run_traced
from throughtime.nn.signals import signal_seen
from throughtime.nn.states import of_level, stacked
from throughtime.symbolic.program import TRACE, signal_array

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent
    from throughtime.nn.shapes import Call
    from throughtime.nn.trace import Trace


def run_stack(layer: Recurrent, call: Call, trace: Trace | None = None) -> tuple[Tensor, list[Any]]:
    """x [T, B, I] or word numbers [T, B] -> the output [T, B, D·H] and the final states, as in `State`."""
    ends: list[list[Tensor]] = []
    below: list[Tensor] = []
    for level in range(layer.num_layers):
        x = connections.fed(layer.connections, below) if level else call.x
        given = call.dropped(x, layer.dropout) if level and layer.dropout and layer.training else x
        starts = [of_level(layer, s, level) for s in call.states]
        output, final = _run_layer(layer, given, starts, call, level, trace)
        output = connections.merged(layer.merge, output)
        if level and layer.connections == "residual":
            output = x + output
        elif level and layer.connections == "highway":
            output = layer.highways[level - 1](x, output)
        below.append(output)
        ends.append(final)
    return below[-1], stacked(layer, ends)


def _weights(layer: Recurrent, call: Call, level: int, direction: int) -> dict[str, Tensor]:
    """One layer's and direction's parameters as this call uses them; DropConnect of the recurrent matrices (Merity et
    al. 2018, arXiv:1708.02182) draws one mask for the whole call."""
    own = layer.own_parameters(level, direction)
    if call.resets and layer.learn_initial_state:
        starts = {f"initial_{name}": layer.learned_start(name, level)[direction] for name in layer.state_names}
        own |= widened(starts)
    if layer.weight_drop and layer.training:
        for p in layer.derived.layout.of_kind("recurrent"):
            own[p.name] = dropout(own[p.name], layer.weight_drop)
    return own


def _run_layer(
    layer: Recurrent, x: Tensor, starts: list[Tensor | None], call: Call, level: int, trace: Trace | None
) -> tuple[Tensor, list[Tensor]]:
    """x [T, B, I] or word numbers [T, B], starts [D, B, W] -> output [T, B, D·H] and the final states [D, B, W]."""
    if call.lengths is not None and not level and call.packing is None and not _skips_padding(layer, x):
        x = without_padding(x, call.lengths)
    seed = torch.randint(2**62, (), device="cpu") if layer.derived.noisy[layer.training] else None
    own = [_weights(layer, call, level, d) for d in range(layer.directions)]
    if layer.backend == "compiled" and not _is_cut(layer):
        return _recur(layer, x, starts, call, own, level, tuple(range(layer.directions)), call.origin, seed, trace)
    parts = []
    for d in range(layer.directions):
        begin = [None if s is None else s[d : d + 1] for s in starts]
        if layer.backend == "compiled":
            parts.append(_chunks(layer, x, begin, call, own, level, d, seed))
        else:
            parts.append(reference_layer(layer, x, begin, call, own[d], level, d, seed))
    states = [torch.cat(s) for s in zip(*(p[1] for p in parts), strict=True)]
    return torch.cat([p[0] for p in parts], -1), states


def _is_cut(layer: Recurrent) -> bool:
    return layer.recompute is not None and torch.is_grad_enabled()


def _skips_padding(layer: Recurrent, x: Tensor) -> bool:
    """Whether nothing but the operation reads x, which knows the lengths."""
    program = layer.derived.programs[layer.training]
    return layer.backend == "compiled" and not _is_cut(layer) and takes_input(program, x) and "x" not in program.reads


def _chunks(
    layer: Recurrent,
    x: Tensor,
    starts: list[Tensor | None],
    call: Call,
    own: list[dict[str, Tensor]],
    level: int,
    direction: int,
    seed: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """The recurrence in pieces of `recompute` steps, each run again in the backward pass."""
    assert layer.recompute is not None
    origins = list(range(0, x.shape[0], layer.recompute))
    outputs: dict[int, Tensor] = {}
    states: Any = starts
    for origin in reversed(origins) if layer.runs_backwards(direction) else origins:
        piece = x[origin : origin + layer.recompute]

        def body(piece: Tensor, *states: Tensor, origin: int = origin) -> tuple[Tensor, ...]:
            out, ends = _recur(layer, piece, list(states), call, own, level, (direction,), origin, seed)
            return (out, *ends)

        outputs[origin], *states = checkpoint(body, piece, *states, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([outputs[o] for o in origins]), states


def _recur(
    layer: Recurrent,
    x: Tensor,
    starts: list[Tensor | None],
    call: Call,
    own: list[dict[str, Tensor]],
    level: int,
    directions: tuple[int, ...],
    origin: int,
    seed: Tensor | None,
    trace: Trace | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The compiled recurrence over x, whose first step is number `origin`; `own`: each direction's parameters."""
    derived = layer.derived
    reverse = tuple(layer.runs_backwards(d) for d in directions)
    kind = derived.kind(layer.sizes(level), reverse, directions, layer.training, trace is not None, call.resets)
    given = x if takes_input(kind.program, x) else None
    signals = {signal_array(name): name for name in call.signals}
    reads: list[dict[str, Tensor]] = []
    parameters: list[list[Tensor]] = []
    for d, backwards in zip(directions, reverse, strict=True):
        found: dict[str, Tensor] = {}
        for array in kind.program.reads:
            if array == "net":
                weight = own[d]["weight_ih"]
                found[array] = weight if given is not None else input_product(x, weight)
            elif array == "x":
                found[array] = one_hot(x, layer.input_size).to(own[d][derived.names[0]]) if x.dim() == 2 else x
            elif array == "bias":
                found[array] = bias_of(layer, own[d])
            elif array in signals:
                seen = signal_seen(call, signals[array], backwards, origin, x.shape[0])
                found[array] = seen.expand(-1, -1, layer.heads)  # one for each head
            else:
                found[array] = own[d][array]
        reads.append(found)
        parameters.append([own[d][name] for name in derived.loops[layer.training]])
    job = Job(kind, x.shape[0], x.shape[1], call.batch_first, origin)
    operands = Operands(call.lengths, seed, {}, starts, reads, parameters)
    if torch.compiler.is_compiling():
        return run_traced(job, operands)
    if trace is not None:
        job = job._replace(errors=trace.begin(kind))
    done = run(job, operands, given)
    if trace is not None:
        trace.fill(kind, [w[TRACE] for w in done.writes])  # type: ignore[misc]
    return done.joint["out"], done.ends  # type: ignore[return-value]


def bias_of(layer: Recurrent, own: dict[str, Tensor]) -> Tensor:
    """What the loop adds to its maps; see `Layout.bias_blocks`."""
    tensors = [own[name] for name in layer.derived.biases]
    if len(tensors) == 1:
        return tensors[0]
    return tensors[0] + tensors[1] if layer.derived.layout.biases_add_up else torch.cat(tensors)
