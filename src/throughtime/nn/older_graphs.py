"""Layers inside torch.fx and TorchScript, the two older ways of making a graph of a model.

A trace by torch.fx holds a layer as one node, as it does torch.nn's. TorchScript runs where there is no Python and none
of this package's kernels, so a layer is written into it as torch.nn's own of the same weights, and says so.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent


class TorchScriptWarning(UserWarning):
    """TorchScript was given torch.nn's layer in place of one of this package's."""


def is_recording(input: Any) -> bool:
    """Whether torch.fx or torch.jit.trace is recording the call."""
    return isinstance(input, Proxy) or torch.jit.is_tracing()  # type: ignore[no-untyped-call, attr-defined]


def recorded(layer: Recurrent, input: Any, state: Any, options: dict[str, Any]) -> Any:
    """What a recorded call returns. Raises RuntimeError where torch.nn has no such layer or call."""
    options = {name: value for name, value in options.items() if value is not None and value is not False}
    if isinstance(input, Proxy):
        given = (input,) if state is None else (input, state)
        tracer: Any = input.tracer
        return tracer.create_proxy("call_module", tracer.path_of_module(layer), given, options)
    if options:
        raise RuntimeError(
            f"TorchScript cannot hold {type(layer).__name__}'s {', '.join(options)}: torch.export can, and so can "
            "torch.compile"
        )
    twin = _twin(layer)
    for name, weight in _weights(layer).items():
        delattr(twin, name)
        setattr(twin, name, weight)
    return twin(input, state)


def scriptable(layer: Recurrent) -> nn.Module:
    """torch.nn's layer of the same Parameters. Raises RuntimeError where torch.nn has none."""
    from throughtime.nn.convert import convert

    _twin(layer)
    return convert(layer, to="torch")  # type: ignore[no-any-return]


def _twin(layer: Recurrent) -> nn.Module:
    from throughtime.nn.convert import torch_twin

    twin = torch_twin(layer)
    if isinstance(twin, str):
        raise RuntimeError(
            f"TorchScript cannot hold {type(layer).__name__}, {twin}: torch.export and torch.compile can"
        )
    warnings.warn(
        f"TorchScript runs without throughtime's kernels: {type(layer).__name__} goes into it as "
        f"torch.nn.{type(twin).__name__} with the same weights. torch.export and torch.compile keep the kernels",
        TorchScriptWarning,
        stacklevel=5,
    )
    return twin


def _weights(layer: Recurrent) -> dict[str, Tensor]:
    """By name, those included that a parametrization or pruning computes."""
    suffixes = [(level, direction) for level in range(layer.num_layers) for direction in range(layer.directions)]
    names = [layer._name(name, *suffix) for suffix in suffixes for name in layer.derived.names]
    return {name: getattr(layer, name) for name in names}
