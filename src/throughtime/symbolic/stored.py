"""A cell's program as text: written to a file with the weights, read back where the cell's Python code is not.

The text is JSON with one value of the step per line, so that it can be read and compared. Reading it runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from throughtime.symbolic import functions, language
from throughtime.symbolic.equation import Equation, trace
from throughtime.symbolic.functions import OPERATIONS
from throughtime.symbolic.graph import EquationError, Node, Width, reachable
from throughtime.symbolic.language import Cell

FORMAT = "throughtime cell 1"


def save_cell(cell: Cell) -> str:
    """The cell as text: its steps in training and in evaluation, and its table of rows."""
    modes = {mode: _written(trace(cell, mode == "training")) for mode in ("evaluation", "training")}
    head: dict[str, Any] = {
        "format": FORMAT,
        "name": cell.name,
        "gates": list(cell.gates),
        "recurrent_gates": list(cell.recurrent_gates),
        "biases": cell.biases,
        "state_widths": dict(cell.state_widths),
    }
    lines = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in head.items()]
    for mode, (names, values, results) in modes.items():
        listed = ",\n  ".join(json.dumps(v, ensure_ascii=False) for v in values)
        lines.append(f'"{mode}": {{"values_given": {json.dumps(names)}, "returns": {json.dumps(results)}, "steps": [\n  {listed}]}}')
    return "{" + ",\n".join(lines) + "}\n"


def _written(equation: Equation) -> tuple[list[str], list[list[Any]], list[int]]:
    """Names of what the step is given, its values as [operation, arguments, data, width, label], and what it returns."""
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
        if content["format"] != FORMAT:
            raise EquationError(f"the cell's text has the format {content['format']!r}, where {FORMAT!r} is expected")
        cell = StoredCell(content)
        trace(cell)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        if isinstance(error, EquationError) and "format" in str(error):
            raise
        raise EquationError(f"the cell's text cannot be read ({type(error).__name__}: {error}): it is damaged or no cell's text") from error
    return cell


class StoredCell(Cell):
    """A cell whose step runs the stored values in order, on symbols or tensors, as the original's would."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content
        self.gates = tuple(content["gates"])  # type: ignore[misc]
        self.recurrent_gates = tuple(content["recurrent_gates"])  # type: ignore[misc]
        self.biases = int(content["biases"])  # type: ignore[misc]
        self.state_widths = content["state_widths"]  # type: ignore[misc]
        names = content["evaluation"]["values_given"]
        if not all(n.isidentifier() for n in names):
            raise EquationError(f"the states' names {names} are no names")
        self.step = _with_signature(self._run, names)

    @property
    def name(self) -> str:
        return str(self._content["name"])

    def _run(self, *given: Any) -> Any:
        mode = "training" if language.training() else "evaluation"
        stored = self._content[mode]
        values = list(given)
        for op, args, data, width, label in stored["steps"]:
            value = _value(op, [values[a] for a in args], data, width)
            if isinstance(value, Node) and value.label is None and value.args:
                value.label = label
            values.append(value)
        results = tuple(values[r] for r in stored["returns"])
        return results if len(results) > 1 else results[0]


def _with_signature(run: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """`run` with the stored names as parameters, which tell the tracer the states."""
    import inspect

    def step(*values: Any) -> Any:
        return run(*values)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    step.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
    return step


def _value(op: str, args: list[Any], data: Any, width: Width) -> Any:
    if op == "const":
        return float(data)
    if op == "affine":
        return language.affine(data[0], *args, size=width, bias=bool(data[1]), shared=True)
    if op == "weight":
        return language.weight(data[0], width, data[1])
    if op == "noise":
        return language.noise(data[0], width, bool(data[1]))
    if op == "time":
        return language.time()
    if op == "size":
        return language.width_number(width if data is None else data)
    if op == "total":
        return language.total(args[0])
    if op == "spread":
        return args[0]
    if op not in OPERATIONS:
        raise EquationError(f"the operation {op!r} is not in the language")
    return functions.apply(op, *args)
