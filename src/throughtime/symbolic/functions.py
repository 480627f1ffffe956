"""The table of operations: one row each, with derivative, spelling per target, torch and NumPy function, and LaTeX.

A derivative rule gets the operation's own result `y`, its arguments and the adjoint `g` of the result, and returns the
adjoint of each argument (None where no error flows). Rules differentiate through the output where that is possible
(tanh' = 1 - y², sigmoid' = y (1 - y)), so that what the forward pass kept is reused.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from throughtime.symbolic.graph import EquationError, Node

Rule = Callable[..., tuple[Node | None, ...]]


@dataclass(frozen=True)
class Operation:
    """One row. `torch` and `numpy` name the function in those libraries; `cpp` is a format string over the arguments
    that the C++ skeletons understand, on vectors, and `cuda` that of the CUDA skeletons, on numbers, where it differs; `latex` and `text` are those of printed formulas, where an
    argument that binds more loosely than `level` stands in parentheses (0 comparison, 1 sum, 2 product, 9 closed in
    itself; no `text`: the name with its arguments). `fold` computes it on Python numbers. `tangent` is the rule for
    forward mode (g is then the tangent of one argument), where it is not the derivative's own. A `mark` is its first
    argument going forward; it is there for the derivative only."""

    name: str
    derivative: Rule
    cpp: str
    latex: str
    torch: str
    numpy: str
    arguments: str = "v"
    boolean: bool = False
    fold: Callable[..., float] | None = None
    tangent: Rule | None = None
    mark: bool = False
    text: str = ""
    level: int = 9
    cuda: str = ""

    @property
    def arity(self) -> int:
        return len(self.arguments)

    def spelling(self, target: str) -> str:
        """The format string for "cpp" or "cuda"."""
        return self.cuda or self.cpp if target == "cuda" else self.cpp


def _minimum(y: Node, a: Node, b: Node, g: Node) -> tuple[Node, Node]:
    return where(a < b, g, 0.0), where(a < b, 0.0, g)


def _maximum(y: Node, a: Node, b: Node, g: Node) -> tuple[Node, Node]:
    return where(a > b, g, 0.0), where(a > b, 0.0, g)


def _none(y: Node, *args: Any) -> tuple[None, ...]:
    return (None,) * (len(args) - 1)


# fmt: off
_ROWS = [
    Operation("add", lambda y, a, b, g: (g, g), "({0} + {1})", "{0} + {1}", "add", "add", "vv", fold=lambda a, b: a + b, text="{0} + {1}", level=1),
    Operation("sub", lambda y, a, b, g: (g, -g), "({0} - {1})", "{0} - {1}", "sub", "subtract", "vv", fold=lambda a, b: a - b, text="{0} − {1}", level=1),
    Operation("mul", lambda y, a, b, g: (g * b, g * a), "({0} * {1})", r"{0} \odot {1}", "mul", "multiply", "vv", fold=lambda a, b: a * b, text="{0} ⊙ {1}", level=2),
    Operation("div", lambda y, a, b, g: (g / b, -(g / b) * y), "({0} / {1})", r"\frac{{{0}}}{{{1}}}", "div", "divide", "vv", text="{0} / {1}", level=2),
    Operation("neg", lambda y, a, g: (-g,), "(-{0})", "-{0}", "neg", "negative", fold=lambda a: -a, text="−{0}", level=1),
    Operation("exp", lambda y, a, g: (g * y,), "exp({0})", r"\exp({0})", "exp", "exp"),
    Operation("expm1", lambda y, a, g: (g * (y + 1),), "expm1({0})", r"(\exp({0}) - 1)", "expm1", "expm1"),
    Operation("log", lambda y, a, g: (g / a,), "log({0})", r"\log({0})", "log", "log"),
    Operation("log1p", lambda y, a, g: (g / (1 + a),), "log1p({0})", r"\log(1 + {0})", "log1p", "log1p"),
    Operation("sqrt", lambda y, a, g: (g * 0.5 / y,), "sqrt({0})", r"\sqrt{{{0}}}", "sqrt", "sqrt", fold=math.sqrt),
    Operation("sin", lambda y, a, g: (g * cos(a),), "sin({0})", r"\sin({0})", "sin", "sin"),
    Operation("cos", lambda y, a, g: (-(g * sin(a)),), "cos({0})", r"\cos({0})", "cos", "cos"),
    Operation("tanh", lambda y, a, g: (g * (1 - y * y),), "tanh({0})", r"\tanh({0})", "tanh", "tanh"),
    Operation("sigmoid", lambda y, a, g: (g * y * (1 - y),), "sigmoid({0})", r"\sigma({0})", "sigmoid", "", text="σ({0})"),
    Operation("softplus", lambda y, a, g: (g * sigmoid(a),), "softplus({0})", r"\mathrm{{softplus}}({0})", "nn.functional.softplus", ""),
    Operation("erf", lambda y, a, g: (g * exp(-(a * a)) * (2 / math.sqrt(math.pi)),), "erf({0})", r"\mathrm{{erf}}({0})", "erf", ""),
    Operation("relu", lambda y, a, g: (where(y > 0, g, 0.0),), "maximum({0}, {zero})", r"\mathrm{{relu}}({0})", "relu", ""),
    Operation("abs", lambda y, a, g: (g * sign(a),), "absolute({0})", r"\left|{0}\right|", "abs", "absolute", fold=abs),
    Operation("sign", _none, "sign({0})", r"\mathrm{{sign}}({0})", "sign", "sign"),
    Operation("minimum", _minimum, "minimum({0}, {1})", r"\min({0}, {1})", "minimum", "minimum", "vv", fold=min),
    Operation("maximum", _maximum, "maximum({0}, {1})", r"\max({0}, {1})", "maximum", "maximum", "vv", fold=max),
    Operation("where", lambda y, c, a, b, g: (None, where(c, g, 0.0), where(c, 0.0, g)), "select({0}, {1}, {2})",
              r"\begin{{cases}} {1} & {0} \\ {2} & \text{{else}} \end{{cases}}", "where", "where", "bvv"),
    Operation("surrogate", lambda y, a, b, g: (None, g), "{0}", r"{0}", "", "", "vv", mark=True, text="{0}"),
    Operation("clip_gradient", lambda y, a, limit, g: (clip(g, -limit, limit), None), "{0}", r"{0}", "", "", "vv",
              tangent=lambda y, a, limit, g: (g, None), mark=True, text="{0}"),
    Operation("greater", _none, "({0} > {1})", "{0} > {1}", "gt", "greater", "vv", boolean=True, text="{0} > {1}", level=0),
    Operation("greater_equal", _none, "({0} >= {1})", r"{0} \ge {1}", "ge", "greater_equal", "vv", boolean=True, text="{0} ≥ {1}", level=0),
    Operation("both", _none, "({0} & {1})", r"{0} \wedge {1}", "logical_and", "logical_and", "bb", boolean=True, text="{0} ∧ {1}", level=0, cuda="({0} && {1})"),
    Operation("either", _none, "({0} | {1})", r"{0} \vee {1}", "logical_or", "logical_or", "bb", boolean=True, text="{0} ∨ {1}", level=0, cuda="({0} || {1})"),
    Operation("negate", _none, "(~{0})", r"\neg {0}", "logical_not", "logical_not", "b", boolean=True, text="¬{0}", level=0, cuda="(!{0})"),
]
# fmt: on
OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}


def _numpy_only(name: str, *values: Any) -> Any:
    """The rows that NumPy has no function for."""
    import numpy as np

    if name == "sigmoid":
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-values[0]))
    if name == "softplus":
        return np.maximum(values[0], 0) + np.log1p(np.exp(-np.abs(values[0])))
    if name == "relu":
        return np.maximum(values[0], 0)
    if OPERATIONS[name].mark:
        return values[0]
    return np.vectorize(math.erf, otypes=[float])(values[0])


def apply(name: str, *values: Any) -> Any:
    """An operation of the table on symbols, torch tensors, NumPy arrays or Python numbers: whatever the step was given."""
    for value in values:
        if isinstance(value, Node):
            return value.graph.apply(name, *values)
    row = OPERATIONS[name]
    torch = sys.modules.get("torch")
    tensors = [] if torch is None else [v for v in values if isinstance(v, torch.Tensor)]
    if torch is not None and tensors:
        like = next((t for t in tensors if t.dtype != torch.bool), tensors[0])
        if not like.dtype.is_floating_point:  # a where() of a condition and two numbers
            like = like.new_empty((), dtype=torch.get_default_dtype())
        values = tuple(
            v
            if isinstance(v, torch.Tensor)
            else torch.tensor(v, dtype=torch.bool if isinstance(v, bool) else like.dtype, device=like.device)
            for v in values
        )
        if name == "surrogate":
            return values[0].detach() + (values[1] - values[1].detach())  # the second term is 0 exactly
        if name == "clip_gradient":
            marked = values[0].view_as(values[0])  # a hook on the value itself would clip all its errors
            if marked.requires_grad:
                marked.register_hook(lambda g: torch.minimum(torch.maximum(g, -values[1]), values[1]))
            return marked
        function: Any = torch
        for part in row.torch.split("."):
            function = getattr(function, part)
        return function(*values)
    if not row.numpy:
        return _numpy_only(name, *values)
    import numpy as np

    return getattr(np, row.numpy)(*values)


def tanh(v: Any) -> Any:
    """Hyperbolic tangent."""
    return apply("tanh", v)


def sigmoid(v: Any) -> Any:
    """Logistic function σ(v) = 1 / (1 + exp(-v))."""
    return apply("sigmoid", v)


def exp(v: Any) -> Any:
    return apply("exp", v)


def expm1(v: Any) -> Any:
    """exp(v) - 1, exact near 0."""
    return apply("expm1", v)


def log(v: Any) -> Any:
    return apply("log", v)


def log1p(v: Any) -> Any:
    """log(1 + v), exact near 0."""
    return apply("log1p", v)


def sqrt(v: Any) -> Any:
    return apply("sqrt", v)


def sin(v: Any) -> Any:
    return apply("sin", v)


def cos(v: Any) -> Any:
    return apply("cos", v)


def erf(v: Any) -> Any:
    return apply("erf", v)


def absolute(v: Any) -> Any:
    return apply("abs", v)


def sign(v: Any) -> Any:
    return apply("sign", v)


def minimum(a: Any, b: Any) -> Any:
    return apply("minimum", a, b)


def maximum(a: Any, b: Any) -> Any:
    return apply("maximum", a, b)


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, b elsewhere, unit by unit; error flows into the chosen one only."""
    if isinstance(condition, bool) and (isinstance(a, Node) or isinstance(b, Node)):
        raise EquationError(f"where was given {condition}, where a condition on values such as a > b is expected")
    return apply("where", condition, a, b)


def surrogate(value: Any, derivative_of: Any) -> Any:
    """`value` going forward, the derivative of `derivative_of` going back (spikes, straight-through estimators)."""
    return apply("surrogate", value, derivative_of)


def clip_gradient(v: Any, limit: float) -> Any:
    """v itself; the error that flows back through it is clipped to [-limit, limit], number by number.

    Graves 2013, arXiv:1308.0850, section 2.1. Forward mode is the identity's.
    """
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
        raise EquationError(f"clip_gradient was given the limit {limit!r}, where a number above 0 is expected")
    return apply("clip_gradient", v, float(limit))


def clip(v: Any, low: float, high: float) -> Any:
    return minimum(maximum(v, low), high)
