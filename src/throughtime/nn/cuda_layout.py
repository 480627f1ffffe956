"""Where the blocks of a CUDA kernel keep what, and the numbers by which they are told.

The skeletons' `call.h` reads the list in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from throughtime.codegen.cuda import Parts
from throughtime.nn.cuda_tensor import Cut
from throughtime.symbolic.graph import Width


@dataclass(frozen=True)
class Scheme:
    """How a launch is divided.

    `exchange`: how the blocks of a team tell one another their results: "Alone" (a team of one), "Cluster" or "Grid".
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
    team's mailbox."""

    words: list[int]
    bytes: int
    mail: int


FRONT = ("steps", "rows", "groups", "origin", "members", "tile", "teams", "mail", "mail_step")
GROUPS, MAIL = FRONT.index("groups"), FRONT.index("mail")
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
        return -(-width // 32) * 32 + 8 if scheme.operand else width

    ranges = take(2 * tile, 8)
    vectors: list[int] = []
    for table, twice in ((parts.carries, True), (parts.buffers, False)):
        for width, shared in table:
            stride = whole(size[width]) if shared else share[width]
            vectors += (
                take(tile * stride * (2 if shared or twice else 1)),
                stride,
                letters(size[width]) if shared else 0,
            )
    for _ in range(parts.totals):
        vectors += (take(2 * tile * scheme.members), scheme.members, letters(scheme.members))
    for width in parts.sums:
        vectors += (take(tile * share[width]), share[width])
    pieces = max((c.pieces for c in scheme.cuts), default=1)
    nets = take(max((pieces * tile * count * share[w] for w, count, _ in parts.phases), default=0))
    scratch = take(max((tile * totals * share[w] for w, _, totals in parts.phases), default=0))
    sums = take(max((tile * totals * 32 for _, _, totals in parts.phases), default=0))
    weights: list[int] = []
    for k, (width, count, sources) in enumerate(parts.products):
        if scheme.operand:
            cut = scheme.cuts[k]
            weights += (take(cut.shared_tiles * _TILE, 1), cut.pieces, cut.deep)
        else:
            weights += (take(sum(size[s] for s in sources) * count * share[width] if scheme.held else 0), 1, 0)
    words = [steps, problem.rows, problem.groups, origin, scheme.members, tile, scheme.teams, 0, mail]
    words += [nets, scratch, sums, ranges, int(scheme.held), *numbers, *share.values(), *vectors, *weights]
    return Memory(words, used, mail)
