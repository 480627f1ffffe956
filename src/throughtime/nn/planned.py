"""Calls that only make numbers: the input product, the recurrence, and all matrix gradients, by the package's own code.

Everything about such a call but its addresses follows from the layout of its tensors. It is planned at the first call
of a layout; later ones allocate, fill in addresses and run. A short sequence takes less time than planning would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from throughtime.nn.calls import Job, Kind, empty_results
from throughtime.nn.kernels import MATRIX, MOST_CALLS, ROW, Mapped, Place, PreparedCall, addresses_of, layout_of
from throughtime.nn.matmul import (
    is_flat,
    laid_out,
)
from throughtime.nn.memory import Form
from throughtime.nn.products import input_product, needs_table
from throughtime.nn.program import Plan

Extra = Tensor | tuple[int, bool]
"""What a call's row of tensors gets beside what is given: a constant; or a copy of tensor number .., which is flat or
not."""


class Row:
    """The tensors of a call by number, while it is planned; later calls' tensors lie as these do."""

    def __init__(self, tensors: Sequence[Tensor | None], batch_first: bool) -> None:
        self.tensors, self.batch_first = list(tensors), batch_first
        self.extras: list[Extra] = []
        self._copies: dict[tuple[int, bool], int] = {}

    def add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, tensor: Tensor) -> int:
        self.extras.append(tensor)
        return self.add(tensor)

    def with_units_together(self, at: int) -> int:
        """The number of that tensor, or of a copy of which a kernel can read whole vectors."""
        tensor = self.tensors[at]
        if tensor is None or tensor.stride(-1) == 1 or tensor.shape[-1] <= 1:
            return at
        return self._copy(at, False)

    def flat(self, at: int) -> int:
        """The number of that tensor [T, B, W], or of a flat copy."""
        return at if is_flat(self[at], self.batch_first) else self._copy(at, True)

    def _copy(self, at: int, flat: bool) -> int:
        if (at, flat) not in self._copies:
            self.extras.append((at, flat))
            self._copies[at, flat] = self.add(_copied(self[at], flat, self.batch_first))
        return self._copies[at, flat]

    def __getitem__(self, at: int) -> Tensor:
        found = self.tensors[at]
        assert found is not None
        return found


def _copied(tensor: Tensor, flat: bool, batch_first: bool) -> Tensor:
    return laid_out(tensor, batch_first) if flat else tensor.contiguous()


def with_extras(row: list[Tensor | None], extras: Sequence[Extra], batch_first: bool) -> None:
    for extra in extras:
        row.append(extra if isinstance(extra, Tensor) else _copied(row[extra[0]], extra[1], batch_first))  # type: ignore[arg-type]


def kept_call(calls: dict[object, Any], key: object, make: Callable[[], Any]) -> Any:
    found = calls.get(key)
    if found is None:
        if len(calls) >= MOST_CALLS:
            calls.clear()
        found = calls[key] = make()
    return found


def prepared(
    kind: Kind, plan: Plan, job: Job, row: Row, operands: Sequence[int], first_result: int, x: int | None = None
) -> PreparedCall:
    """The kernel's call. `operands`: the numbers of its tensors but for its results, which come last in the row; `x`:
    that of the input, if the kernel is to map it itself."""
    slots = [*operands, *range(first_result, len(row.tensors))]
    groups, mapped = plan.groups, None
    if x is not None:
        # A column of W x is a row of W; where x is word numbers, of every row of Wᵀ.
        size, weights, words = plan.dtype.itemsize, {slot - 2 for slot in kind.net_slots}, row[x].dim() == 2

        def placed(p: Place) -> Place:
            return Place(p.slot, ROW, p.offset) if words else Place(p.slot, MATRIX, 0, p.offset // size)

        groups = [[placed(p) if p.slot in weights else p for p in group] for group in groups]
        mapped = Mapped(len(slots), 0 if words else row[x].shape[-1], plan.net_reads)
        slots.append(x)
    lying = layout_of([row.tensors[k] for k in slots])
    threads, reverse = torch.get_num_threads(), kind.group_reverse
    call = plan.kernel.prepared(lying, groups, plan.numbers, reverse, job.steps, job.rows, threads, mapped=mapped)
    moved = [(place, slots[slot], offset) for place, slot, offset in call.template.places]
    return call._replace(template=call.template._replace(places=moved))


def real_rows(job: Job, lengths: Tensor | None) -> Tensor | None:
    """The numbers of those of the T · B rows that are not padding; None where all are real."""
    if lengths is None:
        return None
    # By NumPy: torch's threads, which wake for a large tensor, would then spin on cores that the recurrence needs.
    real = np.arange(job.origin, job.origin + job.steps)[:, None] < lengths.numpy()
    return torch.from_numpy(np.flatnonzero(real.T if job.batch_first else real))


def seeds(kind: Kind, seed: Tensor | None) -> list[int]:
    return [] if seed is None else kind.seeds(int(seed))


class _Forward(NamedTuple):
    extras: list[Extra]
    kernel: PreparedCall
    results: list[Form]


def forward(job: Job, x: Tensor | None, values: Sequence[Tensor | None]) -> list[Tensor]:
    """The results of a call, see `calls.launch`. Where x [T, B, I], or word numbers [T, B], are given, each direction's
    read "net" is not W x but W."""
    if x is not None and x.dim() == 2:
        values, slots = list(values), job.kind.net_slots
        weights = [w for slot in slots if (w := values[slot]) is not None]
        table = needs_table(x.numel(), weights[0].shape[1])
        for slot, weight in zip(slots, weights, strict=True):
            values[slot] = weight.t().contiguous() if table else input_product(x, weight)
        x = x if table else None
    row = [*values, x]
    like = next(v for v in values[2:] if v is not None)
    plan = job.kind.plan(job.keep, like.dtype)
    key = layout_of(row), job.steps, job.rows, job.batch_first, torch.get_num_threads()
    call: _Forward = kept_call(plan.calls, key, lambda: _plan_forward(job, plan, row, like))
    with_extras(row, call.extras, job.batch_first)
    outputs = [form.new() for form in call.results]
    addresses = addresses_of([*row, *outputs])
    call.kernel.run(addresses, job.origin, seeds(job.kind, values[1]), values[0])
    return outputs


def _plan_forward(job: Job, plan: Plan, given: Sequence[Tensor | None], like: Tensor) -> _Forward:
    row = Row(given, job.batch_first)
    x = None if given[-1] is None else len(given) - 1
    if x is not None and row[x].dim() == 3:
        x = row.with_units_together(x)
    weights = [] if x is None else job.kind.net_slots
    operands = [k if k in weights else row.with_units_together(k) for k in range(2, len(given) - 1)]
    first_result = len(row.tensors)
    results = empty_results(job, plan, like)
    row.tensors += results
    kernel = prepared(job.kind, plan, job, row, operands, first_result, x)
    return _Forward(row.extras, kernel, [Form(r) for r in results])
