"""Orders one step of a recurrence into phases that a kernel can run one after the other.

A phase makes its products for all units, then its pointwise values unit by unit. A value that needs another unit's
value (a product of something computed in this step, a sum over units) starts a later phase. Nothing here knows about
cells: the phases are found from what each value needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from throughtime.symbolic.graph import LEAVES, Node, Width
from throughtime.symbolic.program import Recurrence


@dataclass(frozen=True)
class Product:
    """Nets of one phase that are products with the same vectors: net n = Σ over k of factors[n][k] · vectors[k]."""

    vectors: tuple[Node, ...]
    nets: tuple[Node, ...]
    factors: tuple[tuple[tuple[str, bool], ...], ...]


@dataclass
class Phase:
    """Products, then pointwise values of one width, in order; then sums over units of some of them."""

    width: Width
    products: list[Product] = field(default_factory=list)
    values: list[Node] = field(default_factory=list)
    totals: list[Node] = field(default_factory=list)

    @property
    def nets(self) -> list[Node]:
        return [n for p in self.products for n in p.nets]


@dataclass(frozen=True)
class Schedule:
    """The phases in order. `buffers`: values that a later phase, or a product, reads from a row buffer.
    `ends[k]` is the phase in which root k of the recurrence is delivered."""

    phases: tuple[Phase, ...]
    buffers: tuple[Node, ...]
    ends: tuple[int, ...]


def schedule(recurrence: Recurrence) -> Schedule:
    roots = recurrence.roots
    chains, absorbed = _chains(recurrence)
    nodes = [n for n in recurrence.nodes if n.index not in absorbed]
    level = _levels(nodes, chains)
    place = _places(nodes, roots, chains, level)
    keys = _keys(nodes, roots, place, chains)
    phases = [Phase(width) for _, width in keys]

    def home(node: Node) -> int:
        """The phase that makes a value; for a leaf, the first phase of its width."""
        if node.op in LEAVES:
            return next(k for k, (_, width) in enumerate(keys) if width == node.width)
        return keys.index(place[node.index])

    for node in nodes:
        if node.op == "total":
            phases[home(node.args[0])].totals.append(node)
        elif node.op not in LEAVES:
            phases[home(node)].values.append(node)
    for phase in phases:
        _add_products(phase, [n for n in phase.values if n.index in chains], chains)
    _repeat_conditions(phases, home)
    return Schedule(tuple(phases), _buffers(phases, home), tuple(home(root) for root in roots))


def arguments(node: Node, phase: Phase) -> tuple[Node, ...]:
    """What the phase needs to have at hand to make this value: nothing for a net, which its product made."""
    if any(node is net for net in phase.nets):
        return ()
    return node.args


def _chains(recurrence: Recurrence) -> tuple[dict[int, list[Node]], set[int]]:
    """Products, and sums of products that nothing else uses: each becomes one chain of multiply-adds (by the index of
    the sum), and the parts of a longer chain are made nowhere else."""
    uses: dict[int, int] = {}
    for used in [*recurrence.roots, *(a for n in recurrence.nodes for a in n.args)]:
        uses[used.index] = uses.get(used.index, 0) + 1
    chains: dict[int, list[Node]] = {}
    absorbed: set[int] = set()
    for node in recurrence.nodes:
        if node.op == "linear":
            chains[node.index] = [node]
        elif node.op == "add" and all(a.index in chains and uses[a.index] == 1 for a in node.args):
            chains[node.index] = [part for a in node.args for part in chains.pop(a.index)]
            absorbed |= {a.index for a in node.args}
    return chains, absorbed


def _levels(nodes: list[Node], chains: dict[int, list[Node]]) -> dict[int, int]:
    """How many exchanges between units must have happened before a value can be made."""
    level: dict[int, int] = {}
    for node in nodes:
        if node.index in chains:
            level[node.index] = max(
                0 if part.args[0].op == "carry" else level[part.args[0].index] + 1 for part in chains[node.index]
            )
        elif node.op == "total":
            level[node.index] = level[node.args[0].index] + 1
        else:
            level[node.index] = max((level[a.index] for a in node.args), default=0)
    return level


def _places(
    nodes: list[Node], roots: list[Node], chains: dict[int, list[Node]], level: dict[int, int]
) -> dict[int, tuple[int, Width]]:
    """The phase (level, width) of every value. One that needs no other unit waits until it is first used, so that
    nothing has to be kept that could be fetched."""
    users: dict[int, list[Node]] = {}
    vectors = {part.args[0].index for parts in chains.values() for part in parts}
    for node in nodes:
        if node.index not in chains:
            for arg in node.args:
                users.setdefault(arg.index, []).append(node)
    anchored = {r.index for r in roots} | vectors
    place: dict[int, tuple[int, Width]] = {}
    for node in reversed(nodes):
        own = level[node.index]
        lazy = own == 0 and node.index not in chains and node.index not in anchored
        if lazy and all(u.op != "total" and u.width == node.width for u in users.get(node.index, [])):
            own = min((place[u.index][0] for u in users.get(node.index, [])), default=0)
        place[node.index] = own, node.width
    return place


def _keys(
    nodes: list[Node], roots: list[Node], place: dict[int, tuple[int, Width]], chains: dict[int, list[Node]]
) -> list[tuple[int, Width]]:
    """The phases in order; at one level, single numbers come before the vectors that use them."""
    wanted = {place[n.index] for n in nodes if n.op not in LEAVES and n.op != "total"}
    wanted |= {place[n.args[0].index] for n in nodes if n.op == "total"}
    wanted |= {place[r.index] for r in roots if r.op == "total"}
    vectors = [part.args[0] for parts in chains.values() for part in parts]
    wanted |= {place[v.index] for v in vectors if v.op in LEAVES and v.op != "carry"}
    leaves = [n for n in nodes if n.op in ("read", "carry")] + [r for r in roots if r.op in LEAVES]
    wanted |= {(0, n.width) for n in leaves if all(n.width != width for _, width in wanted)}
    widths = list(dict.fromkeys(n.width for n in [*nodes, *roots]))
    return sorted(wanted, key=lambda key: (key[0], key[1] != 1, widths.index(key[1])))


def _add_products(phase: Phase, nets: list[Node], chains: dict[int, list[Node]]) -> None:
    groups: dict[tuple[int, ...], list[Node]] = {}
    for net in nets:
        groups.setdefault(tuple(p.args[0].index for p in chains[net.index]), []).append(net)
    for members in groups.values():
        first = chains[members[0].index]
        phase.products.append(
            Product(
                tuple(p.args[0] for p in first),
                tuple(members),
                tuple(tuple(p.data for p in chains[m.index]) for m in members),
            )
        )


def _repeat_conditions(phases: list[Phase], home: Callable[[Node], int]) -> None:
    """A condition is made again in every phase that uses it: row buffers hold numbers only."""
    for k, phase in enumerate(phases):
        stack = [a for n in phase.values for a in arguments(n, phase)]
        while stack:
            node = stack.pop()
            if node.boolean and home(node) != k and node not in phase.values:
                phase.values.append(node)
                stack += node.args
        phase.values.sort(key=lambda n: n.index)


def _buffers(phases: list[Phase], home: Callable[[Node], int]) -> tuple[Node, ...]:
    kept = {t.index: t for phase in phases for t in phase.totals}
    for k, phase in enumerate(phases):
        for product in phase.products:
            kept |= {v.index: v for v in product.vectors if v.op != "carry"}
        for node in [*phase.values, *phase.totals]:
            for arg in arguments(node, phase):
                if arg.op not in LEAVES and arg.op != "total" and not arg.boolean and home(arg) != k:
                    kept[arg.index] = arg
    return tuple(kept[i] for i in sorted(kept))
