"""Cross-entropy of a linear output layer, in blocks of rows: the [N, V] logits never exist as a whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = 1 << 20  # logits held at one time: 4 MB in float32, which stay in the cache


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradients are formed with the loss, block by block, so nothing has to be kept or done twice."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        d_features, d_weight, d_bias = (
            torch.empty_like(features),
            torch.zeros_like(weight),
            torch.zeros_like(bias),
        )
        total = features.new_zeros((), dtype=torch.float64)
        for rows in _blocks(len(targets), len(bias)):
            logits = torch.addmm(bias, features[rows], weight.T)
            log_normaliser = torch.logsumexp(logits, 1, keepdim=True)
            picked = targets[rows, None]
            total += (log_normaliser - logits.gather(1, picked)).sum(dtype=torch.float64)
            d_logits = logits.sub_(log_normaliser).exp_()  # softmax - one_hot(target)
            d_logits.scatter_add_(1, picked, d_logits.new_full((1, 1), -1.0).expand_as(picked))
            torch.mm(d_logits, weight, out=d_features[rows])
            d_weight.addmm_(d_logits.T, features[rows])
            d_bias += d_logits.sum(0)
        ctx.save_for_backward(d_features, d_weight, d_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        d_features, d_weight, d_bias = ctx.saved_tensors
        scale = grads[0].to(d_features.dtype)
        return d_features * scale, d_weight * scale, d_bias * scale, None


def summed_cross_entropy(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Sum over rows of -log softmax(features @ weight.T + bias)[target], in nats, as a float64 scalar.

    features: [N, H]; weight: [V, H]; bias: [V]; targets: [N] int64 in [0, V). First derivatives only.
    """
    if torch.is_grad_enabled():
        loss: Tensor = _LinearCrossEntropy.apply(features, weight, bias, targets)  # type: ignore[no-untyped-call]
        return loss
    total = features.new_zeros((), dtype=torch.float64)
    for rows in _blocks(len(targets), len(bias)):
        logits = torch.addmm(bias, features[rows], weight.T)
        picked = logits.gather(1, targets[rows, None])
        total += (torch.logsumexp(logits, 1, keepdim=True) - picked).sum(dtype=torch.float64)
    return total


def _blocks(count: int, width: int) -> list[slice]:
    size = max(1, BLOCK // width)
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]
