"""Tracing: a cell's `step`, run once on symbols, becomes an `Equation`."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from throughtime.symbolic import language
from throughtime.symbolic.functions import OPERATIONS
from throughtime.symbolic.graph import EquationError, Graph, Node, Width, reachable
from throughtime.symbolic.mistakes import quoted
from throughtime.symbolic.quoting import given, quote


@dataclass(frozen=True)
class Affine:
    """One use of `affine(name, *vectors)`: matrix k maps vector k to `width` numbers.

    A shared map has several uses.
    """

    name: str
    vectors: tuple[Node, ...]
    width: Width
    bias: bool
    node: Node


@dataclass(frozen=True)
class State:
    name: str
    seen: Node
    """The previous state, as this step sees it."""
    new: Node


@dataclass(frozen=True)
class Weight:
    name: str
    width: Width
    init: float


@dataclass(frozen=True)
class Equation:
    """One step of a cell. `input` is x; every other value is reached from the states' new values."""

    name: str
    graph: Graph
    input: Node
    states: tuple[State, ...]
    affines: tuple[Affine, ...]
    weights: tuple[Weight, ...]
    signals: tuple[str, ...]

    def has(self, op: str) -> bool:
        """Whether the step says this ("time", "noise", ...)."""
        return any(n.op == op for n in self.graph.nodes)


@dataclass
class Tracer:
    """Meaning of a step's words while it is traced."""

    training: bool
    graph: Graph = field(default_factory=lambda: Graph(OPERATIONS))
    affines: dict[int, Affine] = field(default_factory=dict)
    shared: dict[str, bool] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    noises: dict[str, Node] = field(default_factory=dict)
    signals: dict[str, Node] = field(default_factory=dict)

    def _check_name(self, name: object, what: str) -> None:
        if not isinstance(name, str) or not name.isidentifier():
            raise EquationError(f"{what} is named {given(name)}, where a name such as 'f' or 'forget' is expected")

    def _width(self, like: Any, what: str) -> Width:
        if isinstance(like, Node) and not like.boolean and like.width != 1:
            return self.graph.lift(like, what).width
        if isinstance(like, (str, int)) and is_width(like):
            return like
        found = f'"{quote(like)}"' if isinstance(like, Node) else given(like)
        raise EquationError(
            f'{what} has the width {found}, where "hidden", "input", a number above 1 or a vector is expected'
        )

    def affine(self, name: str, vectors: tuple[Any, ...], size: Any, bias: bool, shared: bool) -> Node:
        self._check_name(name, "an affine map")
        what = f'affine("{name}", ...)'
        if re.fullmatch(r"(ih|hh)\d*", name):
            raise EquationError(f"{what} would be taken for the matrix weight_{name}: choose another name")
        if not vectors:
            raise EquationError(f"{what} was given no vector: write affine(name, x, h)")
        for v in vectors:
            if not isinstance(v, Node) or v.boolean or v.width == 1:
                found = f'"{quote(v)}"' if isinstance(v, Node) else given(v)
                raise EquationError(f"{what} was given {found}, where a vector such as x or h is expected")
            self.graph.lift(v, what)
        if len({v.index for v in vectors}) < len(vectors):
            raise EquationError(f"{what} was given the same vector twice: one map of it is enough")
        width = self._width(size, what)
        node = self.graph.node("affine", tuple(vectors), (name, bias), width)
        use = Affine(name, tuple(vectors), width, bias, node)
        if name not in self.shared:
            self.shared[name] = shared
        elif not (shared and self.shared[name]):
            raise EquationError(
                f'the name "{name}" is used for two affine maps: give each its own name, '
                "or say shared=True in both if they are to share their weights"
            )
        first = next((a for a in self.affines.values() if a.name == name), use)
        if _signature(first) != _signature(use):
            raise EquationError(f"{what} is shared, but its uses differ in bias or in the widths of vectors or result")
        self.affines[node.index] = use
        return node

    def weight(self, name: str, like: Any, init: Any) -> Node:
        self._check_name(name, "a weight")
        what = f'weight("{name}")'
        if name.startswith(("weight_", "bias")):
            raise EquationError(f"{what} would be taken for a matrix or a bias: choose another name")
        if name in ("x", "out", "net") or re.match(r"(d|dot)\d*_", name):
            raise EquationError(f"{what} has a name that the derivation uses itself: choose another name")
        width = self._width(like, what)
        if isinstance(init, bool) or not isinstance(init, Real):
            raise EquationError(f"{what} has the first value {given(init)}, where a number is expected")
        declared = Weight(name, width, float(init))
        if self.weights.setdefault(name, declared) != declared:
            raise EquationError(f"{what} is declared twice in different ways: give each its own name")
        return self.graph.node("weight", data=name, width=width)

    def noise(self, name: str, like: Any, fixed: bool) -> Node:
        self._check_name(name, "a noise")
        what = f'noise("{name}")'
        node = self.graph.node("noise", data=(name, bool(fixed)), width=self._width(like, what))
        if self.noises.setdefault(name, node) is not node:
            raise EquationError(f"{what} is used in two different ways: give each its own name")
        return node

    def time(self) -> Node:
        return self.graph.node("time")

    def signal(self, name: str) -> Node:
        self._check_name(name, "a signal")
        if name in ("input", "state", "lengths", "return_all", "self"):
            raise EquationError(f'signal("{name}") has the name of an argument of the layer: choose another name')
        return self.signals.setdefault(name, self.graph.node("signal", data=name))

    def width_number(self, width: Width) -> Node:
        return self.graph.node("size", data=width)


def is_width(value: object) -> bool:
    """Whether this is a width that vectors can have."""
    return value in ("hidden", "input", "projection") or (type(value) is int and value > 1)


def _signature(use: Affine) -> tuple[Any, ...]:
    """What two uses of one map must have in common; the product with x itself is made outside the loop."""
    return use.width, use.bias, tuple((v.width, v.op == "input") for v in use.vectors)


def trace(cell: language.Cell, training: bool = False) -> Equation:
    """Runs the cell's step on symbols. Raises EquationError, quoting the line, for what it cannot mean."""
    step = getattr(cell, "step", None)
    if not isinstance(cell, language.Cell) or not callable(step):
        raise EquationError(
            f"{given(cell)} is no cell: a cell is an instance of a tt.Cell subclass that defines step(self, x, h)"
        )
    signature = inspect.signature(step)
    parameters = list(signature.parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) < 2 or any(p.kind not in positional or p.default is not p.empty for p in parameters):
        raise EquationError(
            f"{cell.name}.step{_without_types(signature)} must name the input and every state, "
            "and nothing else: step(self, x, h); options are fields of the cell"
        )
    _check_declarations(cell, [p.name for p in parameters[1:]])
    tracer = Tracer(training)
    graph = tracer.graph
    x = graph.node("input", data=parameters[0].name, width="input")
    seen = [graph.node("state", data=p.name, width=cell.state_widths.get(p.name, "hidden")) for p in parameters[1:]]
    with language.running(tracer):
        graph.writing = True
        try:
            result = _labelled(step, x, *seen)
        except Exception as error:
            raise quoted(error, cell, step) from error
        finally:
            graph.writing = False
    new = result if isinstance(result, tuple) else (result,)
    names = ", ".join(s.data for s in seen)
    if result is None:
        raise EquationError(f"{cell.name}.step returns nothing: return the new value of every state ({names})")
    if len(new) != len(seen):
        raise EquationError(
            f"{cell.name}.step returns {_counted(len(new), 'value')} for {_counted(len(seen), 'state')} "
            f"({names}): return the new value of every state, in the order step takes them"
        )
    states = tuple(State(s.data, s, _new_state(cell, s, n, graph)) for s, n in zip(seen, new, strict=True))
    equation = Equation(
        cell.name,
        graph,
        x,
        states,
        tuple(tracer.affines.values()),
        tuple(tracer.weights.values()),
        tuple(tracer.signals),
    )
    _check_used(cell, equation)
    return equation


def _labelled(step: Any, *values: Node) -> Any:
    """Calls the step and gives its values the names of its local variables."""
    code = getattr(step, "__code__", None)

    def on_return(frame: Any, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is code:
            for name, value in frame.f_locals.items():
                if isinstance(value, Node) and value.label is None and value.args:
                    value.label = name

    before = sys.getprofile()
    sys.setprofile(on_return)
    try:
        return step(*values)
    finally:
        sys.setprofile(before)


def _new_state(cell: language.Cell, seen: Node, new: Any, graph: Graph) -> Node:
    if new is None:
        raise EquationError(f"{cell.name}.step gives the state {seen.data} no new value: return it")
    try:
        node = graph.lift(new, f"the new {seen.data}")
    except EquationError as error:
        raise EquationError(f"{cell.name}.step: {error}") from None
    if node.boolean:
        raise EquationError(
            f'{cell.name}.step returns the condition "{quote(node)}" for the state {seen.data}: '
            "write where(condition, 1, 0)"
        )
    if node.width == 1:
        return graph.node("spread", (node,), width=seen.width)
    if node.width != seen.width:
        raise EquationError(
            f'{cell.name}.step returns "{quote(node)}" [{node.width}] for the state {seen.data} '
            f"[{seen.width}]: their widths differ, so map it with affine(name, vector, size=...)"
        )
    return node


def _check_used(cell: language.Cell, equation: Equation) -> None:
    nodes = reachable(s.new for s in equation.states)
    used = {n.index for n in nodes}
    named = {n.data for n in nodes if n.op == "weight"}
    unused = [quote(a.node) for a in equation.affines if a.node.index not in used]
    unused += [f'weight("{w.name}")' for w in equation.weights if w.name not in named]
    if unused:
        raise EquationError(
            f'{cell.name}.step computes "{unused[0]}" but no new state depends on it: use it or remove it'
        )


def _check_declarations(cell: language.Cell, states: list[str]) -> None:
    for name, width in cell.state_widths.items():
        if name not in states:
            raise EquationError(f"{cell.name}.state_widths names {name!r}, which is no state of its step")
        if not is_width(width):
            raise EquationError(
                f"{cell.name}.state_widths gives {name} the width {given(width)}, "
                'where "hidden", "input" or a number above 1 is expected'
            )
    if cell.biases not in (1, 2):
        raise EquationError(f"{cell.name}.biases is {given(cell.biases)}, where 1 or 2 is expected")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _without_types(signature: inspect.Signature) -> inspect.Signature:
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return signature.replace(parameters=plain, return_annotation=signature.empty)
