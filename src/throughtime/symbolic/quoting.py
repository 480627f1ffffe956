"""Values as their author would write them, for messages and formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from throughtime.symbolic.graph import Node

_INFIX = {
    "add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2), "greater": (">", 0),
    "greater_equal": (">=", 0), "both": ("&", 0), "either": ("|", 0),
}  # fmt: skip


def text(node: Node, level: int = 0, depth: int = 8) -> str:
    """The value as its author would write it; what lies deeper than `depth` operations is shown as …"""
    if depth == 0 and node.args:
        return node.label or "…"

    def inner(arg: Node, own: int = 0) -> str:
        return text(arg, own, depth - 1)

    if node.op in _INFIX:
        sign, own = _INFIX[node.op]
        left, right = node.args
        written = f"{inner(left, own)} {sign} {inner(right, own + 1)}"
        return f"({written})" if own < level else written
    if node.op == "neg":
        return f"-{inner(node.args[0], 3)}"
    if node.op == "const":
        return f"{node.data:g}"
    if node.op in ("input", "state", "read", "carry"):
        return str(node.data)
    if node.op == "affine":
        return f'affine("{node.data[0]}"' + "".join(f", {inner(a)}" for a in node.args) + ")"
    if node.op == "linear":
        matrix, transposed = node.data
        return f"{matrix}{'ᵀ' if transposed else ''} {inner(node.args[0], 3)}"
    if node.op == "weight":
        return f'weight("{node.data}")'
    if node.op == "size":
        return f"size({node.data})"
    if node.op == "signal":
        return f'signal("{node.data}")'
    if node.op == "noise":
        return f'noise("{node.data[0]}")'
    return f"{node.op}({', '.join(inner(a) for a in node.args)})"


def quote(node: Node, most: int = 160) -> str:
    """`text` for a message: as deep as fits in about `most` characters."""
    for depth in (8, 5, 3, 2):
        written = text(node, depth=depth)
        if len(written) <= most:
            return written
    return text(node, depth=1)


def operand(value: Any) -> str:
    """One side of an operator: a value, in parentheses if it needs them, or what stood there instead."""
    if not hasattr(value, "args"):
        return given(value)
    written = text(value, 3, 3)
    return written if len(written) <= 80 else text(value, 3, 1)


def given(value: object) -> str:
    """Whatever a step was given, on one line."""
    written = " ".join(repr(value).split())
    return written if len(written) <= 80 else f"{written[:79]}…"
