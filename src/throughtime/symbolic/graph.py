"""Expressions as a small ordered graph: every value of a step is one node, equal values are the same node.

Nodes keep the order in which the author wrote them, so that everything derived from a graph (source text,
formulas, cache keys) is the same byte for byte in every process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, NoReturn

from throughtime.symbolic.quoting import given, operand, quote, text

Width = str | int
"""How many numbers a value has for each sequence: "input", "hidden", "projection", a number, or 1 (one per
sequence)."""

LEAVES = frozenset({"const", "input", "state", "read", "carry", "weight", "time", "size", "noise", "signal"})


class EquationError(ValueError):
    """An equation says what cannot be meant; the message quotes it and says what to write instead."""


class Node:
    """One value: an operation applied to other values. Made by `Graph.node`, which makes each only once.

    `label` is the name the author gave it in the step, if any; it shows in generated text and names what is
    kept. `hint` is a name that printed formulas give it where it has no label.
    """

    __slots__ = ("args", "boolean", "data", "graph", "hint", "index", "label", "op", "width")
    __array_ufunc__ = None  # a NumPy number times a value is the value's own operation

    def __init__(
        self,
        graph: Graph,
        index: int,
        op: str,
        args: tuple[Node, ...],
        data: Any,
        width: Width,
        boolean: bool,
    ) -> None:
        self.graph, self.index, self.op, self.args = graph, index, op, args
        self.data, self.width, self.boolean = data, width, boolean
        self.label: str | None = None
        self.hint: str | None = None

    def __repr__(self) -> str:
        return text(self)

    def __add__(self, other: Any) -> Node:
        return self.graph.apply("add", self, other)

    def __radd__(self, other: Any) -> Node:
        return self.graph.apply("add", other, self)

    def __sub__(self, other: Any) -> Node:
        return self.graph.apply("sub", self, other)

    def __rsub__(self, other: Any) -> Node:
        return self.graph.apply("sub", other, self)

    def __mul__(self, other: Any) -> Node:
        return self.graph.apply("mul", self, other)

    def __rmul__(self, other: Any) -> Node:
        return self.graph.apply("mul", other, self)

    def __truediv__(self, other: Any) -> Node:
        return self.graph.apply("div", self, other)

    def __rtruediv__(self, other: Any) -> Node:
        return self.graph.apply("div", other, self)

    def __neg__(self) -> Node:
        return self.graph.apply("neg", self)

    def __abs__(self) -> Node:
        return self.graph.apply("abs", self)

    def __pow__(self, exponent: Any) -> Node:
        if not isinstance(exponent, Node) and exponent == 0.5:
            return self.graph.apply("sqrt", self)
        if type(exponent) is not int or not 1 <= exponent <= 8:
            raise EquationError(
                f'"({quote(self)}) ** {given(exponent)}" is not in the language: '
                "write ** with a whole number from 1 to 8 or 0.5, or use exp and log"
            )
        power = self
        for _ in range(exponent - 1):
            power = power * self
        return power

    def __rpow__(self, base: Any) -> NoReturn:
        raise EquationError(f'"{base} ** ({quote(self)})" is not in the language: write exp(log(base) * exponent)')

    def __matmul__(self, other: Any) -> NoReturn:
        raise EquationError(
            f'"{operand(self)} @ {operand(other)}" is not in the language: '
            "write affine(name, vector) for a learned matrix"
        )

    def __rmatmul__(self, other: Any) -> NoReturn:
        raise EquationError(
            f'"{operand(other)} @ {operand(self)}" is not in the language: '
            "write affine(name, vector) for a learned matrix"
        )

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Node) and not self.graph.writing:
            return self is other
        raise EquationError(
            f'"{operand(self)} == {operand(other)}" is not in the language: write > >= < <= between values'
        )

    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise EquationError(
            f'"{operand(self)}.{name}" is not in the language: write a function of throughtime, such as tanh(v)'
        )

    def __gt__(self, other: Any) -> Node:
        return self.graph.apply("greater", self, other)

    def __ge__(self, other: Any) -> Node:
        return self.graph.apply("greater_equal", self, other)

    def __lt__(self, other: Any) -> Node:
        return self.graph.apply("greater", other, self)

    def __le__(self, other: Any) -> Node:
        return self.graph.apply("greater_equal", other, self)

    def __and__(self, other: Any) -> Node:
        return self.graph.apply("both", self, other)

    def __or__(self, other: Any) -> Node:
        return self.graph.apply("either", self, other)

    def __invert__(self) -> Node:
        return self.graph.apply("negate", self)

    def __bool__(self) -> bool:
        raise EquationError(
            f'"{quote(self)}" has no single truth value while the equation is read, so a Python if, while, '
            "and, or cannot depend on it: write where(condition, a, b), and & | ~ between conditions"
        )

    def __len__(self) -> int:
        raise EquationError(f'"{quote(self)}" has no Python length: write size(v) for the number of its units')

    def __iter__(self) -> Any:
        raise EquationError(f'"{quote(self)}" cannot be taken apart: an equation speaks of whole vectors')

    def __getitem__(self, key: Any) -> Node:
        raise EquationError(
            f'"{operand(self)}[{given(key)}]" is not in the language: an equation speaks of whole vectors'
        )


class Graph:
    """Makes nodes, each value once. `operators` is the closed table of pointwise operations."""

    def __init__(self, operators: Mapping[str, Any]) -> None:
        self.operators = operators
        self.writing = False  # True while a step is read: its author must not compare values with ==
        self.nodes: list[Node] = []
        self._known: dict[tuple[Any, ...], Node] = {}

    def node(
        self, op: str, args: tuple[Node, ...] = (), data: Any = None, width: Width = 1, boolean: bool = False
    ) -> Node:
        """The node for this value: a new one, or the one that was made for it before."""
        key = (op, tuple(a.index for a in args), data, width)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Node(self, len(self.nodes), op, args, data, width, boolean)
            self.nodes.append(found)
        return found

    def const(self, value: float) -> Node:
        if math.isnan(value):
            raise EquationError("NaN has no place in an equation: every operation on it would be NaN")
        return self.node("const", data=float(value))

    def lift(self, value: Any, where: str) -> Node:
        """A node for a number; a node of this graph as it is."""
        if isinstance(value, Node):
            if value.graph is not self:
                raise EquationError(f'"{quote(value)}" belongs to another equation: use only this step\'s own values')
            return value
        if isinstance(value, bool) or not isinstance(value, Real):
            raise EquationError(
                f"{where} was given {given(value)} ({type(value).__name__}), "
                "where a value of the equation or a number is expected"
            )
        return self.const(float(value))

    def apply(self, op: str, *values: Any) -> Node:
        """A pointwise operation of the table, with its arguments' widths and kinds checked."""
        row = self.operators[op]
        args = tuple(self.lift(v, op) for v in values)
        for arg, kind in zip(args, row.arguments, strict=True):
            if arg.boolean != (kind == "b"):
                wanted = "a condition such as a > b" if kind == "b" else "a number: write where(condition, 1, 0)"
                raise EquationError(f'"{quote(arg)}" stands in {op} where the language expects {wanted}')
        if row.fold is not None and args and all(a.op == "const" for a in args):
            return self.const(row.fold(*(a.data for a in args)))
        simpler = _identity(op, args)
        if simpler is not None:
            return simpler
        return self.node(op, args, width=self.common_width(op, args), boolean=row.boolean)

    def common_width(self, op: str, args: Iterable[Node]) -> Width:
        width: Width = 1
        first = None
        for arg in args:
            if arg.width == 1 or arg.width == width:
                continue
            if width != 1 and first is not None:
                raise EquationError(
                    f'{op} puts "{quote(first)}" [{width}] and "{quote(arg)}" [{arg.width}] together: '
                    "their widths differ, so map one of them with affine(name, vector, size=...)"
                )
            width, first = arg.width, arg
        return width


def _identity(op: str, args: tuple[Node, ...]) -> Node | None:
    """x + 0, x - 0, x * 1, x / 1 and 1 * x are x itself; nothing that could change a NaN."""

    def is_const(node: Node, value: float) -> bool:
        return node.op == "const" and node.data == value

    if op in ("add", "sub") and is_const(args[1], 0.0):
        return args[0]
    if op == "add" and is_const(args[0], 0.0):
        return args[1]
    if op in ("mul", "div") and is_const(args[1], 1.0):
        return args[0]
    if op == "mul" and is_const(args[0], 1.0):
        return args[1]
    if op == "neg" and args[0].op == "neg":
        return args[0].args[0]
    return None


def reachable(roots: Iterable[Node]) -> list[Node]:
    """The nodes that the roots are computed from, roots included, each after its arguments."""
    seen: set[int] = set()
    stack = list(roots)
    found = []
    while stack:
        node = stack.pop()
        if node.index in seen:
            continue
        seen.add(node.index)
        found.append(node)
        stack.extend(node.args)
    return sorted(found, key=lambda n: n.index)


def structure(roots: Iterable[Node]) -> tuple[object, ...]:
    """What the roots are, apart from names and numbering: equal where two graphs compute the same in the same way."""
    listed = list(roots)
    number: dict[int, int] = {}
    rows = []
    for node in reachable(listed):
        number[node.index] = len(number)
        rows.append((node.op, tuple(number[a.index] for a in node.args), node.data, node.width))
    return (*rows, tuple(number[r.index] for r in listed))


def rebuild(roots: Iterable[Node], target: Graph, replace: Mapping[int, Node]) -> dict[int, Node]:
    """Copies what the roots need into `target`; a node whose index is in `replace` becomes that one."""
    made: dict[int, Node] = dict(replace)
    stack = [(r, False) for r in reversed(list(roots))]
    while stack:
        node, ready = stack.pop()
        if node.index in made:
            continue
        if ready:
            args = tuple(made[a.index] for a in node.args)
            copy = made[node.index] = target.node(node.op, args, node.data, node.width, node.boolean)
            copy.label = copy.label or node.label
        else:
            stack.append((node, True))
            stack.extend((a, False) for a in reversed(node.args) if a.index not in made)
    return made
