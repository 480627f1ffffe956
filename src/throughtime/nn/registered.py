"""The second door: one operator, `torch.ops.throughtime.recur`, that torch.compile and torch.export see as a whole.

Its shapes are known without running it, and its derivatives are recorded as further calls of itself. A call names its
kind in full, so that an exported program runs in a process that has never seen the layer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from throughtime.nn.calls import Job, Kind, Operands, empty_results, launch_kernel, sort_results
from throughtime.nn.derived import Derived
from throughtime.nn.mapped import mapped_call
from throughtime.nn.operation import asks_for_derivatives, run_flat
from throughtime.symbolic.stored import load_cell

_library = torch.library.Library("throughtime", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "recur(Tensor?[] values, str kind, SymInt steps, SymInt rows, SymInt origin, SymInt samples, bool batch_first, "
    "bool keep) -> Tensor[]"
)
_kinds: dict[str, Kind] = {}


def run_traced(job: Job, operands: Operands) -> tuple[Tensor, list[Tensor]]:
    """The recurrence of a layer while it is traced: its output [T, B, D·H] and the final states [D, B, W]."""
    outputs = _call(job, operands.flat())
    return outputs[0], outputs[1:]


def launch_registered(job: Job, values: Sequence[Tensor | None]) -> list[Tensor]:
    """`launch` for tensors that only stand for numbers."""
    _kinds.setdefault(job.kind.name, job.kind)
    return _call(job, values)


def _call(job: Job, values: Sequence[Tensor | None]) -> list[Tensor]:
    sizes = job.steps, job.rows, job.origin, job.samples
    return torch.ops.throughtime.recur(values, job.kind.name, *sizes, job.batch_first, job.keep)  # type: ignore[no-any-return]


def _job(kind: str, steps: int, rows: int, origin: int, samples: int, batch_first: bool, keep: bool) -> Job:
    return Job(_kind(kind), steps, rows, batch_first, origin, keep, samples)


def _kind(name: str) -> Kind:
    """The kind of that name, made again where this process does not have it."""
    found = _kinds.get(name)
    if found is None:
        text, *steps = name.rsplit("}/", 1)
        if steps:
            found = _kind(text + "}").derived(steps[0].split("/"))
        else:
            facts = json.loads(text)
            derived = Derived(load_cell(facts["cell"]), facts["bias"], 1, facts["heads"])
            sizes = dict(facts["sizes"])
            directions = tuple(facts["reverse"]), tuple(facts["streams"])
            found = derived.kind(sizes, *directions, facts["training"], facts["traced"])
        _kinds[name] = found
    return found


def _on_numbers(values: Sequence[Tensor | None], *call: int | str) -> list[Tensor]:
    return launch_kernel(_job(*call), values)  # type: ignore[arg-type]


def _on_shapes(values: Sequence[Tensor | None], *call: int | str) -> list[Tensor]:
    job = _job(*call)  # type: ignore[arg-type]
    like = next(v for v in values[2:] if v is not None)
    return empty_results(job, job.kind.plan(job.keep, like.dtype), like)


def _differentiable(values: Sequence[Tensor | None], *call: int | str) -> list[Tensor]:
    if not asks_for_derivatives(values):
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.throughtime.recur(values, *call)  # type: ignore[no-any-return]
    job = _job(*call)  # type: ignore[arg-type]
    _, outputs = run_flat(job, values)
    if job.keep:
        return list(outputs)
    # The caller does not know of what is kept: it gets what it would get without derivatives.
    dtype = outputs[0].dtype
    done, plan = sort_results(job.kind.plan(True, dtype), outputs), job.kind.plan(False, dtype)
    found = [done.joint[n] for n in plan.joint_writes] + done.ends
    for d in range(plan.directions):
        found += [done.writes[d][n] for n in plan.own_writes] + [done.sums[d][n] for n in plan.sums]
    return found  # type: ignore[return-value]


def _mapped(info: Any, in_dims: Any, values: Sequence[Tensor | None], *call: int | str) -> Any:
    mapped = mapped_call(_job(*call), values, in_dims[0], info.batch_size)  # type: ignore[arg-type]
    outputs, dims = mapped.results(_call(mapped.job, mapped.values))
    return list(outputs), list(dims)


_library.impl("recur", _on_numbers, "CPU")  # type: ignore[no-untyped-call]
_library.impl("recur", _on_numbers, "CUDA")  # type: ignore[no-untyped-call]
_library.impl("recur", _differentiable, "Autograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("throughtime::recur", _on_shapes, lib=_library)
torch.library.register_vmap("throughtime::recur", _mapped, lib=_library)
