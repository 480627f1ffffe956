"""Prints pointwise values as C++ or CUDA C++. A closed table: what it does not know, it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from throughtime.codegen.phases import Phase, arguments
from throughtime.symbolic.functions import OPERATIONS
from throughtime.symbolic.graph import Node

if TYPE_CHECKING:
    from throughtime.codegen.source import Source


class Printer:
    """The statements of one phase's pointwise part. Each value that is used more than once, or has a name, is one
    `const auto name = ...;`; the others stand inside the expression that uses them."""

    def __init__(self, source: Source, phase: Phase) -> None:
        self.source, self.phase = source, phase
        self.lines: list[str] = []
        self._uses: dict[int, int] = {}
        self._written: dict[int, str] = {}
        self._nets = {n.index: k for k, n in enumerate(phase.nets)}

    def count(self, delivered: list[Node]) -> None:
        """Counts how often each value that is needed is used, so that a single use can stand inside its user."""
        made = {n.index for n in self.phase.values}
        stack = list(delivered)
        while stack:
            node = stack.pop()
            self._uses[node.index] = self._uses.get(node.index, 0) + 1
            if self._uses[node.index] == 1 and node.index in made:
                stack += arguments(node, self.phase)

    def define(self, node: Node) -> None:
        """Writes the value's statement, unless it is to stand inside its only user."""
        uses = self._uses.get(node.index, 0)
        if uses > 1 or (uses == 1 and node.label is not None):
            name = self.source.names[node.index]
            self.lines.append(f"const auto {name} = {self._expression(node)};")
            self._written[node.index] = name

    def value(self, node: Node) -> str:
        written = self._written.get(node.index)
        if written is not None:
            return written
        if node.op == "const":
            return f"tt::splat<T>({_number(node.data, self.source.target)})"
        if any(v is node for v in self.phase.values):
            return self._expression(node)
        fetched = self.source.fetch(node, self.phase)
        if self._uses.get(node.index, 0) > 1 and node.op not in ("time", "size"):
            name = self.source.names[node.index]
            self.lines.append(f"const auto {name} = {fetched};")
            self._written[node.index] = name
            return name
        return fetched

    def _expression(self, node: Node) -> str:
        if node.index in self._nets:
            return f"at.net({self._nets[node.index]})"
        if node.op == "spread":
            return self.value(node.args[0])
        fused = self._fused(node)
        if fused is not None:
            return fused
        if node.op not in OPERATIONS:
            raise NotImplementedError(f"the C++ printer has no spelling for {node.op!r}")
        args = [self.value(a) for a in node.args]
        written = OPERATIONS[node.op].spelling(self.source.target).format(*args, zero="tt::splat<T>(0)")
        return written if written.startswith("(") else f"tt::{written}"

    def _fused(self, node: Node) -> str | None:
        """a * b + c in one rounding, where the product has no other use: the choice is ours, not the compiler's."""
        if node.op not in ("add", "sub"):
            return None
        for k in (1, 0) if node.op == "sub" else (0, 1):
            product, other = node.args[k], node.args[1 - k]
            alone = self._uses.get(product.index, 0) == 1 and product.index not in self._written
            if product.op == "mul" and alone and any(v is product for v in self.phase.values):
                a, b = (self.value(v) for v in product.args)
                c = self.value(other)
                if node.op == "add":
                    return f"tt::fma({a}, {b}, {c})"
                return f"tt::fma(-{a}, {b}, {c})" if k == 1 else f"tt::fma({a}, {b}, -{c})"
        return None


def _number(value: float, target: str) -> str:
    """A literal that names exactly this double; infinities and NaN have no literal and no place in an equation."""
    if value not in (float("inf"), float("-inf")):
        return f"T({value!r})"
    endless = "tt::infinity<T>()" if target == "cuda" else "__builtin_inf()"
    return f"T({'-' if value < 0 else ''}{endless})"
