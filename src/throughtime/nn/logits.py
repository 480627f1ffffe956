"""Cross-entropy and its gradients in blocks of rows: two calls of products, between them one over a block's logits."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime import runtime
from throughtime.nn.libraries import library
from throughtime.nn.matmul import PIECE, Products, matrix
from throughtime.nn.precision import NARROW

LOGITS = 1 << 20
"""Logits held at one time, where that is many rows: 4 MiB in float32, which a cache holds."""
ROWS = 256
"""Rows of a block where V is so large that LOGITS are fewer: the weights are read once for each block."""
CLASSES = 1024
"""Classes that are summed in one chain: one over all V would round more."""

TYPES = {torch.float32: "float", torch.float64: "double"}


class Losses(NamedTuple):
    """each: [N] float64. gradients: of h [N, H], weight [V, H] and bias [V], or None where not wanted."""

    each: Tensor
    total: float
    gradients: list[Tensor | None]


def in_blocks(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    wanted: Sequence[bool],
    *,
    smoothing: float = 0.0,
    scale: float = 1.0,
    scales: Tensor | None = None,
) -> Losses:
    """Cross-entropy of each row of h weightᵀ + bias, and the wanted gradients of its sum.

    Args:
        h: [N, H]; weight: [V, H]; bias: [V].
        target: [N] int64, each in [0, V): not checked here.
        wanted: which gradients: of h, weight and bias.
        smoothing: a row's loss is (1 - smoothing) (-log p[target]) + smoothing mean(-log p).
        scale, scales: the gradients are those of scale Σ scales[n] loss[n]; scales: [N].
    """
    count, classes = len(target), weight.shape[0]
    kind, given = arithmetic(h, weight), (h.dtype, weight.dtype, None if bias is None else bias.dtype)
    weight = _as(weight, kind)
    bias = None if bias is None else _as(bias, kind).contiguous()
    scales = None if scales is None else _as(scales, kind).contiguous()
    target = target.contiguous()

    d_h = torch.empty(h.shape, dtype=kind) if wanted[0] else None
    empty = torch.empty if count else torch.zeros
    d_weight = empty(weight.shape, dtype=kind) if wanted[1] else None
    d_bias = empty(classes, dtype=kind) if wanted[2] else None
    each, total = torch.empty(count, dtype=torch.float64), 0.0
    tall = rows_of_block(count, *weight.shape)
    logits, by_class = torch.empty(tall, classes, dtype=kind), matrix(weight)
    for first in range(0, count, tall):
        rows = min(tall, count - first)
        here, block = _as(_rows(h, first, rows), kind), matrix(_rows(logits, 0, rows))
        scores = Products(kind)
        scores.add(matrix(here), by_class.t, block)
        scores.run()
        total += _finish(logits, rows, bias, target, each, scales, d_bias, first, any(wanted), scale, smoothing)
        back = Products(kind)
        if d_weight is not None:
            back.add(block.t, matrix(here), matrix(d_weight), chain=PIECE, more=first > 0)
        if d_h is not None:
            back.add(block, by_class, matrix(_rows(d_h, first, rows)), chain=CLASSES)
        back.run()
    made = zip((d_h, d_weight, d_bias), given, strict=True)
    return Losses(each, total, [None if d is None or of is None else _as(d, of) for d, of in made])


def arithmetic(h: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype in which the loss is computed."""
    kind = h.dtype if h.dtype == weight.dtype else torch.promote_types(h.dtype, weight.dtype)
    return torch.float32 if kind in NARROW else kind


def rows_of_block(count: int, classes: int, width: int) -> int:
    """How many rows a block of logits has; all blocks are about equally tall."""
    most = max(1, LOGITS // max(1, classes), min(ROWS, 2 * width))
    blocks = max(1, -(-count // most))
    return max(1, -(-count // blocks))


def _as(tensor: Tensor, kind: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == kind else tensor.to(kind)


def _rows(tensor: Tensor, first: int, count: int) -> Tensor:
    return tensor if count == tensor.shape[0] else tensor[first : first + count]


def _finish(
    logits: Tensor,
    rows: int,
    bias: Tensor | None,
    target: Tensor,
    each: Tensor,
    scales: Tensor | None,
    d_bias: Tensor | None,
    first: int,
    gradient: bool,
    scale: float,
    smoothing: float,
) -> float:
    """From the logits [R, V] of the `rows` rows from `first` on: their losses, and their sum; leaves the gradient of
    the logits + bias in the logits' place, if asked, and adds it up in d_bias."""
    run, pool = _compiled(logits.dtype)
    classes, size = logits.shape[1], logits.itemsize
    words = array(
        "q",
        (
            *(pool, torch.get_num_threads(), rows, classes, logits.data_ptr(), 0 if bias is None else bias.data_ptr()),
            *(target.data_ptr() + 8 * first, each.data_ptr() + 8 * first),
            *(0 if scales is None else scales.data_ptr() + size * first, 0 if d_bias is None else d_bias.data_ptr()),
            *(gradient, first > 0),
        ),
    )
    return run(words.buffer_info()[0], scale, smoothing)


@cache
def _compiled(kind: torch.dtype) -> tuple[Callable[[int, float, float], float], int]:
    """The function of raw memory, and the address of the pool it runs on."""
    text = f'#include "cross_entropy.h"\n\nTT_CROSS_ENTROPY({TYPES[kind]})\n'
    function = library(text, f"cross_entropy_{TYPES[kind]}").tt_run
    function.argtypes = [ctypes.c_void_p, ctypes.c_double, ctypes.c_double]
    function.restype = ctypes.c_double
    return function, runtime.parallel_address()
