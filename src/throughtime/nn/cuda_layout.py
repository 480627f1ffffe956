"""Where the blocks of a CUDA kernel keep what, and the numbers by which they are told.

The skeletons' `call.h` reads the list in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from throughtime.codegen.cuda import Parts
from throughtime.symbolic.graph import Width

MULTIPLIERS = {"Scalar": 0, "Tensor<tt::BFloat16>": 16, "Tensor<tt::Float16>": 16, "Tensor<tt::TFloat32>": 8}
"""How products are made, and the depth of one tile; 0: there are no tiles."""


@dataclass(frozen=True)
class Scheme:
    """How a launch is divided.

    `exchange`: how the blocks of a team tell one another their results: "Alone" (a team of one), "Cluster" or "Grid".
    `multiplier`: see `MULTIPLIERS`. `members`: blocks of a team, which share the units of some sequences; `tile`: how
    many sequences. `teams`: how many there are; they take tiles in turn. `slices`: into how many parts the depth of a
    product is cut. `held`: whether the matrices stay in shared memory for all steps.
    """

    exchange: str = "Alone"
    multiplier: str = "Scalar"
    members: int = 1
    tile: int = 1
    teams: int = 1
    threads: int = 256
    slices: int = 1
    held: bool = True


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

    @property
    def most_members(self) -> int:
        """How many blocks can be a team: each must have a part of every vector that they exchange."""
        size = dict(zip(self.widths, self.numbers, strict=True))
        exchanged = [size[w] for w, whole in (*self.parts.carries, *self.parts.buffers) if whole]
        return min(exchanged, default=max(self.numbers))


class Memory(NamedTuple):
    """`words`: the numbers of a launch, from its scheme on; `bytes`: of one block's memory; `mail`: words of half of a
    team's mailbox."""

    words: list[int]
    bytes: int
    mail: int


FRONT = ("steps", "rows", "groups", "origin", "members", "tile", "teams", "mail", "mail_step", "slices")
GROUPS, MAIL = FRONT.index("groups"), FRONT.index("mail")
_BARRIERS = 16


def shares(numbers: Sequence[int], members: int) -> list[int]:
    """Of each width, how many units a member makes at most; every member makes what is single."""
    return [1] + [-(-n // members) for n in numbers[1:]]


def layout(problem: Problem, scheme: Scheme, steps: int, origin: int) -> Memory:
    parts, widths, numbers, item = problem.parts, problem.widths, problem.numbers, problem.item
    size = dict(zip(widths, numbers, strict=True))
    share = dict(zip(widths, shares(numbers, scheme.members), strict=True))
    tile, depth = scheme.tile, MULTIPLIERS[scheme.multiplier]
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
        return -(-width // 32) * 32 + 8 if depth else width

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
    nets = take(max((scheme.slices * tile * count * share[w] for w, count, _ in parts.phases), default=0))
    scratch = take(max((tile * totals * share[w] for w, _, totals in parts.phases), default=0))
    sums = take(max((tile * totals * 32 for _, _, totals in parts.phases), default=0))
    weights = []
    for width, count, sources in parts.products:
        weights.append(used)
        if not scheme.held:
            continue
        for source in sources:
            if depth:
                take(-(-count * share[width] // 16) * -(-size[source] // depth) * 128, 4)
            else:
                used += size[source] * count * share[width] * item
        used = -(-used // 16) * 16
    words = [steps, problem.rows, problem.groups, origin, scheme.members, tile, scheme.teams, 0, mail, scheme.slices]
    words += [nets, scratch, sums, ranges, int(scheme.held), *numbers, *share.values(), *vectors, *weights]
    return Memory(words, used, mail)
