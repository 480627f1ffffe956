"""What the forward pass keeps for the backward pass: the fewest bytes that need no product to be repeated.

A value is available to the backward pass if it was kept or if all its arguments are available and it is no product.
The cheapest set that makes every needed value available is a minimum vertex cut between what cannot be recomputed
(reads, carries, products) and what is needed.
"""

from __future__ import annotations

from collections import deque

from throughtime.symbolic.graph import Node
from throughtime.symbolic.program import Recurrence

_ENDLESS = 10**9
_VECTOR, _SCALAR = 100, 1  # relative sizes: the widths themselves are not known yet
_FIXED = frozenset({"linear", "total", "read", "carry"})  # not recomputed: products, reductions, inputs
_FREE = frozenset({"const", "time", "size", "noise"})


def choose_saved(recurrence: Recurrence, needed: set[int], vectors: list[Node]) -> list[Node]:
    """The values to keep, in graph order: `vectors` (they enter the matrix gradients), and a minimum cut for `needed`
    (indices of forward values that the backward pass uses)."""
    nodes = recurrence.nodes
    kept_anyway = {v.index for v in vectors} | {w.node.index for w in recurrence.writes}
    # An array that is read stays in memory with its owner, except the input product, which is made for this pass.
    kept_anyway |= {r.node.index for r in recurrence.reads if r.array != "net"}
    source, sink = -1, -2
    capacity: dict[int, dict[int, int]] = {}

    def edge(a: int, b: int, size: int) -> None:
        capacity.setdefault(a, {})[b] = size
        capacity.setdefault(b, {}).setdefault(a, 0)

    for node in nodes:
        if node.op in _FREE:
            continue
        entry, leave = 2 * node.index, 2 * node.index + 1
        cost = 0 if node.index in kept_anyway else _VECTOR if node.width != 1 else _SCALAR
        edge(entry, leave, _ENDLESS if node.boolean else cost)
        if node.op in _FIXED:
            edge(source, entry, _ENDLESS)
        else:
            for arg in node.args:
                if arg.op not in _FREE:
                    edge(2 * arg.index + 1, entry, _ENDLESS)
        if node.index in needed:
            edge(leave, sink, _ENDLESS)
    _saturate(capacity, source, sink)
    near = _reaching(capacity, sink)
    cut = {n.index for n in nodes if 2 * n.index + 1 in near and 2 * n.index not in near}
    cut |= {v.index for v in vectors}
    return [n for n in nodes if n.index in cut]


def _saturate(capacity: dict[int, dict[int, int]], source: int, sink: int) -> None:
    """Edmonds and Karp 1972: pushes flow along shortest paths until none is left; `capacity` becomes the residual."""
    while True:
        before: dict[int, int] = {source: source}
        queue = deque([source])
        while queue and sink not in before:
            here = queue.popleft()
            for there, room in capacity.get(here, {}).items():
                if room > 0 and there not in before:
                    before[there] = here
                    queue.append(there)
        if sink not in before:
            return
        path = []
        here = sink
        while here != source:
            path.append((before[here], here))
            here = before[here]
        flow = min(capacity[a][b] for a, b in path)
        for a, b in path:
            capacity[a][b] -= flow
            capacity[b][a] += flow


def _reaching(capacity: dict[int, dict[int, int]], sink: int) -> set[int]:
    """Every vertex from which the sink can still be reached: the cut nearest to it recomputes least."""
    back: dict[int, list[int]] = {}
    for a, row in capacity.items():
        for b, room in row.items():
            if room > 0:
                back.setdefault(b, []).append(a)
    found = {sink}
    stack = [sink]
    while stack:
        for a in back.get(stack.pop(), []):
            if a not in found:
                found.add(a)
                stack.append(a)
    return found
