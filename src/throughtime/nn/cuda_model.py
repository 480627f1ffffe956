"""Chooses how a CUDA launch is divided.

What is chosen unless asked otherwise is the plainest scheme, one block for each tile of sequences. Teams of blocks, and
tensor cores, must be asked for, in the environment variable THROUGHTIME_CUDA: they have been compiled and emulated, but
not measured. So have the numbers of the model: those with a source are from published measurements of an H100, the
others are guesses to be replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from throughtime.nn.cuda_layout import Problem, Scheme, layout
from throughtime.nn.cuda_product import OPERANDS
from throughtime.nn.cuda_tensor import DEPTHS, Cut, cut
from throughtime.nn.cuda_wish import EXCHANGES, PRODUCTS, VARIABLE, Wish

_LARGEST_TILE, _FEW = 64, 4


@dataclass(frozen=True)
class Facts:
    """What the device is: "sm_90a", how many multiprocessors it has, the shared memory a block may use, in bytes; how
    many threads a block is given, and how many tiles of weights (of 4 registers) a warp may hold."""

    arch: str
    processors: int
    shared: int
    threads: int = 256
    tiles: int = 32

    @property
    def clusters(self) -> bool:
        return int(self.arch.removeprefix("sm_").rstrip("af")) >= 90


def choose(problem: Problem, facts: Facts, wish: Wish) -> Scheme:
    """Raises NotImplementedError, naming the way out, where the wish cannot be met."""
    operand = PRODUCTS[wish.product]
    if operand and problem.item != 4:
        raise NotImplementedError(f"tensor cores multiply float32 layers only: leave ,{wish.product} out of {VARIABLE}")
    if wish.scheme == "cudnn":
        raise NotImplementedError(
            f"{problem.name}: {VARIABLE}=cudnn has no kernels but those of torch.nn's layers: "
            'ask for "block" or "timed"'
        )
    if wish.scheme in ("model", "timed"):
        found = next(iter(promising(problem, facts, wish)), None)
    else:
        if wish.scheme == "cluster" and not (facts.clusters and wish.members <= 16):
            raise NotImplementedError(
                f"clusters of {wish.members} blocks are not to be had on {facts.arch} (up to 16, from sm_90 on): set "
                f'{VARIABLE} to "block" or "grid:{wish.members}"'
            )
        if wish.members > problem.most_members:
            raise NotImplementedError(
                f"{problem.name}: {wish.members} blocks cannot share a vector of {problem.most_members} numbers: ask "
                f"for fewer in {VARIABLE}"
            )
        if wish.scheme == "product" and operand not in OPERANDS:
            raise NotImplementedError(
                f"torch's products round to {wish.product} by torch.backends.cuda.matmul.allow_tf32 = True only: set "
                f'that, and {VARIABLE} to "product"'
            )
        found = _fitted(problem, facts, EXCHANGES[wish.scheme], wish.members, operand)
    if found is None:
        raise NotImplementedError(
            f"{problem.name}: one sequence's states and what {wish.scheme}, {wish.product} keeps with them are more "
            f'than the {facts.shared} bytes of shared memory that a block has: ask for "product" in {VARIABLE} or use '
            'backend="reference"'
        )
    return found


def promising(problem: Problem, facts: Facts, wish: Wish) -> list[Scheme]:
    """The few schemes that are best by the model's estimate, the best one first."""
    found = candidates(problem, facts, PRODUCTS[wish.product])
    return sorted(found, key=lambda s: cycles(problem, facts, s))[:_FEW]


def candidates(problem: Problem, facts: Facts, operand: str = "") -> Iterator[Scheme]:
    """Every scheme that the model compares."""
    for exchange, members in (
        ("Alone", (1,)),
        ("Cluster", (2, 4, 8, 16) if facts.clusters else ()),
        ("Grid", tuple(2**k for k in range(1, 9) if 2**k <= facts.processors)),
        ("Product", (1,) if operand in OPERANDS else ()),
    ):
        for count in (m for m in members if m <= problem.most_members):
            found = _fitted(problem, facts, exchange, count, operand)
            if found is not None:
                yield found


def _fitted(problem: Problem, facts: Facts, exchange: str, members: int, operand: str) -> Scheme | None:
    """The largest tile that is worth having and fits, with the matrices held if they can be."""
    if exchange == "Product":
        return Scheme(exchange, operand, 1, 1, problem.rows * problem.groups, facts.threads, held=False)
    at_once = max(1, facts.processors // members)
    wanted = min(_LARGEST_TILE, -(-problem.rows * problem.groups // at_once), problem.rows)
    cuts: tuple[Cut, ...] = ()
    if operand:
        size, share = problem.size(), problem.share(members)
        cuts = cut(problem.parts, size, share, DEPTHS[operand], facts.threads, facts.tiles)
        wanted = min(-(-wanted // 8) * 8, -(-problem.rows // 8) * 8)
    for held in (True,) if operand else (True, False):
        tile = max(1, wanted)
        while True:
            scheme = Scheme(exchange, operand, members, tile, 1, facts.threads, held, cuts)
            if layout(problem, scheme, 1, 0).bytes <= facts.shared:
                tiles = problem.groups * -(-problem.rows // tile)
                # Blocks of a grid wait for one another: all must run at once. A cluster is started as a whole.
                return replace(scheme, teams=min(tiles, at_once) if exchange == "Grid" else tiles)
            if tile == 1:
                break
            tile //= 2
    return None


# Cycles. Barriers and shared memory, L2 and DSMEM bandwidth (bytes a cycle of one multiprocessor): Luo et al. 2024,
# arXiv:2402.13499 and 2501.12084. The exchanges' latencies are guesses.
_BARRIER, _PUSH, _THROUGH_L2 = 40, 300, 800
_SHARED_BYTES, _PUSH_BYTES, _L2_BYTES = 128, 18, 36
_MULTIPLY_ADDS = {0: 128, 8: 1024 * 0.63, 16: 2048 * 0.63}  # a cycle of one multiprocessor, by depth of a tile
_TILES = 24 / 2  # a warp's, one after the other, in two chains
_POINTWISE = 110
_LAUNCH = 4200  # 2.1 microseconds: Hazy Research 2025, on an H100
_LIBRARY = 0.7  # of the rate of multiply-adds that a library of products reaches: a guess


def cycles(problem: Problem, facts: Facts, scheme: Scheme) -> float:
    """A rough estimate of the cycles that a step of all sequences takes."""
    size, share = problem.size(), problem.share(scheme.members)
    if scheme.exchange == "Product":
        return _cycles_of_products(problem, facts, scheme)
    total = 0.0
    for k, product in enumerate(problem.parts.products):
        work = product.nets * share[product.width] * sum(size[s] for s in product.sources)
        if scheme.operand:
            one, depth, wide = scheme.cuts[k], DEPTHS[scheme.operand], -(-scheme.tile // 8)
            tiles = one.all_jobs * one.deep * wide
            chain = one.jobs * one.deep * wide * _TILES
            read = one.shared_tiles * wide * 512 / _SHARED_BYTES
            total += max(tiles * 128 * depth / _MULTIPLY_ADDS[depth], chain, read) + _BARRIER
        else:
            rate = _SHARED_BYTES if scheme.held else _L2_BYTES
            total += max(work * scheme.tile / _MULTIPLY_ADDS[0], work * problem.item / rate) + _BARRIER
    total += len(problem.parts.phases) * (_BARRIER + _POINTWISE)
    exchanged = [size[w] for w, whole in (*problem.parts.carries, *problem.parts.buffers) if whole]
    if scheme.members > 1:
        latency, rate = (_PUSH, _PUSH_BYTES) if scheme.exchange == "Cluster" else (_THROUGH_L2, _L2_BYTES)
        words = 1 if scheme.exchange == "Cluster" else 2  # a posted number carries its step
        exchanges = max(1, len({p.width for p in problem.parts.phases}))
        total += exchanges * latency + sum(exchanged) * scheme.tile * problem.item * words / rate
    tiles = problem.groups * -(-problem.rows // scheme.tile)
    turns = -(-tiles * scheme.members // facts.processors)
    return total * turns


def _cycles_of_products(problem: Problem, facts: Facts, scheme: Scheme) -> float:
    """Launches, and products that fill the whole device."""
    size = problem.size()
    depth = DEPTHS.get(scheme.operand, 0)
    total = 0.0
    for product in problem.parts.products:
        weights = product.nets * size[product.width] * sum(size[s] for s in product.sources) * problem.groups
        rate = facts.processors * _LIBRARY * _MULTIPLY_ADDS[depth]
        total += max(
            weights * problem.rows / rate, weights * (2 if depth else problem.item) / facts.processors / _L2_BYTES
        )
    numbers = sum(size[w] for w, _ in (*problem.parts.carries, *problem.parts.buffers)) * problem.rows * problem.groups
    total += 2 * numbers * problem.item / facts.processors / _L2_BYTES
    return total + (len(problem.parts.products) * (1 + bool(depth)) + len(problem.parts.phases)) * _LAUNCH


def described(scheme: Scheme) -> str:
    """The scheme in words."""
    product = next(name for name, operand in PRODUCTS.items() if operand == scheme.operand)
    if scheme.exchange == "Product":
        return f"one product per step of all sequences by torch, {product}, and one launch for each phase"
    how = {"Alone": "one block", "Cluster": f"a cluster of {scheme.members} blocks", "Grid": f"{scheme.members} blocks"}
    kept = "weights in shared memory" if scheme.held else "weights read from memory at every step"
    if scheme.operand:
        tiles, shared = (sum(c.all_jobs * c.deep for c in scheme.cuts), sum(c.shared_tiles for c in scheme.cuts))
        kept = f"{tiles - shared} of {tiles} tiles of weights in registers"
    return f"{scheme.teams} teams of {how[scheme.exchange]} x {scheme.tile} sequences, {product} products, {kept}"
