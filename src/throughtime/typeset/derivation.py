"""What a cell's formulas say: named lines, forward and backward, from the same derivation that the kernels come from.

Each line gives one value its definition. Values are cut where they have a name: states, the local variables of the
author's `step`, pre-activations where they are used more than once, the errors of all of these, and, under letters of
their own, larger subexpressions that are used more than once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from throughtime.symbolic.adjoint import Adjoints, adjoint, propagate
from throughtime.symbolic.equation import Affine, Equation
from throughtime.symbolic.functions import OPERATIONS
from throughtime.symbolic.graph import LEAVES, Graph, Node, rebuild
from throughtime.symbolic.program import Read, Recurrence, Write, lowered, matrix_name

Kind = Literal["value", "net", "helper", "error", "delta", "later", "above", "below", "matrix", "bias", "weight"]
WORTH_A_NAME = 3
"""Operations from which on a subexpression that is used more than once is given a line of its own."""


@dataclass(frozen=True)
class Name:
    """The left side of a line. `of`: the value, the map or the matrix that it names or whose error it is; `number`:
    which use of a shared map, or which value of a name that the author used again."""

    kind: Kind
    of: str = ""
    number: int = 1


@dataclass(frozen=True)
class Line:
    """`names` = `value`; or, for the gradient of something learned, the sum over time of `value`, or of the outer
    products in `products`: (error term, vector)."""

    names: tuple[Name, ...]
    value: Node | None = None
    over_time: bool = False
    products: tuple[tuple[Node, Node], ...] = ()


@dataclass(frozen=True)
class MapUse:
    """One use of an affine map: the matrices with the vectors that they multiply, and whether a bias is added."""

    map: str
    number: int
    terms: tuple[tuple[str, Node], ...]
    bias: bool


@dataclass
class Derivation:
    """See the module.

    `names`: of values, by index; `uses`: of affine maps, by the index of their result. `kept`: what the forward pass
    keeps for the backward pass, besides the weights.
    """

    equation: Equation
    recurrence: Recurrence
    x: Node
    uses: dict[int, MapUse]
    names: dict[int, Name] = field(default_factory=dict)
    forward: list[Line] = field(default_factory=list)
    errors: list[Line] = field(default_factory=list)
    in_time: list[Line] = field(default_factory=list)
    in_depth: list[Line] = field(default_factory=list)
    gradients: list[Line] = field(default_factory=list)
    kept: list[Node] = field(default_factory=list)

    @property
    def single_map(self) -> bool:
        """Whether there is one map only, so that its matrices need no names to tell them apart."""
        return len({u.map for u in self.uses.values()}) == 1


def input_matrix(map: str) -> str:
    """The name of the matrix of x in a map; the loop's matrices are named by `matrix_name`."""
    return f"{map}.x"


def derive(equation: Equation, name_maps: bool = False) -> Derivation:
    """The lines of an equation's forward and backward pass; `name_maps`: every pre-activation has a line."""
    order = tuple(dict.fromkeys(a.name for a in equation.affines if equation.input in a.vectors))
    biases = tuple(dict.fromkeys((a.name, a.name) for a in equation.affines if a.bias))
    recurrence, made = lowered(equation, order, biases)
    kept = _kept(recurrence)  # before the derivation makes nodes in this graph
    graph = recurrence.graph
    reads = {r.name: r.node for r in recurrence.reads}
    x = reads["x"] if "x" in reads else graph.node("read", data="x", width=equation.input.width)
    made = {**made, equation.input.index: x}
    found = Derivation(equation, recurrence, x, _uses(equation, made))
    found.kept = kept
    _, entering, adjoints = propagate(recurrence, recurrence.nodes, "d_")
    _name_values(found, equation, made)
    _name_errors(found, adjoints, entering[0].node)
    below = _error_below(found, adjoints)  # one, or none where x is not used
    seen = {c.name: adjoints.of(c.seen) for c in recurrence.carries}
    weights = [(r.name, adjoints.of(r.node)) for r in recurrence.reads if r.per == "unit" and r.array != "bias"]
    deltas = [adjoints.complete[index] for index in found.uses if index in adjoints.complete]
    news = [c.next for c in recurrence.carries]
    errors = [*deltas, *seen.values(), *below, *(node for _, node in weights)]
    for index, use in found.uses.items() if name_maps else ():
        found.names.setdefault(index, Name("net", use.map, use.number))
    shared = _shared(found, news, [*errors, *(adjoints.of(n) for n in news)])
    _name_shared(found, shared, adjoints)
    found.forward = _lines_of(found, news, recurrence.nodes)
    states = [Line((Name("value", c.name),), c.next) for c in recurrence.carries]
    found.forward += [line for line in states if line.names[0] not in {n for m in found.forward for n in m.names}]
    own = {n.index for n in recurrence.nodes}
    found.errors = [
        line
        for line in _lines_of(found, [*errors, *(adjoints.of(n) for n in news)], graph.nodes)
        if line.value is not None and line.value.index not in own
    ]
    found.in_time = [Line((Name("later", name),), node) for name, node in seen.items()]
    found.in_depth = [Line((Name("below"),), node) for node in below]
    found.gradients = _gradients(found, adjoints)
    found.gradients += [Line((Name("weight", name),), node, over_time=True) for name, node in weights]
    return found


def _uses(equation: Equation, made: dict[int, Node]) -> dict[int, MapUse]:
    uses: dict[int, MapUse] = {}
    for a in sorted(equation.affines, key=lambda a: a.node.index):
        number = 1 + sum(u.map == a.name for u in uses.values())
        terms = tuple((_matrix(equation, a, k), made[v.index]) for k, v in enumerate(a.vectors))
        uses[made[a.node.index].index] = MapUse(a.name, number, terms, a.bias)
    return uses


def _matrix(equation: Equation, affine: Affine, position: int) -> str:
    is_input = affine.vectors[position] is equation.input
    return input_matrix(affine.name) if is_input else matrix_name(affine.name, position)


def _name_values(found: Derivation, equation: Equation, made: dict[int, Node]) -> None:
    """States by their names, then the author's local variables, then what the language's own functions call their
    values; a name that was used again gets a number."""
    taken: dict[str, int] = {}

    def give(node: Node, name: str) -> None:
        if node.index not in found.names and node.op not in LEAVES:
            taken[name] = taken.get(name, 0) + 1
            found.names[node.index] = Name("value", name, taken[name])

    for s in equation.states:
        give(made[s.new.index], s.name)
    taken = dict.fromkeys([s.name for s in equation.states] + [str(equation.input.data)], 1)
    for node in equation.graph.nodes:
        if node.label and node.index in made and not node.boolean:
            give(made[node.index], node.label)
    for node in equation.graph.nodes:
        if node.hint and node.index in made:
            give(made[node.index], node.hint)


def _name_errors(found: Derivation, adjoints: Adjoints, above: Node) -> None:
    found.names[above.index] = Name("above")
    for c in found.recurrence.carries:
        later = found.recurrence.graph.node("carry", data=f"d_{c.name}", width=c.next.width)
        found.names[later.index] = Name("later", c.name)
    for c in found.recurrence.carries:
        error = adjoints.of(c.next)
        if error.op not in LEAVES:
            found.names.setdefault(error.index, Name("error", c.name))
    for index, use in found.uses.items():
        delta = adjoints.complete.get(index)
        if delta is not None and delta.op not in LEAVES:
            found.names.setdefault(delta.index, Name("delta", use.map, use.number))


def _error_below(found: Derivation, adjoints: Adjoints) -> list[Node]:
    """∂E/∂x_t: what flows down through the matrices of x, and through x itself where the step uses it."""
    graph = found.recurrence.graph
    parts = []
    for index, use in found.uses.items():
        for matrix, vector in use.terms:
            if vector is found.x and index in adjoints.complete:
                parts.append(graph.node("linear", (adjoints.complete[index],), (matrix, True), vector.width))
    if found.x.index in adjoints.complete:
        parts.append(adjoints.complete[found.x.index])
    return [_sum(parts)] if parts else []


def _sum(parts: list[Node]) -> Node:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _arguments(found: Derivation, node: Node) -> tuple[Node, ...]:
    """What the value is printed from."""
    use = found.uses.get(node.index)
    return tuple(v for _, v in use.terms) if use else node.args


def _shared(found: Derivation, *roots: list[Node]) -> dict[int, Node]:
    """The values that are used more than once and are worth a line of their own."""
    users: dict[int, set[int]] = {}
    nodes: dict[int, Node] = {}
    stack = [n for group in roots for n in group]
    while stack:
        node = stack.pop()
        if node.index in nodes:
            continue
        nodes[node.index] = node
        for arg in _arguments(found, node):
            users.setdefault(arg.index, set()).add(node.index)
            stack.append(arg)
    costs: dict[int, int] = {}

    def is_worth(node: Node) -> bool:
        return (node.index in found.uses or costs[node.index] >= WORTH_A_NAME or node.op == "linear") and len(
            users.get(node.index, ())
        ) > 1

    shared = {}
    for index in sorted(nodes):
        node = nodes[index]
        arguments = _arguments(found, node)
        inner = sum(0 if a.index in found.names or a.index in shared else costs.get(a.index, 0) for a in arguments)
        costs[index] = inner + (2 * len(arguments) if index in found.uses else bool(node.args))
        if index not in found.names and node.op not in LEAVES and not node.boolean and is_worth(node):
            shared[index] = node
    return shared


def _name_shared(found: Derivation, shared: dict[int, Node], adjoints: Adjoints) -> None:
    errors = {adjoints.complete[i].index: n for i, n in found.names.items() if i in adjoints.complete}
    number = 0
    for index in sorted(shared):
        if index in found.uses:
            use = found.uses[index]
            found.names[index] = Name("net", use.map, use.number)
        elif index in errors and errors[index].kind == "value":
            found.names[index] = Name("error", errors[index].of, errors[index].number)
        else:
            number += 1
            found.names[index] = Name("helper", str(number))


def _lines_of(found: Derivation, roots: Iterable[Node], order: list[Node]) -> list[Line]:
    """A line for every value with a name that the roots are printed from, each after those it is printed from."""
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node.index not in seen:
            seen.add(node.index)
            stack += _arguments(found, node)
    kinds = ("value", "net", "helper", "error", "delta")
    return [
        Line((found.names[n.index],), n)
        for n in order
        if n.index in seen and n.index in found.names and found.names[n.index].kind in kinds
    ]


def _gradients(found: Derivation, adjoints: Adjoints) -> list[Line]:
    """∂E/∂W = Σ δ vᵀ for every matrix, ∂E/∂b = Σ δ for every bias."""
    products: dict[str, list[tuple[Node, Node]]] = {}
    biases: dict[str, list[Node]] = {}
    for index, use in found.uses.items():
        delta = adjoints.complete.get(index)
        if delta is None:
            continue
        for matrix, vector in use.terms:
            products.setdefault(matrix, []).append((delta, vector))
        if use.bias:
            biases.setdefault(use.map, []).append(delta)
    lines = [Line((Name("matrix", m),), products=tuple(p)) for m, p in products.items()]
    for name, deltas in biases.items():
        lines.append(Line((Name("bias", name),), _sum(deltas), over_time=True))
    return lines


def _kept(recurrence: Recurrence) -> list[Node]:
    """What the backward pass reads of the forward pass, as values of this recurrence."""
    derived = adjoint(recurrence)
    leaves = [r.node for r in recurrence.reads] + [c.seen for c in recurrence.carries]
    made = rebuild([*leaves, *recurrence.nodes], Graph(OPERATIONS), {})  # as the derivation copies it
    original = {copy.index: index for index, copy in made.items()}
    used = {(r.array, r.name) for r in derived.backward.used_reads}
    used |= {(g.vector.array, g.vector.name) for g in derived.gradients}
    nodes = {n.index: n for n in recurrence.graph.nodes}
    given = {r.node.index for r in derived.forward.reads if r.per != "time"}
    blocks: list[Read | Write] = [*derived.forward.writes, *derived.forward.reads]
    found = [b.node.index for b in blocks if (b.array, b.name) in used and b.node.index not in given]
    return [nodes[original[i]] for i in dict.fromkeys(found)]


__all__ = ["Derivation", "Line", "MapUse", "Name", "derive", "input_matrix"]
