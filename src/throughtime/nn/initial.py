"""First values of the weights. Every function changes a layer in place and returns it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from throughtime.nn.precision import NARROW
from throughtime.symbolic.program import Sizes, size_of

if TYPE_CHECKING:
    from throughtime.nn.parameters import Parameter
    from throughtime.nn.recurrent import Recurrent

    Layer = TypeVar("Layer", bound=Recurrent)


@torch.no_grad()
def torch_default_(layer: Layer) -> Layer:
    """uniform(-1/√H, 1/√H) for everything, as torch.nn's recurrent layers; per-unit weights keep their declared value.

    For the same torch seed a drop-in draws the numbers that torch.nn's layer draws.
    """
    for parameter, spec, sizes in layer.described_parameters():
        if spec.kind == "weight":
            parameter.fill_(spec.init)
        else:
            bound = 1 / math.sqrt(sizes["hidden"]) if sizes["hidden"] > 0 else 0.0
            nn.init.uniform_(parameter, -bound, bound)
    return _with_connections(layer)


@torch.no_grad()
def tutorial_(layer: Layer, bound: float = 1e-4) -> Layer:
    """U, W ~ uniform(-1e-4, 1e-4) and no bias: the tutorial's, shown for comparison; it barely trains."""
    for parameter, spec, _ in layer.described_parameters():
        if spec.kind in ("input", "recurrent"):
            nn.init.uniform_(parameter, -bound, bound)
        else:
            parameter.fill_(spec.init)
    return layer


@torch.no_grad()
def orthogonal_(layer: Layer, gain: float = 1.0) -> Layer:
    """Every square recurrent map an orthogonal matrix (Saxe et al. 2014, arXiv:1312.6120): error neither grows nor
    shrinks through the product at first."""
    for parameter, spec, sizes in layer.described_parameters():
        if spec.kind == "recurrent":
            for block in _blocks(parameter, spec, sizes):
                wide = block.float() if block.dtype in NARROW else block  # the factorisation is made in no narrow dtype
                block.copy_(nn.init.orthogonal_(wide, gain))
    return layer


@torch.no_grad()
def glorot_(layer: Layer) -> Layer:
    """Every map of the input uniform(±√(6 / (rows + columns))) block by block. Glorot and Bengio 2010."""
    for parameter, spec, sizes in layer.described_parameters():
        if spec.kind == "input":
            for block in _blocks(parameter, spec, sizes):
                nn.init.xavier_uniform_(block)
    return layer


@torch.no_grad()
def forget_bias_(layer: Layer, value: float = 1.0, gate: str = "f") -> Layer:
    """The bias of the forget gate set to `value`, so that a new network remembers. Jozefowicz et al. 2015.

    Raises ValueError if the cell has no map of that name.
    """
    done = False
    for parameter, spec, sizes in layer.described_parameters():
        if spec.kind == "bias" and spec.has(gate):
            first = spec.first_row(gate, sizes)
            part = parameter[first : first + sizes["hidden"]]
            part.fill_(0.0 if spec.name == "bias_hh" else value)
            done = True
    if not done:
        raise ValueError(f"{layer.cell.name} has no affine map {gate!r} with a bias: name one of its maps")
    return layer


@torch.no_grad()
def default_(layer: Layer) -> Layer:
    """What `Recurrent` starts from: Glorot input maps, orthogonal recurrent maps, no bias, forget gates open by 1."""
    for parameter, spec, _ in layer.described_parameters():
        if spec.kind in ("bias", "weight"):
            parameter.fill_(spec.init)
    glorot_(orthogonal_(layer))
    if len(layer.state_names) > 1 and any(p.has("f") for p in layer.derived.layout.of_kind("bias")):
        forget_bias_(layer, 1.0)
    return _with_connections(layer)


def _with_connections(layer: Layer) -> Layer:
    for highway in layer.highways:
        highway.reset_parameters()
    return layer


def _blocks(parameter: Tensor, spec: Parameter, sizes: Sizes) -> list[Tensor]:
    """The parameter cut into its maps, and those into their heads."""
    maps = [parameter.narrow(0, spec.first_row(name, sizes), size_of(width, sizes)) for name, width in spec.rows]
    return [head for m in maps for head in m.chunk(spec.heads)]
