"""In which dtype a call is computed, and in which its results are given.

float16 and bfloat16 are ways to store numbers: the arithmetic on them is done in float32, and its results are rounded
once. Under torch.autocast the layer computes in float32 too and gives the dtypes that torch.nn's layers give there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent

NARROW = (torch.float16, torch.bfloat16)


def widened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the dtype of the arithmetic, differentiably."""
    return {n: t.float() if t.dtype in NARROW else t for n, t in tensors.items()}


def under_autocast(tensor: Tensor) -> bool:
    """Whether torch.autocast is on for the tensor's device."""
    return tensor.device.type != "meta" and torch.is_autocast_enabled(tensor.device.type)


def autocast_kinds(
    layer: Recurrent, weight: Tensor, x: Tensor, states: Sequence[Tensor | None], packed: bool
) -> list[torch.dtype]:
    """The dtype of each final state under autocast; the output has the first's.

    A product comes in autocast's dtype; where the step adds the previous state to it, the result is as wide as that
    state, which without one is as wide as the input. Raises RuntimeError where float64 meets another dtype, as torch's
    products do.
    """
    own = x.dtype if x.is_floating_point() else weight.dtype
    given = [own if s is None else s.dtype for s in states]
    if weight.dtype == torch.float64:
        given.append(own)
        if any(kind != torch.float64 for kind in given):
            raise RuntimeError(
                f"the layer's weights are float64, but it was given {_listed(given)}: convert with .to()"
            )
        return given[:-1]
    if torch.float64 in (*given, own):
        raise RuntimeError(f"the layer's weights are {weight.dtype}, but it was given float64: convert with .to()")
    narrow = torch.get_autocast_dtype(x.device.type)
    products = layer.products_under_autocast(packed)
    return [
        narrow if name in products else torch.promote_types(kind, narrow)
        for name, kind in zip(layer.state_names, given, strict=True)
    ]


def _listed(kinds: Sequence[torch.dtype]) -> str:
    return ", ".join(sorted({str(k).removeprefix("torch.") for k in kinds}))
