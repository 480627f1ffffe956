"""What a step may return, share, remember and say outside of one line; bounds of what a message quotes."""

from __future__ import annotations

import time as clock
from typing import ClassVar

import numpy as np
import pytest
import torch

import throughtime as tt
from test_language import told
from throughtime import affine, noise, sigmoid, tanh, weight, where
from throughtime.symbolic.equation import trace


def python_and(self, x, h):
    return where(h > 0 and h < 1, affine("f", x, h), h)


def python_or(self, x, h):
    return where(h > 0 or h < 1, affine("f", x, h), h)


def chained(self, x, h):
    return where(0 < h < 1, affine("f", x, h), h)


def shared_in_one(self, x, h):
    f = sigmoid(affine("f", h, shared=True))
    return f * tanh(affine("f", f))


def shared_bias(self, x, h):
    return affine("f", h, shared=True) + affine("f", tanh(h), bias=False, shared=True)


def shared_input(self, x, h):
    return affine("f", x, shared=True) + affine("f", tanh(x), shared=True)


RESULTS = {
    "None": "Mine.step returns nothing: return the new value of every state (h, c)",
    "h": "Mine.step returns 1 value for 2 states (h, c): return the new value of every state, in the order "
    "step takes them",
    "(h, c, h)": "Mine.step returns 3 values for 2 states (h, c): return the new value of every state, in the order "
    "step takes them",
    "(h, None)": "Mine.step gives the state c no new value: return it",
    "(h, [c])": "Mine.step: the new c was given [c] (list), where a value of the equation or a number is expected",
    "(h, h > 0)": 'Mine.step returns the condition "h > 0" for the state c: write where(condition, 1, 0)',
    "(x, c)": 'Mine.step returns "x" [input] for the state h [hidden]: their widths differ, so map it with '
    "affine(name, vector, size=...)",
}


@pytest.mark.parametrize("result", RESULTS)
def test_what_a_step_returns(result):
    assert told(lambda self, x, h, c: eval(result)) == RESULTS[result]


def test_a_value_of_another_trace_is_refused():
    kept = []

    def step(self, x, h):
        kept.append(h)
        return tanh(affine("f", x, kept[0]))

    cell = type("Mine", (tt.Cell,), {"step": step})()
    trace(cell)
    for message in (
        'Mine.step: "h" belongs to another equation: use only this step\'s own values, '
        'in "return tanh(affine("f", x, kept[0]))"',
    ):
        with pytest.raises(tt.EquationError) as caught:
            trace(cell)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    "use", ["kept + h", "affine('f', kept)", "kept", "weight('p', kept) * h", "tt.total(kept) * h"]
)
def test_a_leaked_value_never_passes(use):
    leaked = []
    trace(type("Other", (tt.Cell,), {"step": lambda self, x, h: leaked.append(h) or affine("f", x, h)})())
    step = eval(f"lambda self, x, h: {use}", {**globals(), "kept": leaked[0]})
    assert "belongs to another equation" in told(step)


def test_maps_are_shared_where_both_uses_say_so():
    class Twice(tt.Cell):
        def step(self, x, h):
            inner = tanh(affine("f", x, h, shared=True))
            return tanh(affine("f", x, inner, shared=True))

    layer = tt.Recurrent(Twice(), 3, 4)
    assert {n: tuple(p.shape) for n, p in layer.named_parameters()} == {
        "weight_ih_l0": (4, 3),
        "weight_hh_l0": (4, 4),
        "bias_l0": (4,),
    }
    assert 'the name "f" is used for two affine maps' in told(shared_in_one)
    assert "is shared, but its uses differ" in told(shared_bias)
    assert "is shared, but its uses differ" in told(shared_input)


@pytest.mark.parametrize("step", [python_and, python_or, chained])
def test_conditions_are_joined_by_operators_of_the_language(step):
    assert "and & | ~ between conditions" in told(step)


@pytest.mark.parametrize(
    "thing", [None, tt.cells.Elman, tt.Cell(), torch.nn.RNN(1, 1)], ids=["None", "a class", "no step", "a module"]
)
def test_what_is_no_cell(thing):
    with pytest.raises(tt.EquationError, match=r"is no cell: a cell is an instance of a tt.Cell subclass"):
        trace(thing)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"state_widths": {"c": 3}}, "Mine.state_widths names 'c', which is no state of its step"),
        (
            {"state_widths": {"h": 1}},
            'Mine.state_widths gives h the width 1, where "hidden", "input" or a number above 1 is expected',
        ),
        ({"biases": 3}, "Mine.biases is 3, where 1 or 2 is expected"),
    ],
)
def test_declarations(fields, message):
    assert told(lambda self, x, h: tanh(affine("f", x, h)), **fields) == message


@pytest.mark.parametrize(
    "word",
    [
        lambda: affine("f", 1),
        lambda: weight("p"),
        lambda: tt.time(),
        lambda: noise("n"),
        lambda: tt.training(),
    ],
)
def test_words_mean_nothing_outside_a_step(word):
    with pytest.raises(
        tt.EquationError, match=r"has a meaning only inside a cell's step: give the cell to tt.Recurrent"
    ):
        word()


def test_an_unknown_activation_lists_the_known_ones():
    with pytest.raises(tt.EquationError, match=r"activation 'tahn' is not known: choose one of tanh, relu, sigmoid"):
        trace(tt.cells.Elman("tahn"))


def test_a_huge_equation_is_quoted_in_bounded_time_and_text():
    def huge(self, x, h):
        for _ in range(250):
            h = where(h > 0, tanh(h) * h, sigmoid(h + h))
        return affine("f", x, x + h)

    start = clock.perf_counter()
    message = told(huge)
    assert clock.perf_counter() - start < 2
    assert len(message) < 600
    assert "…" in message and 'in "return affine("f", x, x + h)"' in message


def test_numbers_of_numpy_are_numbers():
    class Scaled(tt.Cell):
        def step(self, x, h):
            return np.float32(0.5) * tanh(affine("f", x, h)) + np.sqrt(4.0) * h - np.int64(1) * h

    equation = trace(Scaled())
    assert str(equation.states[0].new) == '0.5 * tanh(affine("f", x, h)) + 2 * h - h'


def test_options_and_python_control_flow_are_free():
    class Choosy(tt.Cell):
        rounds: ClassVar = 2

        def step(self, x, h):
            for k in range(self.rounds):
                h = tanh(affine(f"f{k}", x, h))
            return h if self.rounds else x

    assert [a.name for a in trace(Choosy()).affines] == ["f0", "f1"]
