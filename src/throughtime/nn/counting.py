"""What a recurrence costs, counted from its schedule and its plan: operations, bytes, and how the work is cut.

Rule of counting: a multiply-add of a product is 2 operations, every operation of the equation on one unit (+, ×, tanh,
a comparison, ...) is 1, a sum over units or over time is 1 for each number added. Moving data is 0.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import torch

from throughtime.codegen.phases import Phase, schedule
from throughtime.nn.calls import Kind
from throughtime.nn.kernels import column_blocks
from throughtime.nn.program import Plan, is_joint
from throughtime.nn.teams import LARGEST_NEAR_SLICE, Step, division, slices, step_of
from throughtime.runtime import Compiler, meeting_nanoseconds
from throughtime.symbolic.functions import OPERATIONS
from throughtime.symbolic.program import Recurrence, Sizes, size_of

# The rule of run_call in codegen/skeletons/recurrence.h.
WORK_OF_A_THREAD, WORTH_WAKING = 500_000, 2_000_000
PACKING = 8  # multiply-adds that take as long as to pack a number
FEWEST_ROWS_IN_PIECES, FEWEST_STEPS_IN_PIECES = 16, 8

# As in product.h.
MOST_PIECES, TILE_DEPTH, TILE_NUMBERS = 3, 32, 256
MATRIX_UNITS = "THROUGHTIME_MATRIX_UNITS"


@dataclass(frozen=True)
class Flops:
    """Operations of one pass.

    `input_product`: W x (backward: its gradients by W and by x). `recurrent_product`: the products inside the loop
    (backward: also the sums Σ δ vᵀ after it). `pointwise`: everything else a step does.
    """

    input_product: int
    recurrent_product: int
    pointwise: int

    @property
    def total(self) -> int:
        return self.input_product + self.recurrent_product + self.pointwise

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.input_product + other.input_product,
            self.recurrent_product + other.recurrent_product,
            self.pointwise + other.pointwise,
        )


def step_products(recurrence: Recurrence, sizes: Sizes, heads: int) -> int:
    """Operations of the products in one step of one sequence in one direction."""
    per_head = _per_head(sizes, heads)
    return heads * sum(
        2
        * size_of(phase.width, per_head)
        * sum(size_of(v.width, per_head) for v in product.vectors)
        * len(product.nets)
        for phase in schedule(recurrence).phases
        for product in phase.products
    )


def step_pointwise(recurrence: Recurrence, sizes: Sizes, heads: int) -> int:
    """Operations of everything but products in one step of one sequence in one direction."""
    per_head = _per_head(sizes, heads)
    count = sum(size_of(s.node.width, per_head) for s in recurrence.sums)
    for phase in schedule(recurrence).phases:
        count += size_of(phase.width, per_head) * (operations(phase) + len(phase.totals))
    return heads * count


def operations(phase: Phase) -> int:
    """Operations on each unit of a phase."""
    nets = {n.index for n in phase.nets}
    return sum(n.op in OPERATIONS and n.op != "surrogate" and n.index not in nets for n in phase.values)


def matrix_gradients(plan: Plan) -> int:
    """Operations of Σ δ vᵀ for one step of one sequence in one direction."""
    return sum(2 * p.delta[2] * p.vector[2] for p in plan.products) // plan.heads


def _per_head(sizes: Sizes, heads: int) -> Sizes:
    return {w: n // heads if w == "hidden" else n for w, n in sizes.items()}


@dataclass(frozen=True)
class Cut:
    """How one call is divided: every group (a direction, or a head of one) into slices of the batch. A slice owns its
    sequences for all time steps; `team` threads share its units, and `threads` work on all of it."""

    groups: int
    slices: int
    threads: int
    team: int = 1

    @property
    def tasks(self) -> int:
        return self.groups * self.slices * self.team


def pieces_of(compiler: Compiler | None, dtype: torch.dtype, exact: bool, steps: int, rows: int) -> int:
    """Into how many pieces matrix units want the packed matrices cut, as recurrence.h decides; 0: they are not used.
    `exact`: the weights are bfloat16."""
    if compiler is None or not (has(compiler, "amx-bf16") and has(compiler, "avx512f")):
        return 0
    if os.environ.get(MATRIX_UNITS) == "0" or dtype != torch.float32 or steps < FEWEST_STEPS_IN_PIECES:
        return 0
    return 1 if exact else MOST_PIECES if rows >= FEWEST_ROWS_IN_PIECES else 0


def _panel_size(panel: int, depth: int, pieces: int) -> int:
    return 2 * pieces * TILE_NUMBERS * -(-depth // TILE_DEPTH) if pieces else panel * depth


def packed_elements(recurrence: Recurrence, sizes: Sizes, heads: int, panel: int, pieces: int = 0) -> int:
    """Numbers of the packed matrices of one group: panels of `panel` units, the last one filled up with zeros."""
    per_head = _per_head(sizes, heads)
    count = 0
    for phase in schedule(recurrence).phases:
        panels = -(-size_of(phase.width, per_head) // panel)
        for product in phase.products:
            depths = [size_of(v.width, per_head) for v in product.vectors]
            count += panels * len(product.nets) * sum(_panel_size(panel, depth, pieces) for depth in depths)
    return count


def packed_input(recurrence: Recurrence, sizes: Sizes, heads: int, panel: int, pieces: int = 0) -> int:
    """Numbers of the packed W of one group, where the kernel makes W x itself."""
    per_head = _per_head(sizes, heads)
    widths = [size_of(r.node.width, per_head) for r in recurrence.used_reads if r.array == "net"]
    return sum(-(-width // panel) for width in widths) * _panel_size(panel, size_of("input", sizes), pieces)


def one_step(recurrence: Recurrence, sizes: Sizes, heads: int, size: int) -> Step:
    """What threads that share a step have to do; `size`: bytes of a number."""
    return step_of(recurrence, _per_head(sizes, heads), size)


def cut(step: Step, packed: int, groups: int, steps: int, rows: int, threads: int) -> Cut:
    """`packed`: numbers of the packed matrices of one group, and of its packed W."""
    smallest, team = division(step, rows, groups, threads, meeting_nanoseconds(measure=False))
    work = (steps * rows + PACKING) * packed * groups
    threads = min(threads, 1 + work // WORK_OF_A_THREAD)
    if work < WORTH_WAKING:
        smallest = max(smallest, LARGEST_NEAR_SLICE)
    count = slices(smallest, rows, groups, threads)
    team = max(1, min(team, threads // (groups * count)))
    return Cut(groups, count, min(threads, groups * count * team), team)


def vector_bytes(compiler: Compiler) -> int:
    """Bytes of a native vector, as codegen/skeletons/lanes.h chooses them."""
    return 64 if has(compiler, "avx512f") else 32 if has(compiler, "avx") else 16


def has(compiler: Compiler, feature: str) -> bool:
    """Whether it compiles for a processor with this feature."""
    return re.search(rf"(?:-m|\+){feature}(?![\w.])", compiler.features) is not None


def phase_texts(recurrence: Recurrence) -> tuple[str, ...]:
    """What each phase of a step does, in words."""
    lines = []
    for phase in schedule(recurrence).phases:
        parts = []
        for product in phase.products:
            matrices = [name + ("ᵀ" if transposed else "") for row in product.factors for name, transposed in row]
            parts.append(f"product with {', '.join(matrices)}")
        parts.append(f"{operations(phase)} operations per unit")
        if phase.totals:
            parts.append(f"{len(phase.totals)} sums over units")
        lines.append(" + ".join(parts) + (f" ({phase.width})" if phase.width != "hidden" else ""))
    return tuple(lines)


def array_numbers(kind: Kind, plan: Plan, steps: int, rows: int) -> dict[str, int]:
    """Numbers in each array that a call is given or makes, but for the parameters and the states it starts from."""
    per = {"time": steps * rows, "row": rows, "unit": 1}
    directions = plan.directions
    reads = column_blocks(kind.program.recurrence.reads, kind.sizes)
    found: dict[str, int] = {}
    for array, blocks in reads.items():
        width = sum(w for _, w in blocks.values())
        found[array] = width * directions * per[kind.program.reads[array]]
    for array, width in [*plan.joint_writes.items(), *plan.own_writes.items()]:
        found[array] = width * steps * rows * (1 if is_joint(array) else directions)
    found["final states"] = sum(plan.ends) * rows * directions
    return found
