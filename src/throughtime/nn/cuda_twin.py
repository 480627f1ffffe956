"""torch.nn's layer, whose kernels on a GPU are cuDNN's, in the place of one that computes the same.

`THROUGHTIME_CUDA=cudnn` asks for it, and `timed` measures both at the first call of each shape. A twin holds the very
parameters of the layer. Its derivatives are cuDNN's: there are no second ones, and a 16-bit layer is computed in 16
bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from throughtime.nn.calls import holds_numbers
from throughtime.nn.cuda_device import machine_of
from throughtime.nn.cuda_wish import VARIABLE, wish
from throughtime.nn.modes import is_transformed
from throughtime.nn.stack import run_stack
from throughtime.nn.states import each

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent
    from throughtime.nn.shapes import Call
    from throughtime.nn.trace import Trace

Shape = tuple[object, ...]
"""What a measurement holds for: T, B, the dtype, the device, training, and which gradients are wanted."""


class Seconds(NamedTuple):
    """What a call with its gradients took, by the layer's own kernels and by its twin."""

    own: float
    twin: float


class _Known:
    """What is known of a layer: its twin on the meta device, or why there is none; and what was measured."""

    def __init__(self, layer: Recurrent) -> None:
        from throughtime.nn.convert import torch_twin

        self.twin: nn.Module | str = torch_twin(layer)
        if not isinstance(self.twin, (nn.RNNBase, str)):
            self.twin = f"torch.nn.{type(self.twin).__name__} makes single steps"
        self.places: list[tuple[int, int]] = []
        self.measured: dict[Shape, Seconds] = {}


_known: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def run_call(layer: Recurrent, call: Call, trace: Trace | None = None) -> tuple[Tensor, list[Any]]:
    """What `run_stack` returns, by the layer's own kernels or by its twin.

    Raises NotImplementedError where the twin was asked for and there is none for such a call.
    """
    done = _twin_call(layer, call, trace is not None)
    return run_stack(layer, call, trace) if done is None else done


def _twin_call(layer: Recurrent, call: Call, traced: bool) -> tuple[Tensor, list[Any]] | None:
    if not _is_on_gpu(call.x):
        return None
    scheme = wish().scheme
    if scheme not in ("cudnn", "timed") or layer.backend != "compiled":
        return None
    if is_transformed():
        why: str | None = "torch.nn's layers cannot be transformed by torch.func"
    else:
        known = _known_of(layer)
        why = _obstacle(layer, known, call, traced)
    if scheme == "cudnn" and why:
        raise NotImplementedError(f'{VARIABLE}=cudnn: {why}: ask for "block" or "timed"')
    if why or (scheme == "timed" and not _is_faster(layer, known, call)):
        return None
    return _run(layer, known, call)


def notes(layer: Recurrent, steps: int, rows: int) -> Iterator[str]:
    """What `explain` says of the twin of a layer on a GPU."""
    known = _known_of(layer)
    if isinstance(known.twin, str):
        return
    name = f"torch.nn.{type(known.twin).__name__} (cuDNN)"
    scheme = wish().scheme
    if scheme == "cudnn":
        yield f"{name} makes the calls, as {VARIABLE}=cudnn asks"
        return
    found = {shape: s for shape, s in known.measured.items() if shape[:2] == (steps, rows)}
    if scheme != "timed" or not found:
        yield f"{name} computes the same: {VARIABLE}=timed measures both at the first call of each shape, cudnn uses it"
    for shape, seconds in found.items():
        faster, slower = (name, "the layer's own kernels") if seconds.twin < seconds.own else ("own kernels", name)
        least, most = sorted((seconds.twin * 1e3, seconds.own * 1e3))
        purpose = "with gradients" if any(shape[-1]) else "without gradients"  # type: ignore[arg-type]
        yield f"measured {purpose}: {faster} took {least:.3f} ms, {slower} {most:.3f} ms: the faster is used"


def _is_on_gpu(x: Tensor) -> bool:
    return x.is_cuda and not torch.compiler.is_compiling() and holds_numbers(x)


def _known_of(layer: Recurrent) -> _Known:
    found = _known.get(layer)
    if found is None:
        found = _known[layer] = _Known(layer)
    return found


def _obstacle(layer: Recurrent, known: _Known, call: Call, traced: bool) -> str | None:
    if isinstance(known.twin, str):
        return known.twin
    name = f"torch.nn.{type(known.twin).__name__}"
    given = {
        "word numbers": call.x.dim() == 2,
        "lengths on the GPU": call.lengths is not None,
        "signals": bool(call.signals),
        "return_all": traced,
        "recompute": layer.recompute is not None and torch.is_grad_enabled(),
        "the dtypes of torch.autocast": call.autocast,
        "weights that are computed from others": any(n not in layer._parameters for n in known.twin._parameters),
    }
    return next((f"{name} takes no {what}" for what, there in given.items() if there), None)


def _run(layer: Recurrent, known: _Known, call: Call) -> tuple[Tensor, list[Any]]:
    twin: Any = known.twin
    parameters = {name: layer._parameters[name] for name in twin._parameters}
    places = [(id(p), p.data_ptr()) for p in parameters.values()]  # type: ignore[union-attr]
    if places != known.places:
        for name, parameter in parameters.items():
            setattr(twin, name, parameter)
        twin.flatten_parameters()  # cuDNN reads weights that lie in a row; where they do not, every call copies them
        known.places = [(id(p), p.data_ptr()) for p in parameters.values()]  # type: ignore[union-attr]
    twin.train(layer.training).dropout = layer.dropout
    kind = layer.any_weight.dtype
    x = call.x.to(kind)
    states = [each(s, lambda p: p.to(kind).contiguous()) for s in call.states]
    given = None if states[0] is None else states[0] if len(states) == 1 else tuple(states)
    output, ends = twin(x.transpose(0, 1) if layer.batch_first else x, given)
    return output.transpose(0, 1) if layer.batch_first else output, list(ends) if isinstance(ends, tuple) else [ends]


def _is_faster(layer: Recurrent, known: _Known, call: Call) -> bool:
    """By what was measured for calls of this shape; measures it at the first one."""
    graded = torch.is_grad_enabled()
    wanted = call.x.requires_grad and graded, any(p.requires_grad for p in layer.parameters()) and graded
    shape = *call.x.shape[:2], call.x.dtype, call.x.device, layer.training, wanted
    found = known.measured.get(shape)
    if found is None:
        machine, device = machine_of(call.x.device), call.x.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # what is measured draws for nobody
            own = machine.seconds(_step(layer, call, lambda c: run_stack(layer, c), wanted))
            twin = machine.seconds(_step(layer, call, lambda c: _run(layer, known, c), wanted))
        found = known.measured[shape] = Seconds(own, twin)
    return found.twin < found.own


def _step(
    layer: Recurrent, call: Call, run: Callable[[Call], tuple[Tensor, list[Any]]], wanted: tuple[bool, bool]
) -> Callable[[], None]:
    """The call with the gradients that are wanted, on tensors of its own."""
    of_x, of_parameters = wanted
    x = call.x.detach().requires_grad_(of_x)
    own = replace(call, x=x, states=[each(s, lambda p: p.detach()) for s in call.states])
    inputs = [*([x] if of_x else []), *(p for p in layer.parameters() if of_parameters and p.requires_grad)]

    def step() -> None:
        with nullcontext() if inputs else torch.no_grad():
            output, _ = run(own)
        if inputs:
            torch.autograd.grad(output, inputs, torch.ones_like(output), allow_unused=True)

    return step
