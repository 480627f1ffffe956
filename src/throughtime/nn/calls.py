"""What one call of a recurrence is: its kind, its operands and results by name, and the launch of its kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime.nn.program import Plan, Program
from throughtime.symbolic.noise import direction_seed
from throughtime.symbolic.program import Sizes


class Kind:
    """What many calls have in common.

    `sizes`: what the symbolic widths are. `places`: matrix -> (number of the parameter that holds it, first row).
    `parameters`: their number for one direction. `reverse`: for each direction, whether its time runs backwards.
    `streams`: the number of each direction's noise. `heads`: how many blocks the hidden units are cut into, each of
    which sees only itself. `name`: tells this kind from all others, and suffices to make it again in another process.
    """

    def __init__(
        self,
        name: str,
        program: Program,
        sizes: Sizes,
        places: Mapping[str, tuple[int, int]],
        parameters: int,
        reverse: tuple[bool, ...],
        streams: tuple[int, ...],
        heads: int = 1,
    ) -> None:
        self.name, self.program, self.sizes, self.places = name, program, sizes, places
        self.parameters, self.reverse, self.streams, self.heads = parameters, reverse, streams, heads
        self.group_reverse = [r for r in reverse for _ in range(heads)]
        self._plans: dict[tuple[bool, torch.dtype], Plan] = {}
        self._tangents: dict[bool, Kind] = {}

    def plan(self, keep: bool, dtype: torch.dtype) -> Plan:
        found = self._plans.get((keep, dtype))
        if found is None:
            found = self._plans[keep, dtype] = Plan(
                self.program, keep, dtype, self.sizes, len(self.reverse), self.heads, self.places, self.parameters
            )
        return found

    @cached_property
    def net_slots(self) -> list[int]:
        """Where each direction's read "net" stands among the operands."""
        program = self.program
        first = 2 + len(program.joint) + len(program.recurrence.carries)
        each = len(program.own) + self.parameters
        return [first + d * each + program.own.index("net") for d in range(len(self.reverse))]

    def seeds(self, number: int) -> list[int]:
        """Of a call's seed, each group's own."""
        return [direction_seed(number, stream + 2 * head) for stream in self.streams for head in range(self.heads)]

    @cached_property
    def backward(self) -> Kind:
        return self._back("backward", self.program.backward)

    @cached_property
    def backward_of_kept(self) -> Kind:
        return self._back("backward_of_kept", self.program.backward_of_kept)

    def _back(self, step: str, program: Program) -> Kind:
        reverse = tuple(not r for r in self.reverse)
        name = f"{self.name}/{step}"
        return Kind(name, program, self.sizes, self.places, self.parameters, reverse, self.streams, self.heads)

    @property
    def tangent(self) -> Kind:
        """The tangents of results whose matrices stand still."""
        return self._tangent(False)

    @property
    def tangent_of_matrices(self) -> Kind:
        """The tangents of results whose matrices move too: each direction has its parameters, then their tangents."""
        return self._tangent(True)

    def _tangent(self, moving: bool) -> Kind:
        found = self._tangents.get(moving)
        if found is None:
            program = self.program.tangent(moving)
            prefix = program.recurrence.prefix
            places = dict(self.places)
            if moving:
                places |= {prefix + m: (number + self.parameters, row) for m, (number, row) in self.places.items()}
            name = f"{self.name}/{'tangent_of_matrices' if moving else 'tangent'}"
            count = self.parameters * (2 if moving else 1)
            found = Kind(name, program, self.sizes, places, count, self.reverse, self.streams, self.heads)
            self._tangents[moving] = found
        return found

    def derived(self, steps: Sequence[str]) -> Kind:
        """The kind that the derivations, in this order, lead to."""
        found = self
        for step in steps:
            found = getattr(found, step)
        return found

    def roles(self) -> Iterator[str]:
        """What each operand of a call is: "time" [T, B, W], "row" [B, W], "unit" [W], "start" [D, B, W] or
        "parameter" [rows, columns]."""
        program = self.program
        yield from ("time" for _ in program.joint)
        yield from ("start" for _ in program.recurrence.carries)
        for _ in self.reverse:
            yield from (program.reads[n] for n in program.own)
            yield from ("parameter" for _ in range(self.parameters))


class Job(NamedTuple):
    """One call, apart from its tensors: `steps` T and `rows` B; `origin`: the number of the first step; `keep`:
    whether to keep what the backward pass needs; `samples`: 0, or S independent calls in one, each tensor with an axis
    of S in front or, if they share it, without. `errors`: is given, for each direction, the error terms [T, B, ...] of
    a traced call when they are known, and the error [T, B, D·H] that entered through its output, if any did.
    """

    kind: Kind
    steps: int
    rows: int
    batch_first: bool
    origin: int = 0
    keep: bool = False
    samples: int = 0
    errors: Callable[[int, Tensor, Tensor | None], None] | None = None


RANKS = {"time": 3, "row": 2, "unit": 1, "start": 3, "parameter": 2}


@dataclass
class Operands:
    """The tensors of a call: `lengths` [B] int64 and `seed` (int64) or None, joint reads by name, each carry's start
    [D, B, W] or None, and for each direction its other reads by name and its parameters."""

    lengths: Tensor | None
    seed: Tensor | None
    joint: dict[str, Tensor]
    starts: Sequence[Tensor | None]
    reads: list[dict[str, Tensor]]
    parameters: list[list[Tensor]]

    def flat(self) -> list[Tensor | None]:
        values: list[Tensor | None] = [self.lengths, self.seed, *self.joint.values(), *self.starts]
        for reads, parameters in zip(self.reads, self.parameters, strict=True):
            values += [*reads.values(), *parameters]
        return values


@dataclass
class Results:
    """What a call returns, by name; `ends` are the carries [D, B, W] after the last step, `sums` [B, ...]."""

    joint: dict[str, Tensor | None]
    ends: list[Tensor | None]
    writes: list[dict[str, Tensor | None]]
    sums: list[dict[str, Tensor | None]]


def sort_operands(kind: Kind, values: Sequence[Tensor | None]) -> Operands:
    at = iter(values)
    program = kind.program
    lengths, seed = next(at), next(at)
    joint = {n: next(at) for n in program.joint}
    starts = [next(at) for _ in program.recurrence.carries]
    result = Operands(lengths, seed, joint, starts, [], [])  # type: ignore[arg-type]
    for _ in kind.reverse:
        result.reads.append({n: next(at) for n in program.own})  # type: ignore[misc]
        result.parameters.append([next(at) for _ in range(kind.parameters)])  # type: ignore[misc]
    return result


def sort_results(plan: Plan, values: Sequence[Tensor | None]) -> Results:
    at = iter(values)
    result = Results({n: next(at) for n in plan.joint_writes}, [next(at) for _ in plan.ends], [], [])
    for _ in range(plan.directions):
        result.writes.append({n: next(at) for n in plan.own_writes})
        result.sums.append({n: next(at) for n in plan.sums})
    return result


def launch(job: Job, values: Sequence[Tensor | None]) -> list[Tensor]:
    """Runs the kernel on tensors that hold numbers; tensors that only stand for numbers go through the operator that
    torch.compile and torch.export know."""
    if not holds_numbers(next(v for v in values[2:] if v is not None)):
        from throughtime.nn.registered import launch_registered

        return launch_registered(job, values)
    return launch_kernel(job, values)


def holds_numbers(tensor: Tensor) -> bool:
    """Whether the tensor can be read now, and nobody wants to see which operators are called."""
    return not (tensor.is_meta or torch._C._len_torch_dispatch_stack())


def launch_kernel(job: Job, values: Sequence[Tensor | None]) -> list[Tensor]:
    lengths, seed = values[0], values[1]
    tensors = [v if v is None or v.stride(-1) == 1 or v.shape[-1] <= 1 else v.contiguous() for v in values[2:]]
    like = next(v for v in tensors if v is not None)
    kind = job.kind
    plan = kind.plan(job.keep, like.dtype)
    outputs = empty_results(job, plan, like)
    if job.samples:
        sampled = [v is not None and v.dim() > RANKS[role] for v, role in zip(tensors, kind.roles(), strict=True)]
        sampled += [True] * len(outputs)
    else:
        sampled = [False] * (len(tensors) + len(outputs))
    seeds = [] if seed is None else [group for number in seed.view(-1).tolist() for group in kind.seeds(number)]
    tensors += outputs
    plan.kernel_on(like.device)(
        *(tensors, sampled, plan.groups, plan.numbers, kind.group_reverse, seeds, lengths),
        *(job.steps, job.rows, job.origin, job.samples),
    )
    return outputs


def empty_results(job: Job, plan: Plan, like: Tensor) -> list[Tensor]:
    """Memory for everything that a call returns, in order."""
    steps, rows = job.steps, job.rows
    front = (job.samples,) if job.samples else ()

    def new(width: int) -> Tensor:
        if job.batch_first:
            return like.new_empty((*front, rows, steps, width)).transpose(-3, -2)
        return like.new_empty((*front, steps, rows, width))

    outputs = [new(width) for width in plan.joint_writes.values()]
    outputs += [like.new_empty((*front, plan.directions, rows, width)) for width in plan.ends]
    for _ in range(plan.directions):
        outputs += [new(width) for width in plan.own_writes.values()]
        outputs += [like.new_empty((*front, rows, width)) for width in plan.sums.values()]
    return outputs
