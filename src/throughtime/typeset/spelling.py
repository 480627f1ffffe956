"""Values as formulas: text that reads aloud, LaTeX, and the part of LaTeX that matplotlib draws."""

from __future__ import annotations

from typing import Literal

from throughtime.symbolic.functions import OPERATIONS
from throughtime.symbolic.graph import Node
from throughtime.typeset.derivation import Derivation, Line
from throughtime.typeset.products import Product, chain, product_of, summed
from throughtime.typeset.symbols import Symbol, Symbols

Style = Literal["text", "latex", "mathtext"]
SUM, PRODUCT, POWER, CLOSED = 1, 2, 3, 9
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

Spelled = tuple[str, int]
"""A formula, and how tightly it binds."""


class Speller:
    """Spells the lines of one derivation in one style."""

    def __init__(self, derivation: Derivation, symbols: Symbols, style: Style) -> None:
        self._derivation, self._symbols, self._text = derivation, symbols, style == "text"
        self._cases = style == "latex"
        self._minus = "−" if self._text else "-"
        self._whole = {*derivation.names, *derivation.uses}
        """Values that stand as one factor in a product."""

    def line(self, line: Line) -> tuple[str, str]:
        """The left and the right side."""
        left = [self._symbols.earlier(n.of) if n.kind == "later" else self._symbols.of(n) for n in line.names]
        return self._drawn(" = ".join(map(self._spelled, left))), self._drawn(self._right(line))

    def _drawn(self, spelled: str) -> str:
        """matplotlib sets fractions small unless told otherwise."""
        return spelled if self._text or self._cases else spelled.replace(r"\frac", r"\dfrac")

    def value(self, node: Node, level: int = 0) -> str:
        """A value by its name, or as what it is made of; in parentheses if it binds more loosely than `level`."""
        name = self._derivation.names.get(node.index)
        if name is not None:
            return self._spelled(self._symbols.of(name))
        return _closed(self._made(node), level)

    def _right(self, line: Line) -> str:
        if line.products:
            outer = [f"{self.value(delta, CLOSED)} {self._transposed(vector)}" for delta, vector in line.products]
            inner = " + ".join(outer)
            return self._over_time(f"({inner})" if len(outer) > 1 else inner)
        assert line.value is not None
        if line.over_time:
            return self._over_time(self.value(line.value, PRODUCT))
        defines = self._derivation.names.get(line.value.index) in line.names
        return self._made(line.value)[0] if defines else self.value(line.value)

    def _over_time(self, inner: str) -> str:
        return f"Σ_t {inner}" if self._text else rf"\sum_{{t}} {inner}"

    def _transposed(self, vector: Node) -> str:
        spelled = self.value(vector, CLOSED)
        return f"{spelled}ᵀ" if self._text else f"{{{spelled}}}^{{\\top}}"

    def _spelled(self, symbol: Symbol) -> str:
        return symbol.text if self._text else symbol.latex

    def _made(self, node: Node) -> Spelled:
        """What the value is made of."""
        if node.index in self._derivation.uses:
            return self._map(node)
        match node.op:
            case "const":
                return self._number(node.data)
            case "linear":
                return self._product(node.data[0], node.data[1], node.args[0])
            case "spread":
                return self._unnamed(node.args[0])
            case "mul" | "div" | "neg" | "total":
                product = product_of(node, self._whole, defining=True)
                spelled = self._quotient(product)
                return (f"{self._minus}{_closed(spelled, PRODUCT)}", SUM) if product.negative else spelled
            case "add" | "sub":
                return self._joined(node.op, *node.args)
        if not node.args:
            return self._spelled(self._symbols.leaf(node)), CLOSED
        return self._function(node)

    def _unnamed(self, node: Node) -> Spelled:
        return (self.value(node), CLOSED) if node.index in self._derivation.names else self._made(node)

    def _number(self, value: float) -> Spelled:
        spelled = str(int(value)) if value == int(value) and abs(value) < 1e6 else repr(value)
        mantissa, e, exponent = spelled.partition("e")
        if e and self._text:
            spelled = f"{mantissa}e{int(exponent)}"
        elif e:
            spelled = rf"{mantissa} \cdot 10^{{{int(exponent)}}}".removeprefix(r"1 \cdot ")
        return spelled.replace("-", self._minus, int(value < 0)), SUM if value < 0 else PRODUCT if e else CLOSED

    def _map(self, node: Node) -> Spelled:
        """W x + b_i + R h + b_h, in the author's order."""
        use = self._derivation.uses[node.index]
        biases = [self._spelled(b) for b in self._symbols.biases(use.map)] if use.bias else []
        parts = [self._product(matrix, False, vector)[0] for matrix, vector in use.terms]
        if len(biases) == 2:
            parts.insert(1, biases[0])
        parts += biases[-1:]
        return " + ".join(parts), SUM if len(parts) > 1 else PRODUCT

    def _product(self, matrix: str, transposed: bool, vector: Node) -> Spelled:
        symbol = self._symbols.matrix(matrix)[0]
        spelled = self._spelled(symbol.transposed if transposed else symbol)
        return f"{spelled} {self.value(vector, CLOSED)}", PRODUCT

    def _function(self, node: Node) -> Spelled:
        row, args = OPERATIONS[node.op], node.args
        if row.mark:
            return self._unnamed(args[0])
        if node.op == "where" and not self._cases:
            listed = ", ".join(self.value(a) for a in args)
            return f"where({listed})" if self._text else rf"\mathrm{{where}}({listed})", CLOSED
        pattern = row.latex
        if self._text:
            pattern = row.text or node.op + "(" + ", ".join(f"{{{k}}}" for k in range(row.arity)) + ")"
        inner = 0 if row.level == CLOSED else row.level + 1
        return pattern.format(*(self.value(a, inner) for a in args)), row.level

    def _joined(self, op: str, a: Node, b: Node) -> Spelled:
        """a + b or a - b; a minus before b becomes that of the sum."""
        product = product_of(b, self._whole)
        if op == "add" and a is b:
            product.number *= 2.0
            return f"{self._minus if product.negative else ''}{self._quotient(product)[0]}", SUM
        if op == "add" and a.op == "add" and a.index not in self._whole and a.args[1] is b:  # v + b + b
            a, product.number = a.args[0], 2 * product.number
            right = self._quotient(product)
            op = "sub" if product.negative else op
        elif product.negative:
            op = "add" if op == "sub" else "sub"
            right = self._quotient(product)
        else:
            right = self._unnamed(b)
        pattern = OPERATIONS[op].text if self._text else OPERATIONS[op].latex
        return pattern.format(self.value(a, SUM), _closed(right, PRODUCT if op == "sub" else SUM)), SUM

    def _quotient(self, product: Product) -> Spelled:
        """The product without its sign."""
        upper, lower = self._chain(product.upper), self._chain(product.lower)
        level = CLOSED if self._single(product) else PRODUCT
        if level == CLOSED:
            return self._factor(product.upper[0], 0), self._factor_level(product.upper[0])
        if product.number != 1.0 or not product.upper:
            upper = self._number(product.number)[0] + (" " if self._text else r"\,") * bool(upper) + upper
        if not product.lower:
            return upper, level
        if not self._text:
            return rf"\frac{{{upper}}}{{{lower}}}", level
        return f"{upper} / {f'({lower})' if len(set(product.lower)) > 1 else lower}", level

    def _single(self, product: Product) -> bool:
        return product.number == 1.0 and len(product.upper) == 1 and not product.lower

    def _chain(self, factors: list[Node]) -> str:
        def spell(node: Node, alone: bool, power: int) -> str:
            base = self._factor(node, CLOSED if power > 1 else POWER)
            if power == 1:
                return base
            return base + str(power).translate(SUPERSCRIPTS) if self._text else f"{{{base}}}^{{{power}}}"

        def times(scalar: bool) -> str:
            if self._text:
                return " · " if scalar else " ⊙ "
            return r" \cdot " if scalar else r" \odot "

        return chain(factors, spell, times)

    def _factor(self, node: Node, level: int) -> str:
        """One factor: a sum's sign is the product's; a matrix product stands in parentheses, for its vector would seem
        to be the whole rest."""
        inner = None if node.index in self._whole else summed(node)
        if inner is None:
            return self.value(node, level)
        product = product_of(inner, self._whole)
        spelled = self._quotient(product)[0] if product.negative else self.value(inner)
        word = "sum" if node.op == "total" else "mean"
        return f"{word}({spelled})" if self._text else rf"\mathrm{{{word}}}({spelled})"

    def _factor_level(self, node: Node) -> int:
        if node.index in self._derivation.names:
            return CLOSED
        return CLOSED if summed(node) is not None else self._made(node)[1]


def _closed(spelled: Spelled, level: int) -> str:
    text, own = spelled
    return text if own >= level else f"({text})"
