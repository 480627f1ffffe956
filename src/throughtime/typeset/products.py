"""Chains of products and quotients as one product: a sign, a number, factors above and below the line."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field

from throughtime.symbolic.graph import Node


@dataclass
class Product:
    """(-1 if `negative`) · `number` · Π `upper` / Π `lower`."""

    negative: bool = False
    number: float = 1.0
    upper: list[Node] = field(default_factory=list)
    lower: list[Node] = field(default_factory=list)


def is_mean(node: Node) -> bool:
    """Whether the value is Σ v / size."""
    return node.op == "div" and node.args[0].op == "total" and node.args[1].op == "size"


def summed(node: Node) -> Node | None:
    """v of a sum or a mean over the units of v."""
    if node.op == "total":
        return node.args[0]
    return node.args[0].args[0] if is_mean(node) else None


def product_of(value: Node, named: Container[int], defining: bool = False) -> Product:
    """The value as a product; a value whose index is in `named` is one factor, itself only if it is not `defining`."""
    found = Product()

    def gather(node: Node, up: bool) -> None:
        if node.index not in named or (defining and node is value):
            if node.op == "const" and node.data != 0:
                found.negative ^= node.data < 0
                found.number *= abs(node.data) if up else 1 / abs(node.data)
                return
            if node.op in ("mul", "div") and not is_mean(node):
                gather(node.args[0], up)
                gather(node.args[1], up if node.op == "mul" else not up)
                return
            if node.op == "neg":
                found.negative ^= True
                gather(node.args[0], up)
                return
            if node.op == "spread":
                gather(node.args[0], up)
                return
            inner = summed(node)
            if inner is not None:  # the sum of -v is minus the sum of v: `Speller` prints that of v
                found.negative ^= product_of(inner, named).negative
        (found.upper if up else found.lower).append(node)

    gather(value, True)
    return found


def chain(factors: list[Node], spell: Callable[[Node, bool, int], str], times: Callable[[bool], str]) -> str:
    """Factors side by side, equal ones as a power. `spell(factor, alone, power)`; `times(with a number per
    sequence)`: the sign between."""
    counts: dict[int, int] = {}
    for f in factors:
        counts[f.index] = counts.get(f.index, 0) + 1
    distinct = list({f.index: f for f in factors}.values())
    spelled = ""
    for k, f in enumerate(distinct):
        spelled += times(1 in (f.width, distinct[k - 1].width)) if k else ""
        spelled += spell(f, len(distinct) == 1, counts[f.index])
    return spelled
