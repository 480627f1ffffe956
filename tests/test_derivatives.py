"""The table of operations, row by row, against mpmath: derivative rules, and values on torch and NumPy.

mpmath differentiates its own functions numerically with 40 digits; nothing here is shared with the table.
"""

from __future__ import annotations

from itertools import product

import mpmath
import numpy as np
import pytest
import torch

from throughtime.symbolic.functions import OPERATIONS, apply
from throughtime.symbolic.graph import Graph

VALUES = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "exp": mpmath.exp,
    "expm1": mpmath.expm1,
    "log": mpmath.log,
    "log1p": lambda a: mpmath.log(1 + a),
    "sqrt": mpmath.sqrt,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tanh": mpmath.tanh,
    "sigmoid": lambda a: 1 / (1 + mpmath.exp(-a)),
    "softplus": lambda a: mpmath.log(1 + mpmath.exp(a)),
    "erf": mpmath.erf,
    "relu": lambda a: a if a > 0 else mpmath.mpf(0),
    "abs": mpmath.fabs,
    "sign": mpmath.sign,
    "minimum": min,
    "maximum": max,
    "where": lambda c, a, b: a if c else b,
    "surrogate": lambda a, b: a,
    "clip_gradient": lambda a, limit: a,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "both": lambda a, b: a and b,
    "either": lambda a, b: a or b,
    "negate": lambda a: not a,
}
"""Every row's function, on mpmath's numbers and Python's truth values."""

POINTS = [-3.7, -1.25, -0.4, 0.15, 0.9, 2.3]
POSITIVE = [0.03, 0.2, 0.7, 1.6, 5.5]
DOMAIN = {"log": POSITIVE, "sqrt": POSITIVE, "log1p": [-0.9, -0.4, 0.001, *POSITIVE]}
"""Numbers at which a row is tried, away from its kinks."""

DERIVATIVE = {"surrogate": lambda a, b: b}
"""Rows whose derivative is, on purpose, that of another function."""


def arguments(name):
    """Every combination of arguments that the row is tried on; two equal ones would be a tie."""
    kinds = OPERATIONS[name].arguments
    choices = [(True, False) if kind == "b" else DOMAIN.get(name, POINTS) for kind in kinds]
    tries = product(*choices)
    return [t for t in tries if "b" in kinds or len(set(t)) == len(t)]


def evaluate(node, given):
    """The number that a symbol stands for, by VALUES alone; `given` has those of the leaves."""
    if node.op == "const":
        return mpmath.mpf(node.data)
    if node.op == "read":
        return given[node.data]
    return VALUES[node.op](*(evaluate(arg, given) for arg in node.args))


def flows(name):
    """What the rule returns for symbols: the adjoint of every argument."""
    row = OPERATIONS[name]
    graph = Graph(OPERATIONS)
    leaves = [graph.node("read", data=k, width="hidden", boolean=kind == "b") for k, kind in enumerate(row.arguments)]
    result = graph.node(name, tuple(leaves), width="hidden", boolean=row.boolean)
    error = graph.node("read", data="g", width="hidden")
    return row.derivative(result, *leaves, error)


def slope(function, values, k):
    """The function's derivative with respect to its k-th argument."""
    return mpmath.diff(lambda v: function(*values[:k], v, *values[k + 1 :]), values[k])


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "clip_gradient"])
def test_derivative(name):
    """g · ∂y/∂a for every argument, at every point; None only where that is 0 or the row is logic."""
    row = OPERATIONS[name]
    found = flows(name)
    assert len(found) == row.arity
    function = DERIVATIVE.get(name, VALUES[name])
    g = mpmath.mpf("0.7310585")
    for values in arguments(name):
        exact = [v if isinstance(v, bool) else mpmath.mpf(v) for v in values]
        given = dict(enumerate(exact)) | {"g": g}
        for k, (kind, flow) in enumerate(zip(row.arguments, found, strict=True)):
            if kind == "b" or row.boolean:
                assert flow is None
                continue
            with mpmath.workdps(40):
                expected = g * slope(function, exact, k)
                adjoint = mpmath.mpf(0) if flow is None else evaluate(flow, given)
            assert abs(adjoint - expected) <= 4e-16 * abs(expected), (values, k)


@pytest.mark.parametrize(("error", "passed"), [(0.3, 0.3), (-0.3, -0.3), (2.5, 0.7), (-2.5, -0.7)])
def test_clip_gradient_clips_the_error_and_forward_mode_is_the_identity(error, passed):
    row = OPERATIONS["clip_gradient"]
    given = {0: mpmath.mpf(5), 1: mpmath.mpf(0.7), "g": mpmath.mpf(error)}
    flow, none = flows("clip_gradient")
    assert none is None
    assert evaluate(flow, given) == passed
    graph = Graph(OPERATIONS)
    y, a, limit, moved = (graph.node("read", data=k, width="hidden") for k in ("y", 0, 1, "g"))
    assert row.tangent(y, a, limit, moved) == (moved, None)
    assert all(row.tangent is None for name, row in OPERATIONS.items() if name != "clip_gradient")


def test_every_row_is_tried():
    assert set(VALUES) == set(OPERATIONS)
    assert all(len(arguments(name)) >= 2 for name in OPERATIONS)


def test_a_wrong_rule_is_caught(monkeypatch):
    row = OPERATIONS["tanh"]
    wrong = type(row)(**{**vars(row), "derivative": lambda y, a, g: (g * (1 - y * y) * 1.000001,)})
    monkeypatch.setitem(OPERATIONS, "tanh", wrong)
    with pytest.raises(AssertionError):
        test_derivative("tanh")


@pytest.mark.parametrize("library", ["torch", "numpy"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_value(name, library):
    """The function that the row names in each library, in float64, to 2 units in the last place."""
    tries = arguments(name)
    columns = [np.array(column) for column in zip(*tries, strict=True)]
    found = apply(name, *(map(torch.tensor, columns) if library == "torch" else columns))
    for values, value in zip(tries, found.tolist(), strict=True):
        with mpmath.workdps(40):
            expected = VALUES[name](*(v if isinstance(v, bool) else mpmath.mpf(v) for v in values))
            assert type(value) is type(expected) or isinstance(value, float)
            assert abs(value - expected) <= 4.5e-16 * abs(expected), values


@pytest.mark.parametrize("name", ["minimum", "maximum"])
def test_at_a_tie_the_error_flows_once(name):
    given = {0: mpmath.mpf(1), 1: mpmath.mpf(1), "g": mpmath.mpf(3)}
    assert sum(evaluate(flow, given) for flow in flows(name)) == 3


@pytest.mark.parametrize("name", ["relu", "abs"])
def test_at_the_kink_no_error_flows_as_in_torch(name):
    assert evaluate(flows(name)[0], {0: mpmath.mpf(0), "g": mpmath.mpf(3)}) == 0
