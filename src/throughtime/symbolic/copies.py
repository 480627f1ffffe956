"""Passes copied into graphs of their own, and names that their derivatives can bear."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import count

from throughtime.symbolic.functions import OPERATIONS
from throughtime.symbolic.graph import Graph, Node, Width, rebuild
from throughtime.symbolic.program import Carry, Read, Recurrence, Sum, Write


def copied(recurrence: Recurrence) -> Recurrence:
    """The recurrence in a graph of its own: derivatives are built beside the values they belong to."""
    graph = Graph(OPERATIONS)
    leaves = [r.node for r in recurrence.reads] + [c.seen for c in recurrence.carries]
    made = rebuild([*leaves, *recurrence.nodes], graph, {})  # all of them, to keep the author's order
    return replace(
        recurrence,
        graph=graph,
        carries=tuple(Carry(c.name, made[c.seen.index], made[c.next.index]) for c in recurrence.carries),
        reads=tuple(replace(r, node=made[r.node.index]) for r in recurrence.reads),
        writes=tuple(replace(w, node=made[w.node.index]) for w in recurrence.writes),
        sums=tuple(replace(s, node=made[s.node.index]) for s in recurrence.sums),
    )


def new_read(graph: Graph, wished: str, width: Width) -> Node:
    """A leaf of its own: in high derivatives two arrays may have blocks of one name."""
    taken = {n.data for n in graph.nodes if n.op == "read"}
    while wished in taken:
        wished += "_"
    return graph.node("read", data=wished, width=width)


def copied_reads(blocks: Iterable[Read | Write], target: Graph) -> tuple[list[Read], dict[int, Node]]:
    """Blocks of a pass that has run, as reads of another: the reads, and which value each stands for."""
    reads: list[Read] = []
    moved: dict[int, Node] = {}
    for block in blocks:
        name = f"{block.array}.{block.name}" if "saved" in block.array else block.name
        read = new_read(target, name, block.node.width)
        read.label = block.node.label
        moved.setdefault(block.node.index, read)
        reads.append(Read(block.array, block.name, read, block.per if isinstance(block, Read) else "time"))
    return reads, moved


def widened(value: Node, like: Node, graph: Graph) -> Node:
    """The value in the width of another: a number for each sequence stands for all its units."""
    return value if value.width == like.width else graph.node("spread", (value,), width=like.width)


def fresh_name(wished: str, recurrence: Recurrence) -> str:
    """A name for an array that the recurrence does not use: the adjoint of an adjoint keeps values of its own."""
    taken = _arrays(recurrence)
    while wished in taken:
        wished += "_"
    return wished


def fresh_prefix(letters: str, recurrence: Recurrence) -> str:
    """What the derivatives by this recurrence's arrays are named with: "d_", or "d2_", ... where it is itself derived
    and such names are taken."""
    taken = _arrays(recurrence)
    taken |= {fresh_name("saved", recurrence)}
    for order in count(1):
        prefix = f"{letters}_" if order == 1 else f"{letters}{order}_"
        if not any(prefix + array in taken for array in taken):
            break
    return prefix


def _arrays(recurrence: Recurrence) -> set[str]:
    blocks: list[Read | Write | Sum] = [*recurrence.reads, *recurrence.writes, *recurrence.sums]
    return {block.array for block in blocks}
