"""Values of a traced step made once more, on symbols or tensors, from what the graph says of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from throughtime.symbolic import functions, language
from throughtime.symbolic.graph import EquationError, Node, Width


def compute(op: str, args: Sequence[Any], data: Any, width: Width) -> Any:
    """One value, as the step's author would have written it; `data` of a weight is its name and first value."""
    match op:
        case "const":
            return float(data)
        case "affine":
            return language.affine(data[0], *args, size=width, bias=data[1], shared=True)
        case "weight":
            return language.weight(data[0], width, data[1])
        case "noise":
            return language.noise(data[0], width, data[1])
        case "time":
            return language.time()
        case "signal":
            return language.signal(data)
        case "size":
            return language.width_number(data)
        case "total":
            return language.total(args[0])
        case "spread":
            return args[0]
    if all(isinstance(a, float) for a in args):
        raise EquationError(f"the cell's text applies {op} to numbers only: it is damaged or no cell's text")
    return functions.apply(op, *args)


def labelled(value: Any, label: str | None) -> Any:
    """The value with the name that its author gave it, where it can have one."""
    if isinstance(value, Node) and value.label is None and value.args:
        value.label = label
    return value


def with_signature(run: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """`run` as a step whose parameters, the input and the states, have these names: the tracer reads them."""

    def step(*values: Any) -> Any:
        return run(*values)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    step.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
    return step
