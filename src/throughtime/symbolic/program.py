"""Recurrences: what one time step reads, carries and writes. Both the forward and the backward pass are one.

A `Recurrence` is the only thing that the code generator knows. Its values belong to one graph whose leaves are

- `read`: a number for each time step, sequence and unit (or the same for all steps, or for all steps and sequences),
- `carry`: the state that this step sees,
- constants, the time, sizes and noise,

and whose `linear` nodes are products of a matrix, or of its transpose, with a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from throughtime.symbolic.equation import Affine, Equation
from throughtime.symbolic.functions import OPERATIONS
from throughtime.symbolic.graph import Graph, Node, Width, reachable, rebuild

Sizes = Mapping[Width, int]
"""What the symbolic widths of a program are in a call: {"input": 10, "hidden": 20}."""


def size_of(width: Width, sizes: Sizes) -> int:
    found = sizes.get(width)
    return int(width) if found is None else found


@dataclass(frozen=True)
class Read:
    """Column block `name` of the array `array`. `per`: "time" [T, B, W], "row" [B, W] or "unit" [W]."""

    array: str
    name: str
    node: Node
    per: str = "time"


@dataclass(frozen=True)
class Write:
    """Column block `name` of the array `array` [T, B, ...] receives `node` at every step."""

    array: str
    name: str
    node: Node


@dataclass(frozen=True)
class Sum:
    """Σ over time of `node` in column block `name` of the array `array` [B, ...]: the gradient of something that is the
    same at every step."""

    array: str
    name: str
    node: Node


@dataclass(frozen=True)
class Carry:
    name: str
    seen: Node
    next: Node


@dataclass(frozen=True)
class Matrix:
    """A matrix [rows, columns] that maps a vector of `columns` numbers to `rows` numbers."""

    name: str
    rows: Width
    columns: Width


@dataclass(frozen=True)
class Recurrence:
    """One time step of a program; see the module's docstring.

    `prefix`: what the names of derivatives begin with, where the program is derived from another.
    """

    name: str
    graph: Graph
    carries: tuple[Carry, ...]
    reads: tuple[Read, ...]
    writes: tuple[Write, ...]
    sums: tuple[Sum, ...]
    matrices: tuple[Matrix, ...]
    prefix: str = ""

    @property
    def roots(self) -> list[Node]:
        return [c.next for c in self.carries] + [w.node for w in self.writes] + [s.node for s in self.sums]

    @property
    def nodes(self) -> list[Node]:
        """Every node that is computed, each after its arguments."""
        return reachable(self.roots)

    @property
    def used_reads(self) -> tuple[Read, ...]:
        """The reads that something is computed from; the others only hold their place in an array."""
        used = {n.index for n in self.nodes}
        return tuple(r for r in self.reads if r.node.index in used)


def matrix_name(affine: str, position: int) -> str:
    return f"{affine}.{position}"


def signal_array(name: str) -> str:
    """The array that holds a signal."""
    return f"signal.{name}"


def without_marks(recurrence: Recurrence) -> Recurrence:
    """The recurrence as it is computed: what is there for the derivative only is left out."""
    marks = [n for n in recurrence.nodes if n.op in OPERATIONS and OPERATIONS[n.op].mark]
    if not marks:
        return recurrence
    graph = Graph(OPERATIONS)
    leaves = [r.node for r in recurrence.reads] + [c.seen for c in recurrence.carries]
    made = rebuild(leaves, graph, {})
    for mark in marks:  # each after those it is made of
        made.update(rebuild([mark.args[0]], graph, made))
        made[mark.index] = made[mark.args[0].index]
    made = rebuild(recurrence.roots, graph, made)
    return replace(
        recurrence,
        graph=graph,
        carries=tuple(Carry(c.name, made[c.seen.index], made[c.next.index]) for c in recurrence.carries),
        reads=tuple(replace(r, node=made[r.node.index]) for r in recurrence.reads),
        writes=tuple(replace(w, node=made[w.node.index]) for w in recurrence.writes),
        sums=tuple(replace(s, node=made[s.node.index]) for s in recurrence.sums),
    )


TRACE = "trace"
"""The array of everything that has a name."""


def lower(
    equation: Equation, input_order: tuple[str, ...], bias_blocks: tuple[tuple[str, str], ...], traced: bool = False
) -> Recurrence:
    """`lowered` without the table of what became of the equation's values."""
    return lowered(equation, input_order, bias_blocks, traced)[0]


def lowered(
    equation: Equation, input_order: tuple[str, ...], bias_blocks: tuple[tuple[str, str], ...], traced: bool = False
) -> tuple[Recurrence, dict[int, Node]]:
    """The forward pass of a cell, without saved values.

    Reads: the array `net`, with W x of every affine map that is given x (blocks in `input_order`); the array `bias`
    (`bias_blocks`: in column order, each block's name and the affine map it is added to); `x` itself where the equation
    uses it otherwise; each per-unit weight; each signal, [T, B, 1]. Carries the states. Writes `out`, the first state;
    if `traced`, also every value with a name: the states, the author's local variables, and each affine map as
    `net.<map>`. Also returns what every value of the equation became, by its index.
    """
    graph = Graph(OPERATIONS)
    reads: dict[str, Read] = {}
    matrices: dict[str, Matrix] = {}

    def read(array: str, name: str, width: Width, per: str = "time") -> Node:
        node = graph.node("read", data=name, width=width)
        reads.setdefault(name, Read(array, name, node, per))
        return node

    def total_of(affine: Affine) -> Node:
        """W x + b + Σ R v."""
        terms = []
        products = None
        for k, v in enumerate(affine.vectors):
            if v is equation.input:
                terms.append(read("net", f"net.{affine.name}", affine.width))
                continue
            name = matrix_name(affine.name, k)
            matrices[name] = Matrix(name, affine.width, v.width)
            product = graph.node("linear", (made[v.index],), (name, False), affine.width)
            products = product if products is None else products + product
        terms += [
            read("bias", f"bias.{block}", affine.width, "unit") for block, name in bias_blocks if name == affine.name
        ]
        if products is not None:
            terms.append(products)
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    uses = {a.node.index: a for a in equation.affines}
    widths = {a.name: a.width for a in equation.affines}
    for name in input_order:
        read("net", f"net.{name}", widths[name])
    for block, name in bias_blocks:
        read("bias", f"bias.{block}", widths[name], "unit")
    states = [(s, graph.node("carry", data=s.name, width=s.seen.width)) for s in equation.states]
    made: dict[int, Node] = {s.seen.index: carry for s, carry in states}
    values = reachable(s.new for s in equation.states)
    for node in values:
        if node.op == "affine":
            made[node.index] = total_of(uses[node.index])
        elif node.op == "input":
            if any(node in n.args and n.op != "affine" for n in values) or any(s.new is node for s, _ in states):
                made[node.index] = read("x", "x", node.width)
        elif node.op == "weight":
            made[node.index] = read(str(node.data), str(node.data), node.width, "unit")
        elif node.op == "signal":
            made[node.index] = read(signal_array(str(node.data)), signal_array(str(node.data)), node.width)
        elif node.index not in made:
            made.update(rebuild([node], graph, made))
    carries = tuple(Carry(s.name, carry, made[s.new.index]) for s, carry in states)
    writes = [Write("out", "out", carries[0].next)]
    if traced:
        named = [(s.name, s.new) for s in equation.states]
        named += [(f"net.{uses[v.index].name}" if v.op == "affine" else v.label or "", v) for v in values if v.args]
        writes += _named_once((name, made[v.index]) for name, v in named if name and not v.boolean)
    columns = tuple(matrices.values())
    return Recurrence(equation.name, graph, carries, tuple(reads.values()), tuple(writes), (), columns), made


def _named_once(named: Iterable[tuple[str, Node]]) -> list[Write]:
    """A block of the trace for each value, under its first name; a name that is used again gets a number. Affine maps
    are found under theirs in every cell, so one that is a state too (an Elman cell without activation) has two."""
    writes: dict[str, Write] = {}
    for name, node in named:
        if not name.startswith("net.") and any(w.node is node for w in writes.values()):
            continue
        unique, number = name, 2
        while unique in writes:
            unique, number = f"{name}_{number}", number + 1
        writes[unique] = Write(TRACE, unique, node)
    return list(writes.values())
