"""Every misuse of the language is answered by one sentence that quotes what was written."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import throughtime as tt
from throughtime import affine, noise, sigmoid, tanh, weight, where
from throughtime.symbolic.equation import trace


def told(step, **fields):
    """What the author of this step is told."""
    cell = type("Mine", (tt.Cell,), {"step": step, **fields})()
    with pytest.raises(tt.EquationError) as caught:
        trace(cell)
    message = str(caught.value)
    assert "\n" not in message
    return message


def unknown_function(self, x, h):
    return sigmiod(affine("f", x, h))  # noqa: F821


def unknown_word(self, x, h):
    return affine("f", x, h) * gamma  # noqa: F821


def python_if(self, x, h):
    if h > 0:
        return x
    return tanh(affine("f", x, h))


def same_name(self, x, h):
    f = sigmoid(affine("f", x, h))
    return f * tanh(affine("f", x, f * h))


def shared_widths(self, x, h):
    low = affine("low", h, size=3)
    return affine("f", h, shared=True) + affine("f", low, shared=True)


def unused(self, x, h):
    gate = sigmoid(affine("gate", x, h))  # noqa: F841
    return tanh(affine("f", x, h))


def unused_weight(self, x, h):
    weight("p")
    return tanh(affine("f", x, h))


def two_noises(self, x, h):
    return affine("f", x, where(noise("n", h) > 0.5, h, 0)) + affine("g", where(noise("n", x) > 0.5, x, 0))


def sequence_only(self, *values):
    return affine("f", *values)


def with_option(self, x, h, scale=2.0):
    return scale * affine("f", x, h)


MISUSES = {
    unknown_function: "Mine.step: the symbol 'sigmiod' is not known: did you mean sigmoid? "
    '(from throughtime import sigmoid), in "return sigmiod(affine("f", x, h))  # noqa: F821"',
    unknown_word: "Mine.step: the symbol 'gamma' is not known: import it or define it, "
    'in "return affine("f", x, h) * gamma  # noqa: F821"',
    python_if: 'Mine.step: "h > 0" has no single truth value while the equation is read, so a Python if, while, '
    "and, or cannot depend on it: write where(condition, a, b), and & | ~ between conditions, "
    'in "if h > 0:"',
    same_name: 'Mine.step: the name "f" is used for two affine maps: give each its own name, or say shared=True '
    'in both if they are to share their weights, in "return f * tanh(affine("f", x, f * h))"',
    unused: 'Mine.step computes "affine("gate", x, h)" but no new state depends on it: use it or remove it',
    unused_weight: 'Mine.step computes "weight("p")" but no new state depends on it: use it or remove it',
    sequence_only: "Mine.step(*values) must name the input and every state, and nothing else: "
    "step(self, x, h); options are fields of the cell",
    with_option: "Mine.step(x, h, scale=2.0) must name the input and every state, and nothing else: "
    "step(self, x, h); options are fields of the cell",
    shared_widths: 'Mine.step: affine("f", ...) is shared, but its uses differ in bias or in the widths of '
    'vectors or result, in "return affine("f", h, shared=True) + affine("f", low, shared=True)"',
    two_noises: 'Mine.step: noise("n") is used in two different ways: give each its own name, in "return '
    'affine("f", x, where(noise("n", h) > 0.5, h, 0)) + affine("g", where(noise("n", x) > 0.5, x, 0))"',
}


@pytest.mark.parametrize("step", MISUSES, ids=lambda s: s.__name__)
def test_the_whole_message(step):
    assert told(step) == MISUSES[step]


WORDS = ("affine", "noise", "total", "weight", "where")
# What a one-line step is told, between "Mine.step: " and the quoted line.
SHORT = {
    "affine('f')": 'affine("f", ...) was given no vector: write affine(name, x, h)',
    "affine('f', 2.0)": 'affine("f", ...) was given 2.0, where a vector such as x or h is expected',
    "affine('f', total(h))": 'affine("f", ...) was given "total(h)", where a vector such as x or h is expected',
    "affine('f', h > 0)": 'affine("f", ...) was given "h > 0", where a vector such as x or h is expected',
    "affine('f', h, h)": 'affine("f", ...) was given the same vector twice: one map of it is enough',
    "affine('two words', h)": "an affine map is named 'two words', where a name such as 'f' or 'forget' is expected",
    "affine(x, h)": "an affine map is named x, where a name such as 'f' or 'forget' is expected",
    "affine('hh', h)": 'affine("hh", ...) would be taken for the matrix weight_hh: choose another name',
    "affine('f', h, size=1)": 'affine("f", ...) has the width 1, where "hidden", "input", a number above 1 '
    "or a vector is expected",
    "affine('f', h, size='wide')": 'affine("f", ...) has the width \'wide\', where "hidden", "input", '
    "a number above 1 or a vector is expected",
    "weight('bias')": 'weight("bias") would be taken for a matrix or a bias: choose another name',
    "weight('weight_x')": 'weight("weight_x") would be taken for a matrix or a bias: choose another name',
    "weight('out')": 'weight("out") has a name that the derivation uses itself: choose another name',
    "weight('d_h')": 'weight("d_h") has a name that the derivation uses itself: choose another name',
    "weight('a') * weight('a', init=1.0)": 'weight("a") is declared twice in different ways: give each its own name',
    "weight('a') * total(weight('a', x))": 'weight("a") is declared twice in different ways: give each its own name',
    "weight('a', total(h))": 'weight("a") has the width "total(h)", where "hidden", "input", a number above 1 '
    "or a vector is expected",
    "weight('a', init='one')": "weight(\"a\") has the first value 'one', where a number is expected",
    "noise('n', total(h))": 'noise("n") has the width "total(h)", where "hidden", "input", a number above 1 '
    "or a vector is expected",
    "x + h": 'add puts "x" [input] and "h" [hidden] together: their widths differ, so map one of them with '
    "affine(name, vector, size=...)",
    "where(x > 0, h, 0)": 'where puts "x > 0" [input] and "h" [hidden] together: their widths differ, so map one '
    "of them with affine(name, vector, size=...)",
    "(h > 0) * h": '"h > 0" stands in mul where the language expects a number: write where(condition, 1, 0)',
    "where(h, h, 0)": '"h" stands in where where the language expects a condition such as a > b',
    "where(True, h, 0)": "where was given True, where a condition on values such as a > b is expected",
    "total(3.0 * total(h))": 'total was given "3 * total(h)", where a vector is expected',
    "h ** 1.5": '"(h) ** 1.5" is not in the language: write ** with a whole number from 1 to 8 or 0.5, '
    "or use exp and log",
    "h ** 0": '"(h) ** 0" is not in the language: write ** with a whole number from 1 to 8 or 0.5, or use exp and log',
    "h ** h": '"(h) ** h" is not in the language: write ** with a whole number from 1 to 8 or 0.5, or use exp and log',
    "2 ** h": '"2 ** (h)" is not in the language: write exp(log(base) * exponent)',
    "h @ h": '"h @ h" is not in the language: write affine(name, vector) for a learned matrix',
    "where(h == 0, 1, h)": '"h == 0" is not in the language: write > >= < <= between values',
    "where(h != x, 1, h)": '"h == x" is not in the language: write > >= < <= between values',
    "h[0]": '"h[0]" is not in the language: an equation speaks of whole vectors',
    "h[1:]": '"h[slice(1, None, None)]" is not in the language: an equation speaks of whole vectors',
    "sum(h)": '"h" cannot be taken apart: an equation speaks of whole vectors',
    "h / len(h)": '"h" has no Python length: write size(v) for the number of its units',
    "h.tanh()": '"h.tanh" is not in the language: write a function of throughtime, such as tanh(v)',
    "(x * 2 + 1).mean()": '"(x * 2 + 1).mean" is not in the language: write a function of throughtime, such as tanh(v)',
    "h + 'a'": "add was given 'a' (str), where a value of the equation or a number is expected",
    "h + torch.tensor(1.0)": "add was given tensor(1.) (Tensor), where a value of the equation or a number is expected",
    "h * True": "mul was given True (bool), where a value of the equation or a number is expected",
    "h * math.nan": "NaN has no place in an equation: every operation on it would be NaN",
    "torch.tanh(h)": "the step cannot be read as an equation (TypeError: tanh(): argument 'input' (position 1) "
    "must be Tensor, not a value of the equation): write functions of throughtime, such as tanh(v), not of other "
    "libraries",
    "1 / 0": "the step cannot be read as an equation (ZeroDivisionError: division by zero)",
}


@pytest.mark.parametrize("written", SHORT)
def test_one_line(written, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"def step(self, x, h):\n    return {written}\n")
    names = {"math": math, "torch": torch, "np": np, **{n: getattr(tt, n) for n in WORDS}}
    exec(compile(file.read_text(), str(file), "exec"), names)
    assert told(names["step"]) == f'Mine.step: {SHORT[written]}, in "return {written}"'
