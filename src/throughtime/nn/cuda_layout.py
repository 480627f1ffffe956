"""Where the blocks of a CUDA kernel keep what, and the numbers by which they are told.

The skeletons' `call.h` reads the list in the same order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from throughtime.codegen.cuda import Parts
from throughtime.nn.cuda_tensor import Cut
from throughtime.symbolic.graph import Width


@dataclass(frozen=True)
class Scheme:
    """How a launch is divided.

    `exchange`: how the blocks of a team tell one another their results: "Alone" (a team of one), "Cluster" or "Grid";
    or "Product": a launch for each phase of each step, a block for each sequence, and products made between launches.
    `operand`: what tensor cores multiply, see `DEPTHS`, or "": products are plain multiply-adds. `members`: blocks of a
    team, which share the units of some sequences; `tile`: how many sequences. `teams`: how many there are; they take
    tiles in turn. `held`: whether the matrices stay in the block for all steps; for tensor cores they do, and `cuts`
    says where.
    """

    exchange: str = "Alone"
    operand: str = ""
    members: int = 1
    tile: int = 1
    teams: int = 1
    threads: int = 256
    held: bool = True
    cuts: tuple[Cut, ...] = ()

    @property
    def multiplier(self) -> str:
        """As the skeletons name it."""
        cuts = "".join(f", tt::Cut<{c.jobs if c.kept else 0}, {c.kept}>" for c in self.cuts)
        return f"Tensor<tt::{self.operand}{cuts}>" if self.operand else "Scalar"


@dataclass(frozen=True)
class Problem:
    """One call of a recurrence. `numbers`: what the widths are; `item`: bytes of a number; `rows`: sequences of each
    group."""

    name: str
    parts: Parts
    widths: tuple[Width, ...]
    numbers: tuple[int, ...]
    item: int
    rows: int
    groups: int

    def size(self) -> dict[Width, int]:
        """What the widths are."""
        return dict(zip(self.widths, self.numbers, strict=True))

    def share(self, members: int) -> dict[Width, int]:
        """Of each width, how many units a member makes at most; every member makes what is single."""
        return dict(zip(self.widths, shares(self.numbers, members), strict=True))

    @property
    def most_members(self) -> int:
        """How many blocks can be a team: each must have a part of every vector that they exchange."""
        size = self.size()
        exchanged = [size[w] for w, whole in (*self.parts.carries, *self.parts.buffers) if whole]
        return min(exchanged, default=max(self.numbers))


class Memory(NamedTuple):
    """`words`: the numbers of a launch, from its scheme on; `bytes`: of one block's memory; `mail`: words of half of a
    team's mailbox. Where the memory has what: `vectors`, carries and then buffers, each with the numbers from one row
    (or side) to the next; `nets`."""

    words: list[int]
    bytes: int
    mail: int
    vectors: list[tuple[int, int]]
    nets: int


FRONT = ("steps", "rows", "groups", "origin", "members", "tile", "teams", "mail", "mail_step", "stage", "step")
GROUPS, MAIL, STAGE = (FRONT.index(name) for name in ("groups", "mail", "stage"))
_BARRIERS, _TILE = 16, 512  # bytes


def shares(numbers: Sequence[int], members: int) -> list[int]:
    return [1] + [-(-n // members) for n in numbers[1:]]


def layout(problem: Problem, scheme: Scheme, steps: int, origin: int) -> Memory:
    parts, numbers, item = problem.parts, problem.numbers, problem.item
    size, share = problem.size(), problem.share(scheme.members)
    tile = scheme.tile
    used = _BARRIERS
    mail = 0

    def take(count: int, each: int = item) -> int:
        nonlocal used
        found = used
        used += -(-count * each // 16) * 16
        return found

    def letters(width: int) -> int:
        nonlocal mail
        found = mail
        mail += tile * width * item // 4
        return found

    def whole(width: int) -> int:
        """Numbers from one row to the next where a vector lies whole; lanes of tensor tiles must not meet in a bank."""
        return -(-width // 32) * 32 + 8 if scheme.cuts else width

    ranges = take(2 * tile, 8)
    places = side_by_side(problem, take) if scheme.exchange == "Product" else {}
    vectors: list[int] = []
    for number, (width, shared) in enumerate((*parts.carries, *parts.buffers)):
        stride = whole(size[width]) if shared else share[width]
        twice = shared or number < len(parts.carries)
        place, stride = places.get(number) or (take(tile * stride * (2 if twice else 1)), stride)
        vectors += (place, stride, letters(size[width]) if shared else 0)
    found = list(zip(vectors[::3], vectors[1::3], strict=True))
    for _ in range(parts.totals):
        vectors += (take(2 * tile * scheme.members), scheme.members, letters(scheme.members))
    for width in parts.sums:
        vectors += (take(tile * share[width]), share[width])
    pieces = max((c.pieces for c in scheme.cuts), default=1)
    nets = take(max((pieces * tile * p.nets * share[p.width] for p in parts.phases), default=0))
    scratch = take(max((tile * p.totals * share[p.width] for p in parts.phases), default=0))
    sums = take(max((tile * p.totals * 32 for p in parts.phases), default=0))
    weights: list[int] = []
    for k, product in enumerate(parts.products):
        if scheme.cuts:
            cut = scheme.cuts[k]
            weights += (take(cut.shared_tiles * _TILE, 1), cut.pieces, cut.deep)
        else:
            deep = sum(size[s] for s in product.sources)
            weights += (take(deep * product.nets * share[product.width] if scheme.held else 0), 1, 0)
    words = [steps, problem.rows, problem.groups, origin, scheme.members, tile, scheme.teams, 0, mail, 0, 0]
    words += [nets, scratch, sums, ranges, int(scheme.held), *numbers, *share.values(), *vectors, *weights]
    return Memory(words, used, mail, found, nets)


def side_by_side(problem: Problem, take: Callable[[int], int]) -> dict[int, tuple[int, int]]:
    """Places for the vectors of products so that those of one product lie together, as one long vector: the first side
    of all, then the second side of all."""
    found: dict[int, tuple[int, int]] = {}
    size = problem.size()
    for product in problem.parts.products:
        new = {v: size[w] for v, w in zip(product.vectors, product.sources, strict=True) if v not in found}
        long = sum(new.values())
        place = take(2 * long)
        for vector, width in new.items():
            found[vector] = place, long
            place += width * problem.item
    return found
