"""Linear layer and cross-entropy in one, in blocks of rows: the [N, V] logits never exist as a whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from throughtime.nn.cross_entropy_torch import How, Reduction, composed, in_torch_blocks
from throughtime.nn.logits import Losses, arithmetic, in_blocks
from throughtime.nn.modes import is_transformed

_is_legacy = torch._C._functorch.is_legacy_batchedtensor


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    backend: Literal["compiled", "reference"] = "compiled",
) -> Tensor:
    """cross_entropy(linear(input, linear_weight, linear_bias), target) without its logits.

    The arguments are those of torch.nn.functional.linear_cross_entropy. With "mean" and "sum" the gradients are formed
    together with the loss, block by block: three matrix products and one pass over the logits of a block. "none" forms
    them in the backward pass, from a fourth product.

    Memory: besides gradients as large as what they belong to, the logits of one block, at most max(2^20, 2 H V)
    numbers; 4 (H + 1) V bytes more where the weights are float16 or bfloat16, whose arithmetic is float32. Rows with
    an ignored target are not computed; the others are copied if there are any.

    Second derivatives (create_graph=True), torch.func and forward-mode derivatives, torch.compile and backend
    "reference" are made of torch's operators and do hold the [N, V] logits. A second backward pass through one graph
    (retain_graph=True) forms the gradients again.

    On a GPU the blocks are made of torch's operators, nothing waits for the device, and a target that is no class
    stops the program there.

    Args:
        input: [..., H].
        linear_weight: [V, H].
        target: [...] int64, the class of each row, in [0, V), or `ignore_index`.
        linear_bias: [V].
        reduction: "mean" over the targets that are not ignored (NaN without any), "sum", or "none".
        ignore_index: rows with this target have loss 0 and no gradient.
        label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al. 2016,
            arXiv:1512.00567).
        backend: "compiled", on the CPU or a GPU; or "reference", on any device.

    Returns:
        A scalar, or [...] with reduction "none", in nats, in the dtype that input and weight promote to.

    Raises:
        IndexError: a target is no class.
        TypeError, ValueError, NotImplementedError: arguments that do not fit; the message says which.
    """
    tensors = [input, linear_weight] if linear_bias is None else [input, linear_weight, linear_bias]
    _check(tensors, target, reduction, label_smoothing, backend)
    kind = torch.promote_types(input.dtype, linear_weight.dtype)
    how = How(reduction, ignore_index, float(label_smoothing))
    if backend == "reference" or input.is_meta or torch.compiler.is_compiling() or is_transformed():
        return composed(input, linear_weight, linear_bias, target, how).to(kind)
    rows = input if input.dim() == 2 else input.reshape(-1, input.shape[-1])
    targets = target if target.dim() == 1 else target.reshape(-1)
    if input.is_cuda:
        return in_torch_blocks(rows, linear_weight, linear_bias, targets, how).reshape(
            target.shape if reduction == "none" else ()
        )
    kept = _kept(targets, linear_weight.shape[0], ignore_index)
    if kept is not None:
        rows, targets = rows.index_select(0, kept), targets[kept]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        loss: Tensor = _LinearCrossEntropy.apply(rows, linear_weight, linear_bias, targets, how)  # type: ignore[no-untyped-call]
    else:
        losses = in_blocks(rows, linear_weight, linear_bias, targets, (False,) * 3, smoothing=how.smoothing)
        loss = _reduced(losses, how, kind)
    if reduction != "none":
        return loss
    if kept is not None:
        loss = loss.new_zeros(target.numel()).index_copy(0, kept, loss)
    return loss.reshape(target.shape)


class _LinearCrossEntropy(torch.autograd.Function):
    """The first backward pass hands over what the forward pass formed; another one forms it again."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, how: How) -> Tensor:
        later = how.reduction == "none"
        losses = _blocks(h, weight, bias, target, how, (False,) * 3 if later else ctx.needs_input_grad)
        ctx.how, ctx.gradients = how, None if later else losses.gradients
        ctx.save_for_backward(h, weight, bias, target)
        return _reduced(losses, how, torch.promote_types(h.dtype, weight.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), how, wanted = grads, ctx.how, ctx.needs_input_grad
        if torch.is_grad_enabled() or _is_legacy(grad):
            h, weight, bias, target = ctx.saved_tensors
            return *_composed_gradients(h, weight, bias, target, grad, how, wanted), None, None
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            h, weight, bias, target = ctx.saved_tensors
            scales = grad if how.reduction == "none" else None
            gradients = _blocks(h, weight, bias, target, how, wanted, scales).gradients
        if how.reduction != "none" and (scale := grad.item()) != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(scale)
        return *gradients, None, None


def _blocks(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    how: How,
    wanted: Sequence[bool],
    scales: Tensor | None = None,
) -> Losses:
    scale = 1 / max(1, target.shape[0]) if how.reduction == "mean" else 1.0
    return in_blocks(h, weight, bias, target, wanted[:3], smoothing=how.smoothing, scale=scale, scales=scales)


def _reduced(losses: Losses, how: How, kind: torch.dtype) -> Tensor:
    if how.reduction == "none":
        return losses.each.to(kind)
    count = losses.each.shape[0]
    mean = losses.total / count if count else math.nan
    return torch.scalar_tensor(mean if how.reduction == "mean" else losses.total, dtype=kind)


def _composed_gradients(
    h: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, grad: Tensor, how: How, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients as differentiable functions of all that they depend on; no target is ignored."""
    kind = arithmetic(h, weight)
    h_wide, weight_wide = h.to(kind), weight.to(kind)
    logits = functional.linear(h_wide, weight_wide, None if bias is None else bias.to(kind))
    wished = functional.one_hot(target, len(weight)).to(kind) * (1 - how.smoothing) + how.smoothing / len(weight)
    d_losses = grad.to(kind) / len(h) if how.reduction == "mean" else grad.to(kind)
    d_logits = (logits.softmax(1) - wished) * d_losses.unsqueeze(-1)
    return (
        (d_logits @ weight_wide).to(h.dtype) if wanted[0] else None,
        (d_logits.mT @ h_wide).to(weight.dtype) if wanted[1] else None,
        d_logits.sum(-2).to(bias.dtype) if wanted[2] and bias is not None else None,
    )


def _kept(target: Tensor, classes: int, ignore_index: int) -> Tensor | None:
    """The rows whose targets are classes, or None where all are. Raises IndexError for targets that are neither."""
    if not target.shape[0]:
        return None
    least, most = (int(v) for v in target.aminmax())
    if least >= 0 and most < classes and not least <= ignore_index <= most:
        return None
    counts = target != ignore_index
    wrong = target[counts & ((target < 0) | (target >= classes))]
    if len(wrong):
        raise IndexError(
            f"a target is {int(wrong[0])}, but the weight has {classes} rows: give classes from 0 to {classes - 1}, or "
            f"ignore_index ({ignore_index}) for a row that does not count"
        )
    return None if bool(counts.all()) else counts.nonzero().squeeze(1)


def _check(tensors: Sequence[Tensor], target: Tensor, reduction: str, smoothing: float, backend: str) -> None:
    input, weight = tensors[:2]
    if weight.dim() != 2 or input.dim() < 1 or input.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"input is {list(input.shape)} and linear_weight {list(weight.shape)}: give [..., H] and [V, H]"
        )
    if len(tensors) > 2 and tensors[2].shape != weight.shape[:1]:
        raise ValueError(f"linear_bias is {list(tensors[2].shape)}: give one number for each of {len(weight)} classes")
    if target.dtype != torch.int64:
        raise TypeError(f"target is {target.dtype}: give class numbers as int64")
    if target.shape != input.shape[:-1]:
        raise ValueError(f"target is {list(target.shape)}: give one class for each row of input {list(input.shape)}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction should be "mean", "sum" or "none", got {reduction!r}')
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing should be a share from 0 to 1, got {smoothing!r}")
    if backend not in ("compiled", "reference"):
        raise ValueError(f'backend should be "compiled" or "reference", got {backend!r}')
    if any(not t.is_floating_point() for t in tensors):
        raise TypeError(f"{', '.join(str(t.dtype) for t in tensors)}: give floating-point input, weight and bias")
    for other in (*tensors[1:], target):
        if other.device != input.device:
            raise ValueError(f"input is on {input.device}, another tensor on {other.device}: move one with .to()")
    if backend == "compiled" and input.device.type not in ("cpu", "cuda", "meta"):
        raise NotImplementedError(
            "the compiled backend works on the CPU and on NVIDIA GPUs, "
            f'the input is on {input.device}: use backend="reference" there'
        )
