"""Reverse mode over a recurrence: back-propagation through time as another recurrence.

For every value v the adjoint is ∂E/∂v. The adjoint of a pre-activation is the error term δ of the textbooks. The
adjoint of a carry flows to the previous time step (horizontally), the adjoints of what is read per time step leave the
loop (vertically), and the gradient of a matrix M used as y = M v is Σ δ_y vᵀ, formed after the loop by one product.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from throughtime.symbolic.copies import copied, copied_reads, fresh_name, fresh_prefix, new_read, widened
from throughtime.symbolic.functions import OPERATIONS
from throughtime.symbolic.graph import Graph, Node, reachable, rebuild
from throughtime.symbolic.program import TRACE, Carry, Read, Recurrence, Sum, Write
from throughtime.symbolic.saved import choose_saved

ERRORS = "errors"
"""The array of the error terms of everything that is traced."""


FIXED = "fixed"
"""The array of kept values to which no error flows, such as one side of a comparison: nothing smooth depends on them,
so that of whatever is derived from the kept values, too, they get no error."""


@dataclass(frozen=True)
class Block:
    """Where a value lies after the loop: column block `name` of an array that was read or written."""

    array: str
    name: str


@dataclass(frozen=True)
class MatrixGradient:
    """∂E/∂M = Σ over time and sequences of δ vᵀ; of its transpose where the step used Mᵀ v."""

    matrix: str
    delta: Block
    vector: Block
    transposed: bool


@dataclass(frozen=True)
class Adjoint:
    """A recurrence's forward pass with what it keeps, and its backward pass.

    `backward` reads `d_<array>` for every array that `forward` was given to write, `d_<sum>` per row for every sum, and
    what was kept (of an adjoint of an adjoint the prefix is another one, see `fresh_prefix`).
    Its carries are the adjoints of the forward's carries. It writes `d_<array>` for every array the forward reads per
    time step, and `delta` for error terms of products that are in no such array. Its sums are the gradients of what the
    forward reads per unit or per row.
    """

    forward: Recurrence
    backward: Recurrence
    gradients: tuple[MatrixGradient, ...]


@dataclass
class Adjoints:
    """Adjoints while they are being gathered, by index of the forward value."""

    graph: Graph
    waiting: dict[int, list[Node]] = field(default_factory=dict)
    late: dict[int, Node] = field(default_factory=dict)
    """Error that enters through the trace is added last: where it is 0, the bits are those of a pass without it."""
    complete: dict[int, Node] = field(default_factory=dict)

    def add(self, node: Node, adjoint: Node) -> None:
        if node.width == 1 and adjoint.width != 1:
            adjoint = self.graph.node("total", (adjoint,))
        self.waiting.setdefault(node.index, []).append(adjoint)

    def finish(self, node: Node) -> Node | None:
        """Σ of the contributions: products together, so that they become one chain in the kernel, then the rest."""
        parts = self.waiting.get(node.index, [])
        late = self.late.get(node.index)
        if not parts and late is None:
            return None
        ordered = [p for p in parts if p.op != "linear"], [p for p in parts if p.op == "linear"]
        sums = []
        for group in ordered:
            for k, part in enumerate(group):
                sums.append(part) if k == 0 else sums.append(sums.pop() + part)
        if late is not None:
            sums = [sums[0] + sums[1] if len(sums) == 2 else sums[0], late] if sums else [late]
        result = sums[0] if len(sums) == 1 else sums[0] + sums[1]
        self.complete[node.index] = result = widened(result, node, self.graph)
        return result

    def of(self, node: Node) -> Node:
        found = self.complete.get(node.index)
        return widened(self.graph.const(0), node, self.graph) if found is None else found


def adjoint(recurrence: Recurrence) -> Adjoint:
    """Derives the backward pass; error enters through everything that `recurrence` writes, sums and carries."""
    forward = copied(recurrence)
    nodes = forward.nodes
    prefix = fresh_prefix("d", forward)
    carried, entering, adjoints = propagate(forward, nodes, prefix)

    roots = [adjoints.of(c.seen) for c in forward.carries] + [adjoints.of(r.node) for r in forward.reads]
    shown = [w for w in forward.writes if w.array == TRACE]
    roots += [adjoints.of(w.node) for w in shown]
    products = [n for n in nodes if n.op == "linear" and n.index in adjoints.complete]
    roots += [adjoints.complete[n.index] for n in products]
    own = {n.index for n in nodes} | {r.node.index for r in forward.reads} | {c.seen.index for c in forward.carries}
    later = [n for n in reachable(roots) if n.index not in own]
    needed = {a.index for n in later for a in n.args if a.index in own} | {r.index for r in roots if r.index in own}
    forward, kept = _keep(forward, adjoints, choose_saved(forward, needed, [n.args[0] for n in products]))

    target = Graph(OPERATIONS)
    blocks: list[Read | Write] = [r for r in forward.reads if r.per != "time"]
    constant = {r.array for r in blocks}
    for array in dict.fromkeys(block.array for _, block in kept.values() if block.array not in constant):
        # The whole array: a block of it that is not needed still holds its place.
        blocks += [w for w in forward.writes if w.array == array] or [r for r in forward.reads if r.array == array]
    reads, moved = copied_reads(blocks, target)
    for r in entering:
        moved[r.node.index] = new_read(target, r.node.data, r.node.width)
        reads.append(replace(r, node=moved[r.node.index]))
    made = rebuild(roots, target, moved)
    for node, name in carried:
        made.setdefault(node.index, target.node("carry", data=name, width=node.width))

    writes, sums = _results(forward, adjoints, made, prefix)
    gradients = _matrix_gradients(products, adjoints, made, kept, writes, fresh_name("delta", forward))
    writes += [Write(ERRORS, f"error.{w.name}", made[adjoints.of(w.node).index]) for w in shown]
    carries = tuple(
        Carry(name, made[node.index], made[adjoints.of(c.seen).index])
        for c, (node, name) in zip(forward.carries, carried, strict=True)
    )
    name = f"{recurrence.name}.backward"
    backward = Recurrence(name, target, carries, tuple(reads), tuple(writes), tuple(sums), recurrence.matrices, prefix)
    return Adjoint(forward, backward, tuple(gradients))


def propagate(
    forward: Recurrence, nodes: list[Node], prefix: str
) -> tuple[list[tuple[Node, str]], list[Read], Adjoints]:
    """Walks the step backwards, making new nodes of `forward`'s own graph.

    Returns the adjoint carries with their names, the cotangents read, and every value's adjoint.
    """
    graph = forward.graph
    adjoints = Adjoints(graph)
    carried = []
    for c in forward.carries:
        name = prefix + c.name
        carried.append((graph.node("carry", data=name, width=c.next.width), name))
        adjoints.add(c.next, carried[-1][0])
    entering: list[Read] = []

    def enters(node: Node, array: str, name: str, per: str) -> None:
        read = new_read(graph, prefix + name, node.width)
        entering.append(Read(prefix + array, prefix + name, read, per))
        if array.startswith(FIXED):
            return
        if array == TRACE:
            known = adjoints.late.get(node.index)  # a value that is traced under two names
            adjoints.late[node.index] = read if known is None else known + read
        else:
            adjoints.add(node, read)

    for w in forward.writes:
        enters(w.node, w.array, w.name, "time")
    for s in forward.sums:
        enters(s.node, s.array, s.name, "row")
    for node in reversed(nodes):
        g = adjoints.finish(node)
        if g is None or not node.args:
            continue
        if node.op == "linear":
            matrix, transposed = node.data
            vector = node.args[0]
            adjoints.add(vector, graph.node("linear", (g,), (matrix, not transposed), vector.width))
        elif node.op in ("total", "spread"):
            adjoints.add(node.args[0], g)
        else:
            flows = OPERATIONS[node.op].derivative(node, *node.args, g)
            for arg, flow in zip(node.args, flows, strict=True):
                if flow is not None and arg.op != "const":
                    adjoints.add(arg, flow)
    return carried, entering, adjoints


def _keep(
    forward: Recurrence, adjoints: Adjoints, values: list[Node]
) -> tuple[Recurrence, dict[int, tuple[Node, Block]]]:
    """The forward pass that also writes what must be kept, and where each kept value lies."""
    where = {r.node.index: Block(r.array, r.name) for r in forward.reads if r.array != "net"}
    where |= {w.node.index: Block(w.array, w.name) for w in forward.writes}
    kept: dict[int, tuple[Node, Block]] = {}
    writes = list(forward.writes)
    saved, fixed = fresh_name("saved", forward), fresh_name(FIXED, forward)
    for k, node in enumerate(values):
        block = where.get(node.index)
        if block is None:
            label = node.label or (str(node.data) if node.op in ("carry", "read") else f"{node.op}{k}")
            array = saved if node.index in adjoints.complete else fixed
            block = Block(array, f"{label}_seen" if node.op == "carry" else label)
            if any(w.array == array and w.name == block.name for w in writes):
                block = Block(array, f"{block.name}{k}")
            writes.append(Write(block.array, block.name, node))
        kept[node.index] = node, block
    return replace(forward, writes=tuple(writes)), kept


def _results(
    forward: Recurrence, adjoints: Adjoints, made: dict[int, Node], prefix: str
) -> tuple[list[Write], list[Sum]]:
    """What leaves the loop for every read of the forward pass."""
    writes, sums = [], []
    for r in forward.reads:
        node = made[adjoints.of(r.node).index]
        if r.per == "time":
            writes.append(Write(prefix + r.array, prefix + r.name, node))
        else:
            sums.append(Sum(prefix + r.array, prefix + r.name, node))
    return writes, sums


def _matrix_gradients(
    products: list[Node],
    adjoints: Adjoints,
    made: dict[int, Node],
    kept: dict[int, tuple[Node, Block]],
    writes: list[Write],
    array: str,
) -> list[MatrixGradient]:
    """One entry for each product of the step; an error term that no array holds yet is written to `array`."""
    gradients = []
    for product in products:
        delta = made[adjoints.complete[product.index].index]
        block = next((Block(w.array, w.name) for w in writes if w.node is delta), None)
        matrix, transposed = product.data
        if block is None:
            block = Block(array, f"delta.{matrix}")
            if any(w.name == block.name for w in writes):
                block = Block(array, f"delta.{matrix}.{product.index}")
            writes.append(Write(block.array, block.name, delta))
        gradients.append(MatrixGradient(matrix, block, kept[product.args[0].index][1], transposed))
    return gradients
