"""Products outside the loop on a GPU, W x and the gradients of the matrices, with operands of 16 bits where
`THROUGHTIME_CUDA` asks for such products: sums and results stay float32, as inside the loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from throughtime.nn import cuda_wish
from throughtime.nn.modes import is_transformed

KINDS = {"BFloat16": torch.bfloat16, "Float16": torch.float16}
"""torch's names for operands of 16 bits."""


def product(left: Tensor, right: Tensor) -> Tensor:
    """left right, of matrices or of as many of both, differentiably; as torch makes it, or of rounded operands.

    Under torch.compile and torch.func's transforms it is torch's.
    """
    kind = _kind_for(left)
    if kind is None:
        return left @ right
    made: Tensor = _Rounded.apply(left, right, kind)  # type: ignore[no-untyped-call]
    return made


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x weightᵀ, x [.., I] and weight [rows, I]: as `product`."""
    if _kind_for(x) is None:
        return functional.linear(x, weight)
    return product(x.flatten(0, -2), weight.t()).reshape(*x.shape[:-1], len(weight))


def _kind_for(tensor: Tensor) -> torch.dtype | None:
    if not _is_on_gpu(tensor) or tensor.dtype != torch.float32 or torch.compiler.is_compiling() or is_transformed():
        return None
    return KINDS.get(cuda_wish.PRODUCTS[cuda_wish.wish().product])


def _is_on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


class _Rounded(torch.autograd.Function):
    """Its gradients are such products too, so that those can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, kind: torch.dtype) -> Tensor:
        ctx.save_for_backward(left, right)
        return rounded(left.to(kind), right.to(kind), left.dtype)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        left, right = ctx.saved_tensors
        of_left, of_right, _ = ctx.needs_input_grad
        return (
            product(error, right.mT) if of_left else None,
            product(left.mT, error) if of_right else None,
            None,
        )


def rounded(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """The product of operands in 16 bits, summed and given in `dtype`; torch has none that does so on the CPU."""
    if not left.is_cuda:
        return left.to(dtype) @ right.to(dtype)
    if left.dim() == 2:
        return torch.mm(left, right, out_dtype=dtype)
    made = torch.bmm(left.flatten(0, -3), right.flatten(0, -3), out_dtype=dtype)
    return made.reshape(*left.shape[:-1], right.shape[-1])
