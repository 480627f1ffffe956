"""The batching rule: a call under vmap is one larger call, never a loop of calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from throughtime.nn.calls import RANKS, Job

_is_legacy = torch._C._functorch.is_legacy_batchedtensor

_ROW_AXIS = {"time": 1, "row": 0, "start": 1}
"""Where each kind of array has its axis of sequences."""


@dataclass
class Call:
    """A call that does what `size` calls would do."""

    job: Job
    values: list[Tensor | None]
    size: int
    folded: bool

    def results(self, outputs: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """The results with an axis for the mapped one, and where it lies in each."""
        if self.folded:
            rows = [0 if t.dim() == 2 else 1 for t in outputs]  # sums are [B, W], all else has an axis before B
            return tuple(_split(t, a, self.size) for t, a in zip(outputs, rows, strict=True)), tuple(rows)
        if self.size == self.job.samples:
            return tuple(outputs), (0,) * len(outputs)
        return tuple(_split(t, 0, self.size) for t in outputs), (0,) * len(outputs)


def mapped_call(job: Job, values: Sequence[Tensor | None], dims: Sequence[Any], size: int) -> Call:
    """`dims`: the mapped axis of each value, or None where all share it.

    Sequences of all calls side by side, as more rows, use the weights best. Calls that differ in weights, or that draw
    random numbers (which belong to a row's number), become samples of one launch.
    """
    front = [v if v is None or d is None else v.movedim(d, 0) for v, d in zip(values, dims, strict=True)]
    roles = ["lengths", "seed", *job.kind.roles()]
    shared = ("seed", "unit", "parameter")
    differ = any(d is not None for d, role in zip(dims, roles, strict=True) if role in shared)
    if job.samples or differ or values[1] is not None:
        return _sampled(job, front, dims, size, roles)
    folded: list[Tensor | None] = []
    for value, dim, role in zip(front, dims, roles, strict=True):
        if value is None or role in shared:
            folded.append(value)
            continue
        if dim is None:
            value = value.expand(size, *value.shape)
        axis = _ROW_AXIS.get(role, 0)
        folded.append(value.movedim(0, axis).flatten(axis, axis + 1))
    return Call(job._replace(rows=size * job.rows), folded, size, True)


def over_several(
    derivative: Callable[..., list[Tensor | None]], directions: Sequence[Tensor | None]
) -> Sequence[Tensor | None]:
    """`derivative(*directions)`; where torch.autograd sends several errors back at once (`is_grads_batched`), or
    tangents forward, which it marks in a way of its own that torch.func does not know, as one vmap over them."""
    several = [v is not None and _is_legacy(v) for v in directions]
    if not any(several):
        return derivative(*directions)
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    bare = [
        torch._remove_batch_dim(v, level, 1, 0) if v is not None and own else v
        for v, own in zip(directions, several, strict=True)
    ]
    known: list[bool] = []

    def present(*directions: Tensor | None) -> tuple[Tensor, ...]:
        found = derivative(*directions)
        known[:] = [g is not None for g in found]
        return tuple(g for g in found if g is not None)

    at = iter(torch.func.vmap(present, tuple(0 if own else None for own in several))(*bare))
    return [torch._add_batch_dim(next(at).contiguous(), 0, level) if there else None for there in known]


def _sampled(job: Job, front: list[Tensor | None], dims: Sequence[Any], size: int, roles: Sequence[str]) -> Call:
    if not job.samples:
        return Call(job._replace(samples=size), front, size, False)
    # A map of a map: every value that one of them differs in has one axis for both.
    ranks = {**RANKS, "lengths": 1, "seed": 0}
    joined: list[Tensor | None] = []
    for value, dim, role in zip(front, dims, roles, strict=True):
        if value is None:
            joined.append(value)
            continue
        inner = value.dim() - (dim is not None) > ranks[role]
        if dim is None and not inner:
            joined.append(value)
            continue
        if dim is None:
            value = value.expand(size, *value.shape)
        elif not inner:
            value = value.unsqueeze(1).expand(size, job.samples, *value.shape[1:])
        joined.append(value.flatten(0, 1))
    return Call(job._replace(samples=size * job.samples), joined, size, False)


def _split(value: Tensor, axis: int, size: int) -> Tensor:
    return value.reshape(*value.shape[:axis], size, value.shape[axis] // size, *value.shape[axis + 1 :])
