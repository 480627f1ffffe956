"""How the warps of a block share the products of a step on tensor cores, and which weights their registers hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from throughtime.codegen.cuda import Parts
from throughtime.symbolic.graph import Width

DEPTHS = {"BFloat16": 16, "Float16": 16, "TFloat32": 8}
"""Kinds of operands, and how many numbers deep one tile is; 16 outputs high, always."""

WARP, MOST_PIECES = 32, 8


class Cut(NamedTuple):
    """Of one product. A job is a tile of outputs and a piece of the depth; `pieces`: how many there are, `deep`: how
    many tiles deep they are; `jobs`: how many a warp has at most; `kept`: how many tiles of each job stay in registers,
    the others being in shared memory; `all_jobs`: of all warps."""

    pieces: int
    deep: int
    jobs: int
    kept: int
    all_jobs: int

    @property
    def shared_tiles(self) -> int:
        return self.all_jobs * (self.deep - self.kept)


def cut(
    parts: Parts, size: Mapping[Width, int], share: Mapping[Width, int], depth: int, threads: int, registers: int
) -> tuple[Cut, ...]:
    """One cut for every product. `size`, `share`: of every width, all units and a block's own; `depth`: of a tile;
    `registers`: how many tiles a warp may hold."""
    found = []
    for product in parts.products:
        deep = [-(-size[s] // depth) for s in product.sources]
        one = _evenly(-(-product.nets * share[product.width] // 16), deep, threads // WARP)
        kept = min(one.deep, registers // one.jobs)
        registers -= one.jobs * kept
        found.append(one._replace(kept=kept))
    return tuple(found)


def _evenly(high: int, sources: Sequence[int], warps: int) -> Cut:
    """The cut with the fewest tiles for the warp that has most; of several the one with the fewest pieces to add up."""

    def of(deep: int) -> Cut:
        pieces = sum(-(-s // deep) for s in sources)
        return Cut(pieces, deep, -(-high * pieces // warps), 0, high * pieces)

    every = [of(deep) for deep in range(1, max(sources) + 1)]
    few = [c for c in every if c.pieces <= max(MOST_PIECES, len(sources))]
    return min(few, key=lambda c: (c.jobs * c.deep, c.pieces))
