"""A cell's program as text: written with the weights, read back where the cell's Python code is not.

The text is JSON with one value of the step per line, so that it can be read and compared. Reading it runs no
code: every line is checked against the table of operations before anything is made of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from throughtime.symbolic import language
from throughtime.symbolic.equation import Equation, trace
from throughtime.symbolic.functions import OPERATIONS
from throughtime.symbolic.graph import EquationError, reachable
from throughtime.symbolic.language import Cell
from throughtime.symbolic.quoting import given
from throughtime.symbolic.replay import compute, labelled, with_signature

FORMAT = "throughtime cell 1"
MODES = ("evaluation", "training")


def save_cell(cell: Cell) -> str:
    """The cell as text: its steps in training and in evaluation, and its table of rows."""
    head: dict[str, Any] = {
        "format": FORMAT,
        "name": cell.name,
        "gates": list(cell.gates),
        "recurrent_gates": list(cell.recurrent_gates),
        "biases": cell.biases,
        "state_widths": dict(cell.state_widths),
    }
    if cell.projection:
        head["projection"] = cell.projection
    lines = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in head.items()]
    for mode in MODES:
        names, values, results = _written(trace(cell, mode == "training"))
        given = f'"values_given": {json.dumps(names)}, "returns": {json.dumps(results)}'
        listed = ",\n  ".join(json.dumps(v, ensure_ascii=False) for v in values)
        lines.append(f'"{mode}": {{{given}, "steps": [\n  {listed}]}}')
    return "{" + ",\n".join(lines) + "}\n"


def _written(equation: Equation) -> tuple[list[str], list[list[Any]], list[int]]:
    """What the step is given, its values as [operation, arguments, data, width, label], what it returns."""
    given = [equation.input, *(s.seen for s in equation.states)]
    number = {node.index: k for k, node in enumerate(given)}
    weights = {w.name: w for w in equation.weights}
    values = []
    for node in reachable(s.new for s in equation.states):
        if node.index in number:
            continue
        data = list(node.data) if isinstance(node.data, tuple) else node.data
        if node.op == "weight":
            data = [node.data, weights[node.data].init]
        values.append([node.op, [number[a.index] for a in node.args], data, node.width, node.label])
        number[node.index] = len(given) + len(values) - 1
    return [str(g.data) for g in given], values, [number[s.new.index] for s in equation.states]


def load_cell(text: str) -> Cell:
    """The cell that `save_cell` wrote. Raises EquationError if the text is damaged or of another format."""
    try:
        content = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise EquationError(f"the cell's text cannot be read ({error}): it is damaged or no cell's text") from None
    _check(isinstance(content, dict) and "format" in content, "it has no format")
    if content["format"] != FORMAT:
        raise EquationError(f"the cell's text has the format {given(content['format'])}, where {FORMAT!r} is expected")
    _check_head(content)
    cell = StoredCell(content)
    for mode in MODES:
        trace(cell, mode == "training")
    return cell


def _check(holds: object, what: str) -> None:
    if not holds:
        raise EquationError(f"the cell's text cannot be read ({what}): it is damaged or no cell's text")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier()


def _check_head(content: dict[str, Any]) -> None:
    """Everything that is not JSON's own matter: each field's kind, and each step against the table."""
    _check(_is_name(content.get("name")), "it has no name")
    for field in ("gates", "recurrent_gates"):
        names = content.get(field)
        _check(isinstance(names, list) and all(_is_name(n) for n in names), f"{field} is no list of names")
    _check(type(content.get("biases")) is int, "biases is no number")
    _check(type(content.get("projection", 0)) is int, "projection is no number")
    widths = content.get("state_widths")
    _check(isinstance(widths, dict) and all(map(_is_plain, widths.values())), "state_widths is no table")
    for mode in MODES:
        stored: Any = content.get(mode)
        _check(isinstance(stored, dict), f"it has no steps for {mode}")
        _check_steps(stored)
    _check(len({tuple(content[mode]["values_given"]) for mode in MODES}) == 1, "its states have several names")


def _check_steps(stored: dict[str, Any]) -> None:
    names, steps, returns = (stored.get(k, []) for k in ("values_given", "steps", "returns"))
    _check(isinstance(names, list) and len(names) > 1 and all(map(_is_name, names)), "it names no states")
    _check(len(set(names)) == len(names), "two states have one name")
    _check(isinstance(steps, list) and isinstance(returns, list), "it has no steps")
    known = len(names)
    for step in steps:
        _check(isinstance(step, list) and len(step) == 5, f"{given(step)} is no step")
        op, args, data, width, label = step
        _check(isinstance(op, str) and (op in OPERATIONS or op in _ARGUMENTS), f"no operation {given(op)}")
        expected = OPERATIONS[op].arity if op in OPERATIONS else _ARGUMENTS[op]
        _check(isinstance(args, list) and all(type(a) is int and 0 <= a < known for a in args), given(step))
        _check(expected is None or len(args) == expected, f"{given(step)} has the wrong number of arguments")
        _check(_is_plain(width) and (label is None or _is_name(label)), given(step))
        _check(_DATA.get(op, _is_none)(data), f"{given(step)} has the wrong data")
        known += 1
    _check(len(returns) == len(names) - 1, "it returns another number of states than it takes")
    _check(all(type(r) is int and 0 <= r < known for r in returns), "it returns what it does not make")


def _is_none(data: object) -> bool:
    return data is None


def _is_plain(data: object) -> bool:
    """A width, as far as JSON can say."""
    return isinstance(data, str) or type(data) is int


def _is_number(data: object) -> bool:
    return type(data) in (int, float) and data == data


def _is_pair(data: object) -> bool:
    return isinstance(data, list) and len(data) == 2 and _is_name(data[0])


_ARGUMENTS = {
    "const": 0,
    "weight": 0,
    "noise": 0,
    "time": 0,
    "size": 0,
    "signal": 0,
    "total": 1,
    "spread": 1,
    "affine": None,
}
"""How many arguments the operations have that are not in the table; None: any number."""
_DATA: dict[str, Callable[[Any], bool]] = {
    "const": _is_number,
    "affine": lambda d: _is_pair(d) and isinstance(d[1], bool),
    "noise": lambda d: _is_pair(d) and isinstance(d[1], bool),
    "weight": lambda d: _is_pair(d) and _is_number(d[1]),
    "size": _is_plain,
    "signal": _is_name,
}
"""What the data of an operation must be; nothing, where it is not listed."""


class StoredCell(Cell):
    """A cell whose step runs the stored values in order, on symbols or tensors, as the original's would."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content
        self.gates = tuple(content["gates"])  # type: ignore[misc]
        self.recurrent_gates = tuple(content["recurrent_gates"])  # type: ignore[misc]
        self.biases = content["biases"]  # type: ignore[misc]
        self.projection = content.get("projection", 0)
        self.state_widths = content["state_widths"]  # type: ignore[misc]
        self.step = with_signature(self._run, content["evaluation"]["values_given"])

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredCell, (self._content,)

    @property
    def name(self) -> str:
        return str(self._content["name"])

    def _run(self, *given: Any) -> Any:
        stored = self._content["training" if language.training() else "evaluation"]
        values = list(given)
        for op, args, data, width, label in stored["steps"]:
            values.append(labelled(compute(op, [values[a] for a in args], data, width), label))
        results = tuple(values[r] for r in stored["returns"])
        return results if len(results) > 1 else results[0]
