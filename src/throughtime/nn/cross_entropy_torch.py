"""Linear layer and cross-entropy as torch operations: whole, and, on a GPU, in blocks of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from throughtime.nn.logits import arithmetic, rows_of_block

Reduction = Literal["mean", "sum", "none"]


class How(NamedTuple):
    reduction: Reduction
    ignore_index: int
    smoothing: float


def composed(input: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, how: How) -> Tensor:
    """The loss of rows [..., H]; it holds all logits, and can be differentiated to any order."""
    kind = arithmetic(input, weight)
    with torch.autocast(input.device.type, enabled=False):
        logits = functional.linear(input.to(kind), weight.to(kind), None if bias is None else bias.to(kind))
        loss = functional.cross_entropy(
            logits.flatten(0, -2), target.flatten(), reduction=how.reduction, ignore_index=how.ignore_index,
            label_smoothing=how.smoothing,
        )  # fmt: skip
    return loss.reshape(target.shape) if how.reduction == "none" else loss


def in_torch_blocks(h: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, how: How) -> Tensor:
    """The loss of rows [N, H], and its gradients, without all logits at a time, and without waiting for the device.

    A target that is no class stops the program, as it does in torch's own loss there.
    """
    loss: Tensor = _Blocks.apply(h, weight, bias, target, how)  # type: ignore[no-untyped-call]
    return loss.to(torch.promote_types(h.dtype, weight.dtype))


class _Blocks(torch.autograd.Function):
    """The first backward pass hands over what the forward pass formed; another one forms it again."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, how: How) -> Tensor:
        counts = target != how.ignore_index
        torch._assert_async(
            (counts.logical_not() | ((target >= 0) & (target < weight.shape[0]))).all(), "a target is no class"
        )
        later = how.reduction == "none"
        scales = _scales(counts, how, arithmetic(h, weight))
        each, ctx.gradients = _losses(
            h, weight, bias, target, counts, scales, how, (False,) * 3 if later else ctx.needs_input_grad
        )
        ctx.how = how
        ctx.save_for_backward(h, weight, bias, target)
        if later:
            return each
        total = each.sum(dtype=torch.float64)
        return (total if how.reduction == "sum" else total / counts.sum()).to(each.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), how, wanted = grads, ctx.how, ctx.needs_input_grad
        h, weight, bias, target = ctx.saved_tensors
        if torch.is_grad_enabled():
            loss = composed(h, weight, bias, target, how)
            asked = [t for t, want in zip((h, weight, bias), wanted, strict=False) if want]
            found = iter(torch.autograd.grad(loss, asked, grad.to(loss.dtype), create_graph=True))
            return *(next(found) if want else None for want in wanted[:3]), None, None
        gradients, ctx.gradients = ctx.gradients, None
        if how.reduction == "none" or gradients is None:
            counts = target != how.ignore_index
            kind = arithmetic(h, weight)
            scales = counts * grad.to(kind) if how.reduction == "none" else _scales(counts, how, kind)
            _, gradients = _losses(h, weight, bias, target, counts, scales, how, wanted)
        if how.reduction != "none":
            gradients = [None if g is None else g.mul_(grad.to(g.dtype)) for g in gradients]
        return *gradients, None, None


def _scales(counts: Tensor, how: How, kind: torch.dtype) -> Tensor:
    """What each row's loss counts in the whole; NaN for a mean of nothing."""
    scales = counts.to(kind)
    return scales / scales.sum() if how.reduction == "mean" else scales


@torch.no_grad()
def _losses(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    counts: Tensor,
    scales: Tensor,
    how: How,
    wanted: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """The loss of each row [N], 0 where it does not count; and the wanted gradients, of h, weight and bias, of their
    sum, each with its scale."""
    if torch.is_autocast_enabled(h.device.type):  # the products would be rounded to its dtype
        with torch.autocast(h.device.type, enabled=False):
            return _losses(h, weight, bias, target, counts, scales, how, wanted)
    kind, given = arithmetic(h, weight), (h.dtype, weight.dtype, None if bias is None else bias.dtype)
    weight, bias = weight.to(kind), None if bias is None else bias.to(kind)
    (count, width), classes = h.shape, weight.shape[0]
    kept, wrong = 1 - how.smoothing, counts.logical_not().unsqueeze(1)
    each = [h.new_zeros(0, dtype=kind)]
    d_h = torch.empty_like(h, dtype=kind) if wanted[0] else None
    d_weight = torch.zeros_like(weight) if wanted[1] else None
    d_bias = None if bias is None or not wanted[2] else torch.zeros_like(bias)
    tall = rows_of_block(count, classes, width)
    for first in range(0, count, tall):
        own = min(tall, count - first)
        wrong_here = wrong.narrow(0, first, own)
        # Rows that do not count may hold anything, NaN too, and their targets are no classes.
        here = h.narrow(0, first, own).to(kind).masked_fill(wrong_here, 0)
        number = target.narrow(0, first, own).clamp(0, classes - 1).unsqueeze(1)
        logits = here @ weight.t() if bias is None else torch.addmm(bias, here, weight.t())
        whole = logits.logsumexp(1, keepdim=True)
        loss = whole - kept * logits.gather(1, number)
        if how.smoothing:
            loss = loss - how.smoothing * logits.mean(1, keepdim=True)
        each.append(loss.masked_fill(wrong_here, 0).squeeze(1))
        if not any(wanted[:3]):
            continue
        d_logits = logits.sub_(whole).exp_().sub_(how.smoothing / classes)
        d_logits.scatter_add_(1, number, torch.full_like(number, -kept, dtype=kind))
        d_logits.mul_(scales.narrow(0, first, own).unsqueeze(1))
        if d_h is not None:
            torch.mm(d_logits, weight, out=d_h.narrow(0, first, own))
        if d_weight is not None:
            d_weight.addmm_(d_logits.t(), here)
        if d_bias is not None:
            d_bias.add_(d_logits.sum(0))
    made = zip((d_h, d_weight, d_bias), given, strict=True)
    return torch.cat(each), [None if d is None or of is None else d.to(of) for d, of in made]
