"""Forward mode over a recurrence: how its results move when its operands move, as another recurrence.

For every value v the tangent v̇ (`dot_v`) is its derivative in the direction in which the operands move. The forward
pass has already run, so that its values are read, not made again; only tangents are carried from step to step.
"""

from __future__ import annotations

from dataclasses import replace

from throughtime.symbolic.adjoint import FIXED
from throughtime.symbolic.copies import copied, copied_reads, fresh_prefix, new_read, widened
from throughtime.symbolic.functions import OPERATIONS
from throughtime.symbolic.graph import Graph, Node, reachable, rebuild
from throughtime.symbolic.program import Carry, Matrix, Read, Recurrence, Write


def tangent(forward: Recurrence, moving_matrices: bool) -> Recurrence:
    """The tangents of everything that `forward`, which keeps what its backward pass needs, writes, sums and carries.

    Reads `dot_<array>` for every array that `forward` reads, and of `forward`'s own arrays those that it needs. Where
    `moving_matrices`, every matrix M has its own tangent, the matrix `dot_M`.
    """
    source = copied(forward)
    prefix = fresh_prefix("dot", source)  # Newton's dot
    dots = _dots(source, moving_matrices, prefix)
    zero = source.graph.const(0)

    def dot(node: Node, array: str = "") -> Node:
        own = zero if array.startswith(FIXED) else dots.get(node.index, zero)
        return widened(own, node, source.graph)

    carries = [(c, dots[c.seen.index], dot(c.next)) for c in source.carries]
    writes = [
        replace(w, array=prefix + w.array, name=prefix + w.name, node=dot(w.node, w.array)) for w in source.writes
    ]
    sums = [replace(s, array=prefix + s.array, name=prefix + s.name, node=dot(s.node)) for s in source.sums]
    roots = [n for _, _, n in carries] + [w.node for w in writes] + [s.node for s in sums]

    target = Graph(OPERATIONS)
    kept: list[Read | Write] = [r for r in source.reads if r.array != "net"]
    reads, moved = copied_reads([*kept, *source.writes], target)
    for r in source.reads:
        moved[dots[r.node.index].index] = node = new_read(target, f"{prefix}{r.node.data}", r.node.width)
        reads.append(Read(prefix + r.array, prefix + r.name, node, r.per))
    made = rebuild(roots, target, moved)
    # An array of the forward pass that nothing is computed from need not be handed over.
    used = {n.index for n in reachable(made[r.index] for r in roots)}
    arrays = {r.array for r in reads if r.node.index in used or r.array.startswith(prefix)}
    matrices = forward.matrices
    if moving_matrices:
        matrices += tuple(Matrix(prefix + m.name, m.rows, m.columns) for m in forward.matrices)
    # With tangents of constants alone a carry may be used nowhere; it is there all the same.
    ends = [
        (made.setdefault(seen.index, target.node("carry", data=seen.data, width=seen.width)), made[n.index])
        for _, seen, n in carries
    ]
    result = Recurrence(
        f"{forward.name}.tangent",
        target,
        tuple(Carry(prefix + c.name, *end) for (c, _, _), end in zip(carries, ends, strict=True)),
        tuple(r for r in reads if r.array in arrays),
        tuple(replace(w, node=made[w.node.index]) for w in writes),
        tuple(replace(s, node=made[s.node.index]) for s in sums),
        matrices,
        prefix,
    )
    _check_self_contained(result)
    return result


def _dots(source: Recurrence, moving_matrices: bool, prefix: str) -> dict[int, Node]:
    """The tangent of every value that has one, by the value's index; new nodes of the same graph."""
    graph = source.graph
    dots: dict[int, Node] = {}
    for r in source.reads:
        dots[r.node.index] = new_read(graph, f"{prefix}{r.node.data}", r.node.width)
    for c in source.carries:
        dots[c.seen.index] = graph.node("carry", data=f"{prefix}{c.seen.data}", width=c.seen.width)
    for node in source.nodes:
        if node.index in dots or not node.args or node.boolean:
            continue
        moving = [dots.get(a.index) for a in node.args]
        parts = []
        if node.op == "linear":
            matrix, transposed = node.data
            if moving[0] is not None:
                parts.append(graph.node("linear", (moving[0],), (matrix, transposed), node.width))
            if moving_matrices:
                parts.append(graph.node("linear", node.args, (prefix + matrix, transposed), node.width))
        elif node.op in ("total", "spread"):
            parts += [graph.node(node.op, (m,), width=node.width) for m in moving if m is not None]
        else:
            parts += _moved_by(node, moving)
        for k, part in enumerate(parts):
            dots[node.index] = part if k == 0 else dots[node.index] + part
    return dots


def _moved_by(node: Node, moving: list[Node | None]) -> list[Node]:
    """What each moving argument of a pointwise operation adds to its tangent: the error that would flow back to the
    argument is (derivative) x (error at the result), so the same rule, fed with the argument's tangent, gives it."""
    row = OPERATIONS[node.op]
    parts = []
    for k, m in enumerate(moving):
        if m is not None:
            flow = (row.tangent or row.derivative)(node, *node.args, m)[k]
            if flow is not None:
                parts.append(flow)
    return parts


def _check_self_contained(result: Recurrence) -> None:
    leaves = {r.node.index for r in result.reads} | {c.seen.index for c in result.carries}
    loose = [n for n in result.nodes if n.op in ("read", "carry") and n.index not in leaves]
    assert not loose, f"{result.name} needs {loose}, which the forward pass does not keep"
