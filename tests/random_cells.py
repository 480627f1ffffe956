"""Random cells: steps that nobody would write, made of everything that the language can say.

A recipe is a list of instructions that fill a pool of values; the step reads it again at every call, on symbols and on
tensors alike. Operations that have poles, or grow without bound, are given arguments that keep them tame, so that
rounding stays far below a wrong derivative.
"""

from __future__ import annotations

from random import Random
from typing import Any, ClassVar

import throughtime as tt
from throughtime import affine, maximum, minimum, noise, signal, size, surrogate, time, total, weight, where

UNARY = {
    "tanh": tt.tanh,
    "sigmoid": tt.sigmoid,
    "sin": tt.sin,
    "cos": tt.cos,
    "exp": lambda v: tt.exp(tt.tanh(v)),
    "expm1": lambda v: tt.expm1(tt.sin(v)),
    "log": lambda v: tt.log(1.5 + tt.sin(v)),
    "log1p": lambda v: tt.log1p(tt.sigmoid(v)),
    "sqrt": lambda v: tt.sqrt(0.5 + tt.sigmoid(v)),
    "softplus": lambda v: tt.softplus(tt.tanh(v)),
    "erf": tt.erf,
    "relu": tt.relu,
    "absolute": tt.absolute,
    "sign": lambda v: tt.sign(v) * v,
    "neg": lambda v: -v,
    "square": lambda v: tt.tanh(v) ** 2,
    "gelu": tt.gelu,
    "elu": tt.elu,
    "selu": tt.selu,
    "hard_sigmoid": tt.hard_sigmoid,
    "root": lambda v: tt.sigmoid(v) ** 0.5,
    "clip_gradient": lambda v: tt.clip_gradient(v, 0.3),
}
BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: tt.tanh(a) * b,
    "product": lambda a, b: tt.sin(a * b),
    "div": lambda a, b: a / (1.5 + tt.cos(b)),
    "over": lambda a, b: 1 / (2 + tt.tanh(a + b)),
    "minimum": minimum,
    "maximum": maximum,
    "surrogate": lambda a, b: surrogate(where(a > 0, 1.0, 0.25), tt.tanh(b)) * tt.cos(a),
    "where": lambda a, b: where(a > b, tt.sin(b), 0.5 * a),
    "both": lambda a, b: where((a > -0.5) & ~(b >= 0.3), a, 0.1),
    "either": lambda a, b: where((a < 0.2) | (b <= 0.1), 0.3 * b, a),
}
WIDTHS = ("hidden", "input", 3)

Step = tuple[Any, ...]
"""(kind, detail, numbers of the values it uses, width)."""


class _Random(tt.Cell):
    """Runs a recipe; values 0, 1, ... are x, the states, and then what each instruction made."""

    def __init__(self, recipe: list[Step], results: list[int]) -> None:
        self.recipe, self.results = recipe, results

    def run(self, *given: Any) -> Any:
        values = list(given)
        for number, (kind, detail, used, width) in enumerate(self.recipe):
            values.append(self.value(number, kind, detail, [values[k] for k in used], width))
        new = tuple(tt.tanh(values[k]) for k in self.results)
        return new if len(new) > 1 else new[0]

    def value(self, number: int, kind: str, detail: Any, args: list[Any], width: Any) -> Any:
        if kind == "unary":
            return UNARY[detail](*args)
        if kind == "binary":
            return BINARY[detail](*args)
        if kind == "affine":
            return affine(f"a{number}", *args, size=width, bias=detail)
        if kind == "weight":
            return weight(f"w{number}", width, init=0.5) * args[0]
        if kind == "signal":
            return signal(f"s{number}") * args[0]
        if kind == "noise":
            return where(noise(f"n{number}", args[0], fixed=detail) >= 0.3, args[0], 0.2)
        if kind == "time":
            return where(time() > 0, args[0], tt.sin(time() + args[0]))
        if kind == "total":
            return total(tt.sin(args[0])) if detail else tt.tanh(total(args[0]) / size(args[0]))
        assert kind == "normal"
        centred = args[0] - tt.mean(args[0])
        return centred / tt.sqrt(tt.mean(centred * centred) + 0.5)

    def __repr__(self) -> str:
        lines = "".join(f"\n  {s}," for s in self.recipe)
        return f"{type(self).__name__}([{lines}\n], {self.results})"


class OneState(_Random):
    def step(self, x: Any, h: Any) -> Any:
        return self.run(x, h)


class TwoStates(_Random):
    def step(self, x: Any, h: Any, c: Any) -> Any:
        return self.run(x, h, c)


class OtherWidth(_Random):
    """The second state is three numbers wide."""

    state_widths: ClassVar = {"c": 3}

    def step(self, x: Any, h: Any, c: Any) -> Any:
        return self.run(x, h, c)


def random_cell(rng: Random, most: int = 12) -> tt.Cell:
    """A cell of up to `most` drawn instructions, in which everything that is made is used."""
    kind = rng.choice((OneState, TwoStates, OtherWidth))
    states = {OneState: ["hidden"], TwoStates: ["hidden", "hidden"], OtherWidth: ["hidden", 3]}[kind]
    draft = _Draft(rng, ["input", *states])
    draft.draw("affine")
    for _ in range(rng.randint(1, most - 1)):
        draft.draw(rng.choice(draft.KINDS))
    results = [draft.everything("hidden"), *(draft.pick(width, 1) for width in states[1:])]
    return kind(draft.recipe, results)


class _Draft:
    """A recipe that is being written; `widths` are those of all values so far."""

    KINDS = (
        ("affine",) * 4 + ("unary",) * 2 + ("binary",) * 4 + ("total", "weight", "noise", "time", "signal", "normal")
    )

    def __init__(self, rng: Random, widths: list[Any]) -> None:
        self.rng, self.widths = rng, widths
        self.given = len(widths)
        self.recipe: list[Step] = []

    def pick(self, *allowed: Any) -> int:
        """A value of one of these widths; late ones are likelier, so that expressions grow deep."""
        found = [k for k, w in enumerate(self.widths) if w in allowed]
        return max(self.rng.choice(found), self.rng.choice(found))

    def add(self, what: str, detail: Any, used: list[int], width: Any) -> int:
        self.recipe.append((what, detail, used, width))
        self.widths.append(width)
        return len(self.widths) - 1

    def join(self, names: tuple[str, ...], a: int, b: int) -> int:
        pair = [a, b] if self.rng.random() < 0.5 else [b, a]
        width = self.widths[a] if self.widths[a] != 1 else self.widths[b]
        return self.add("binary", self.rng.choice(names), pair, width)

    def draw(self, what: str) -> None:
        anything = self.pick(*WIDTHS, 1)
        if what == "affine":
            width = self.rng.choice(("hidden", "hidden", "hidden", "input", 3))
            # Two vectors of different widths to a width of its own: see test_recurrent_cells.py.
            most = 2 if width == "hidden" else 1
            used = sorted({self.pick(*WIDTHS) for _ in range(self.rng.randint(1, most))})
            self.add(what, self.rng.random() < 0.5, used, width)
        elif what == "unary":
            self.add(what, self.rng.choice(sorted(UNARY)), [anything], self.widths[anything])
        elif what == "binary":
            self.join(tuple(sorted(BINARY)), anything, self.pick(self.widths[anything], 1))
        else:
            vector = self.pick(*WIDTHS)
            detail = self.rng.random() < 0.5 if what in ("noise", "total") else None
            self.add(what, detail, [vector], 1 if what == "total" else self.widths[vector])

    def everything(self, width: Any) -> int:
        """A value of this width that depends on every value that nothing else depends on."""
        used = {k for _, _, args, _ in self.recipe for k in args}
        loose = [k for k in range(self.given, len(self.widths)) if k not in used]
        parts = [k if self.widths[k] in (width, 1) else self.add("affine", True, [k], width) for k in loose]
        result = parts[0]
        for part in parts[1:]:
            result = self.join(("add", "sub", "mul", "where", "maximum"), result, part)
        return result
