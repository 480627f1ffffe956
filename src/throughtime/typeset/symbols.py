"""The letters of formulas: every name as text and as LaTeX, in torch's letters or the tutorial's.

torch: W_ir x_t + b_ir + W_hr h_{t-1} + b_hr, as in the documentation of torch.nn. tutorial: U_r x_t + W_r s_{t-1} +
b_r, where the first state is s. In both, δ is the error of a pre-activation, ∂E/∂net.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal

from throughtime.symbolic.graph import Node
from throughtime.symbolic.program import matrix_name
from throughtime.typeset.derivation import Derivation, Name, input_matrix

Notation = Literal["torch", "tutorial"]
WIDTHS = {"hidden": "H", "input": "I", "projection": "P"}


@dataclass(frozen=True)
class Symbol:
    """One name in both spellings."""

    text: str
    latex: str

    @property
    def transposed(self) -> Symbol:
        return Symbol(
            f"{self.text}ᵀ", f"{{{self.latex}}}^{{\\top}}" if "^" in self.latex else f"{self.latex}^{{\\top}}"
        )


def letter(name: str) -> str:
    """A name in LaTeX: one letter is set in italics, a word upright."""
    if len(name) == 1:
        return f"\\{unicodedata.name(name).split()[-1].lower()}" if _is_small_greek(name) else name
    return f"\\mathrm{{{name.replace('_', chr(92) + '_')}}}"


def _is_small_greek(character: str) -> bool:
    return unicodedata.name(character, "").startswith("GREEK SMALL LETTER ") and character != "ο"


class Symbols:
    """The letters of one cell's formulas."""

    def __init__(self, derivation: Derivation, notation: Notation, biases: int) -> None:
        self._derivation, self._tutorial, self._biases = derivation, notation == "tutorial", biases
        states = [s.name for s in derivation.equation.states]
        self._renamed = {states[0]: "s"} if self._tutorial and "s" not in states else {}
        self._vectors = self._matrix_vectors()

    def value(self, name: str, when: str = "t", number: int = 1) -> Symbol:
        """A value of the step, at the time `when`: "t", "t-1" or "" for what does not change."""
        name = self._renamed.get(name, name)
        primes = number - 1
        base, _, below = name.partition("_") if not name.startswith("_") else (name, "", "")
        text = name + "′" * primes
        lower = ",".join(part for part in (letter(below) if below else "", when) if part)
        latex = letter(base) + "'" * primes + (f"_{{{lower}}}" if lower else "")
        return Symbol(text if not when else f"{text}_t" if when == "t" else f"{text}_{{{when}}}", latex)

    def of(self, name: Name) -> Symbol:
        """What a line defines, or a named value."""
        which = "" if self._derivation.single_map else name.of
        primes = name.number - 1
        match name.kind:
            case "value":
                return self.value(name.of, number=name.number)
            case "net":
                return _raised("net", r"\mathrm{net}", which, primes)
            case "delta":
                return _raised("δ", r"\delta", which, primes)
            case "helper":
                return Symbol(f"u{name.of}_t", f"u_{{{name.of},t}}")
            case "error":
                inner = self.value(name.of, number=name.number)
                return Symbol(f"∂E/∂{inner.text}", rf"\frac{{\partial E}}{{\partial {inner.latex}}}")
            case "above":
                return Symbol("e↓_t", r"e^{\downarrow}_{t}")
            case "below":
                return Symbol("e↓^{l-1}_t", r"e^{\downarrow, l-1}_{t}")
            case "later":
                state = self.value(name.of, "")
                several = len(self._derivation.equation.states) > 1
                return self._later(state if several else Symbol("", ""), "t")
            case "matrix":
                return self._by_weight(self.matrix(name.of))
            case "bias":
                return self._by_weight(self.biases(name.of))
            case "weight":
                return self._by_weight([self.value(name.of, "")])

    def earlier(self, state: str) -> Symbol:
        """The horizontal error as it arrives at the step before."""
        several = len(self._derivation.equation.states) > 1
        return self._later(self.value(state, "") if several else Symbol("", ""), "t-1")

    def _later(self, state: Symbol, when: str) -> Symbol:
        text = f"e←{state.text}_t" if when == "t" else f"e←{state.text}_{{{when}}}"
        return Symbol(text, rf"e^{{\leftarrow {state.latex}}}_{{{when}}}".replace("arrow }", "arrow}"))

    def _by_weight(self, weights: list[Symbol]) -> Symbol:
        return Symbol(
            " = ".join(f"∂E/∂{w.text}" for w in weights),
            " = ".join(rf"\frac{{\partial E}}{{\partial {w.latex}}}" for w in weights),
        )

    def matrix(self, name: str) -> list[Symbol]:
        """The matrix of one vector in one map, as a list of one."""
        map, source = self._vectors[name]
        if self._tutorial:
            base = "U" if source == "i" else "W" if source == "h" else f"W{source}"
            return [_lowered(base[0], [base[1:], "" if self._derivation.single_map else map])]
        return [_lowered("W", [source, "h" if self._derivation.single_map else map])]

    def biases(self, map: str) -> list[Symbol]:
        """The bias of a map; two where the cell keeps torch's two."""
        which = "" if self._derivation.single_map else map
        if self._tutorial:
            return [_lowered("b", [which])]
        if self._biases == 1:
            return [_lowered("b", [which or "h"])]
        sides = ["i" * any(input_matrix(map) == m for m in self._vectors)]
        sides += ["h" * any(m.startswith(f"{map}.") and m != input_matrix(map) for m in self._vectors)]
        return [_lowered("b", [side, which or "h"]) for side in sides if side]

    def _matrix_vectors(self) -> dict[str, tuple[str, str]]:
        """Matrix -> its map, and a letter for the vector it multiplies: i input, h the state or what stands in for it;
        where a map has several such vectors, each one's own name."""
        found: dict[str, tuple[str, str]] = {}
        for use in self._derivation.uses.values():
            others = [v for m, v in use.terms if m != input_matrix(use.map)]
            for k, (matrix, vector) in enumerate(use.terms):
                source = "i" if matrix == input_matrix(use.map) else "h" if len(others) == 1 else self._source(vector)
                if source is None:
                    source = str(k + 1)
                found.setdefault(matrix, (use.map, source))
        return found

    def _source(self, vector: Node) -> str | None:
        if vector.op == "carry":
            return str(vector.data)
        name = self._derivation.names.get(vector.index)
        return None if name is None else name.of + "′" * (name.number - 1)

    def leaf(self, node: Node) -> Symbol:
        """What a step is given: x, the states before it, weights, noise, signals, the time, sizes."""
        match node.op:
            case "carry":
                return self.value(str(node.data), "t-1")
            case "read":
                name = str(node.data).removeprefix("signal.")
                read = next((r for r in self._derivation.recurrence.reads if r.node is node), None)
                if node is self._derivation.x:
                    name = str(self._derivation.equation.input.data)
                return self.value(name, "" if read is not None and read.per == "unit" else "t")
            case "noise":
                stream, fixed = node.data
                return self.value(f"noise_{stream}", "" if fixed else "t")
            case "time":
                return Symbol("t", "t")
            case _:
                width = WIDTHS.get(node.data, str(node.data))
                return Symbol(width, width)


def _raised(text: str, latex: str, map: str, primes: int) -> Symbol:
    above = map + "′" * primes
    if not above:
        return Symbol(f"{text}_t", f"{latex}_{{t}}")
    marks = r"\prime" * primes
    return Symbol(f"{text}^{above}_t", f"{latex}^{{{letter(map) if map else ''}{marks}}}_{{t}}")


def _lowered(base: str, parts: list[str]) -> Symbol:
    below = "".join(parts)
    if not below:
        return Symbol(base, base)
    # Letters stand side by side as in torch's documentation; a word is set off by a comma.
    comma = "," if len(parts) == 2 and any(len(p.rstrip("′")) > 1 for p in parts) and all(parts) else ""
    spelled = comma.join(letter(p.rstrip("′")) + "'" * p.count("′") for p in parts if p)
    return Symbol(f"{base}_{comma.join(p for p in parts if p)}", f"{base}_{{{spelled}}}")


__all__ = ["Notation", "Symbol", "Symbols", "letter", "matrix_name"]
