"""The way of the tensors of a backward pass: found once for a kind of call, then followed at every call.

A call's operands, its results and the errors that enter through these are numbered in a row; so are the results of the
backward recurrence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from throughtime.nn.calls import Kind, sort_operands, sort_results
from throughtime.nn.program import MatrixProduct, Plan, is_joint
from throughtime.symbolic.adjoint import ERRORS


class Source(NamedTuple):
    """An operand of the backward recurrence: number `at`; or, where that is None or nobody sends an error that way,
    zeros like number `like`."""

    at: int | None
    like: int | None


class Block(NamedTuple):
    """Columns [first, first + width) of an array; of a direction's part of it, if it is `joint`."""

    array: int
    first: int
    width: int
    joint: bool


class Product(NamedTuple):
    """A matrix gradient: `delta` a block of a result of the backward recurrence, `vector` of the call's arrays."""

    of: MatrixProduct
    delta: Block
    vector: Block


class Gradient(NamedTuple):
    """How an operand's gradient is made: "result" number `at`; "sum" of it over the sequences; "net" with error terms
    `at` of that direction; "parameter" number `at` of that direction."""

    how: str
    direction: int
    at: int


@dataclass(frozen=True)
class Route:
    """See the module. `sources`: the operands of a call of `kind` after lengths and seed; `gradients`: of the operands
    of the call whose backward pass it is, None where there is none; `products`: for each direction; `errors`: for each
    direction the result that holds all error terms, if the call is traced; `out`: the error that enters through the
    output."""

    kind: Kind
    sources: tuple[Source, ...]
    gradients: tuple[Gradient | None, ...]
    products: tuple[tuple[Product, ...], ...]
    errors: tuple[int, ...]
    out: int


def route(kind: Kind, plan: Plan, second: bool, keeps: bool) -> Route:
    """`second`: error also enters through what the call kept; `keeps`: the backward call keeps what its own backward
    pass needs."""
    back = kind.backward_of_kept if second else kind.backward
    count = sum(1 for _ in kind.roles()) + 2
    operands = sort_operands(kind, range(count))  # type: ignore[arg-type]
    made = _length(plan)
    results = sort_results(plan, range(count, count + made))  # type: ignore[arg-type]
    entering = sort_results(plan, range(count + made, count + 2 * made))  # type: ignore[arg-type]
    back_plan = back.plan(keeps, plan.dtype)
    done = sort_results(back_plan, range(_length(back_plan)))  # type: ignore[arg-type]
    prefix = back.program.recurrence.prefix

    sources = _sources(back.program.joint, prefix, (operands.joint, results.joint), ((entering.joint, results.joint),))
    sources += [Source(at, None) for at in entering.ends]  # type: ignore[arg-type]
    products = plan.products_of_kept if second else plan.products
    gradients: list[Gradient | None] = []
    for name in operands.joint:
        at = done.joint.get(prefix + name)
        gradients.append(None if at is None else Gradient("result", 0, at))  # type: ignore[arg-type]
    gradients += [Gradient("result", 0, end) for end in done.ends]  # type: ignore[arg-type]
    placed = []
    for d in range(plan.directions):
        writes, sums, reads = results.writes[d], results.sums[d], operands.reads[d]
        errors = ((entering.writes[d], writes), (entering.sums[d], sums))
        sources += _sources(back.program.own, prefix, (reads, writes), errors)
        parameters: list[int] = operands.parameters[d]  # type: ignore[assignment]
        sources += [Source(p, None) for p in parameters]
        for name in reads:
            if kind.program.reads[name] == "time":
                made_at: int = done.writes[d][prefix + name]  # type: ignore[assignment]
                gradients.append(Gradient("net" if name == "net" else "result", d, made_at))
            else:
                total: int = done.sums[d][prefix + name]  # type: ignore[assignment]
                gradients.append(Gradient("sum" if kind.program.reads[name] == "unit" else "result", d, total))
        gradients += [Gradient("parameter", d, k) for k in range(len(parameters))]
        forward = operands.joint | results.joint | reads | writes
        backward = done.joint | done.writes[d]

        def block(arrays: Mapping[str, object], place: tuple[str, int, int]) -> Block:
            name, first, width = place
            return Block(arrays[name], first, width, is_joint(name))  # type: ignore[arg-type]

        placed.append(tuple(Product(p, block(backward, p.delta), block(forward, p.vector)) for p in products))
    shown = tuple(w[ERRORS] for w in done.writes if ERRORS in w)
    return Route(back, tuple(sources), tuple(gradients), tuple(placed), shown, entering.joint.get("out", -1))  # type: ignore[arg-type]


def _length(plan: Plan) -> int:
    return len(plan.joint_writes) + len(plan.ends) + plan.directions * (len(plan.own_writes) + len(plan.sums))


def _sources(
    names: Sequence[str],
    prefix: str,
    known: Sequence[Mapping[str, object]],
    entering: Sequence[tuple[Mapping[str, object], Mapping[str, object]]],
) -> list[Source]:
    """Where a derived program finds what it reads: arrays of the pass it belongs to, and for `<prefix><array>` the
    error that enters through that array (errors, arrays like them)."""
    found = []
    for name in names:
        at = next((arrays[name] for arrays in known if name in arrays), None)
        if at is not None:
            found.append(Source(at, None))  # type: ignore[arg-type]
            continue
        base = name.removeprefix(prefix)
        found.append(next(Source(g[base], a[base]) for g, a in entering if base in a))  # type: ignore[arg-type]
    return found
