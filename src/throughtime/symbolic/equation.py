"""Tracing: a cell's `step`, run once on symbols, becomes an `Equation`."""

from __future__ import annotations

import difflib
import inspect
import linecache
import sys
import traceback
from dataclasses import dataclass, field
from typing import Any

from throughtime.symbolic import functions, language
from throughtime.symbolic.functions import OPERATIONS
from throughtime.symbolic.graph import EquationError, Graph, Node, Width, reachable, text


@dataclass(frozen=True)
class Affine:
    """One use of `affine(name, *vectors)`: matrix k maps vector k to `width` numbers. A shared map has several uses."""

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


@dataclass
class Tracer:
    """Meaning of a step's words while it is traced."""

    training: bool
    graph: Graph = field(default_factory=lambda: Graph(OPERATIONS))
    affines: dict[int, Affine] = field(default_factory=dict)
    shared: dict[str, bool] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)

    def _check_name(self, name: object, what: str) -> None:
        if not isinstance(name, str) or not name.isidentifier():
            raise EquationError(f"{what} is named {name!r}, where a name such as 'f' or 'forget' is expected")

    def _width(self, like: Any, what: str) -> Width:
        if isinstance(like, Node):
            return like.width
        if like in ("hidden", "input") or (type(like) is int and like > 1):
            return like  # type: ignore[no-any-return]
        raise EquationError(f'{what} has the width {like!r}, where "hidden", "input", a number above 1 or a vector is expected')

    def affine(self, name: str, vectors: tuple[Any, ...], size: Any, bias: bool, shared: bool) -> Node:
        self._check_name(name, "an affine map")
        quote = f'affine("{name}", ...)'
        if not vectors:
            raise EquationError(f"{quote} was given no vector: write affine(name, x, h)")
        for v in vectors:
            if not isinstance(v, Node) or v.boolean or v.width == 1:
                given = text(v) if isinstance(v, Node) else repr(v)
                raise EquationError(f"{quote} was given {given}, where a vector such as x or h is expected")
        if len({v.index for v in vectors}) < len(vectors):
            raise EquationError(f"{quote} was given the same vector twice: one map of it is enough")
        width = self._width(size, quote)
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
            raise EquationError(f"{quote} is shared, but its uses differ in bias or in the widths of vectors or result")
        self.affines[node.index] = use
        return node

    def weight(self, name: str, like: Any, init: float) -> Node:
        self._check_name(name, "a weight")
        if name.startswith(("weight_", "bias")):
            raise EquationError(f'weight("{name}") would be taken for a matrix or a bias: choose another name')
        width = self._width(like, f'weight("{name}")')
        declared = Weight(name, width, float(init))
        if self.weights.setdefault(name, declared) != declared:
            raise EquationError(f'weight("{name}") is declared twice in different ways: give each its own name')
        return self.graph.node("weight", data=name, width=width)

    def noise(self, name: str, like: Any, fixed: bool) -> Node:
        self._check_name(name, "a noise")
        return self.graph.node("noise", data=(name, bool(fixed)), width=self._width(like, f'noise("{name}")'))

    def time(self) -> Node:
        return self.graph.node("time")

    def width_number(self, width: Width) -> Node:
        return self.graph.node("size", data=width)


def _signature(use: Affine) -> tuple[Any, ...]:
    """What two uses of one map must have in common; the product with x itself is made outside the loop."""
    return use.width, use.bias, tuple((v.width, v.op == "input") for v in use.vectors)


def trace(cell: language.Cell, training: bool = False) -> Equation:
    """Runs the cell's step on symbols. Raises EquationError, quoting the line, for anything it cannot mean."""
    step = getattr(cell, "step", None)
    if not isinstance(cell, language.Cell) or not callable(step):
        raise EquationError(f"{cell!r} is no cell: a cell is an instance of a tt.Cell subclass that defines step(self, x, h)")
    parameters = list(inspect.signature(step).parameters.values())
    if len(parameters) < 2 or any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters):
        raise EquationError(f"{cell.name}.step{inspect.signature(step)} must take the input and at least one state: step(self, x, h)")
    tracer = Tracer(training)
    graph = tracer.graph
    x = graph.node("input", data=parameters[0].name, width="input")
    seen = [
        graph.node("state", data=p.name, width=cell.state_widths.get(p.name, "hidden")) for p in parameters[1:]
    ]
    with language.running(tracer):
        try:
            result = _labelled(step, x, *seen)
        except Exception as error:
            raise _quoted(error, cell) from error
    new = result if isinstance(result, tuple) else (result,)
    if len(new) != len(seen):
        names = ", ".join(s.data for s in seen)
        raise EquationError(
            f"{cell.name}.step returns {len(new)} value(s) for {len(seen)} state(s) ({names}): "
            "return the new value of every state, in the order step takes them"
        )
    states = tuple(State(s.data, s, _new_state(cell, s, n, graph)) for s, n in zip(seen, new, strict=True))
    equation = Equation(
        cell.name, graph, x, states, tuple(tracer.affines.values()), tuple(tracer.weights.values())
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
    if not isinstance(new, (Node, int, float)):
        raise EquationError(f"{cell.name}.step returns {new!r} for the state {seen.data}, where a value is expected")
    node = graph.lift(new, f"the new {seen.data}")
    if node.boolean:
        raise EquationError(f'{cell.name}.step returns the condition "{text(node)}" for {seen.data}: write where(condition, 1, 0)')
    if node.width == 1:
        return graph.node("spread", (node,), width=seen.width)
    if node.width != seen.width:
        raise EquationError(
            f'{cell.name}.step returns "{text(node)}" [{node.width}] for the state {seen.data} [{seen.width}]: their widths differ'
        )
    return node


def _check_used(cell: language.Cell, equation: Equation) -> None:
    used = {n.index for n in reachable(s.new for s in equation.states)}
    for a in equation.affines:
        if a.node.index not in used:
            raise EquationError(f'{cell.name}.step computes "{text(a.node)}" but no new state depends on it: use it or remove it')


def _quoted(error: Exception, cell: language.Cell) -> EquationError:
    """The error with the line of the step that caused it, and the nearest known word for an unknown symbol."""
    file = inspect.getfile(type(cell).step) if hasattr(type(cell), "step") else ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    line = ""
    if frames:
        source = linecache.getline(frames[-1].filename, frames[-1].lineno or 0).strip()
        line = f', in "{source}"' if source else ""
    if isinstance(error, EquationError):
        message = str(error)
    elif isinstance(error, NameError):
        words = [n for m in (functions, language) for n in vars(m) if not n.startswith("_")]
        near = difflib.get_close_matches(str(error.name), words, 1)
        hint = f": did you mean {near[0]}? (from throughtime import {near[0]})" if near else ": import it or define it"
        message = f"the symbol {error.name!r} is not known{hint}"
    else:
        message = f"the step cannot be read as an equation ({type(error).__name__}: {error})"
    return EquationError(f"{cell.name}.step: {message}{line}")
