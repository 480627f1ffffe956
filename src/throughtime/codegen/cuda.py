"""Prints a recurrence as CUDA C++: the same `struct Cell` as for the CPU, on single numbers, and what blocks that share
the work must tell one another. The loops are in the skeletons."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

from throughtime.codegen.phases import Schedule, schedule
from throughtime.codegen.source import SCALARS, Source
from throughtime.symbolic.graph import Node, Width
from throughtime.symbolic.program import Recurrence, without_marks

CUDA_SKELETONS = (
    "machine.h",
    "functions.h",
    "call.h",
    "at.h",
    "exchange.h",
    "scalar.h",
    "tensor.h",
    "loop.h",
    "step.h",
)


def cuda_skeletons() -> dict[str, str]:
    """The headers that a CUDA kernel is compiled with: file name -> text."""
    folder = resources.files("throughtime.codegen") / "skeletons" / "cuda"
    return {name: (folder / name).read_text(encoding="utf-8") for name in CUDA_SKELETONS}


class ProductPart(NamedTuple):
    """A product of a step: the width it makes, how many nets, and the vectors it reads: their widths and numbers
    (carries first, then buffers); `factors[net][k]`: for vector k the number of the matrix, and whether its transpose.
    """

    width: Width
    nets: int
    sources: tuple[Width, ...]
    vectors: tuple[int, ...]
    factors: tuple[tuple[tuple[int, bool], ...], ...]


class PhasePart(NamedTuple):
    """A phase of a step: its width, how many nets and totals, and its products: the first, and how many."""

    width: Width
    nets: int
    totals: int
    first_product: int
    products: int


@dataclass(frozen=True)
class Parts:
    """What a block keeps in its memory, and what a team exchanges.

    `carries`, `buffers`: their widths, and whether a product reads them, so that every block needs all of them.
    `sums`: widths. `totals`: how many sums over units a step makes.
    """

    carries: tuple[tuple[Width, bool], ...]
    buffers: tuple[tuple[Width, bool], ...]
    sums: tuple[Width, ...]
    totals: int
    products: tuple[ProductPart, ...]
    phases: tuple[PhasePart, ...]


def parts(recurrence: Recurrence) -> Parts:
    computed = without_marks(recurrence)
    return _parts(computed, schedule(computed))


def _parts(recurrence: Recurrence, plan: Schedule) -> Parts:
    read = {v.index for phase in plan.phases for p in phase.products for v in p.vectors}

    def whole(node: Node) -> bool:
        return node.index in read and node.width != 1

    totals = sum(len(phase.totals) for phase in plan.phases)
    numbers = {c.seen.index: k for k, c in enumerate(recurrence.carries)}
    numbers |= {n.index: len(numbers) + k for k, n in enumerate(plan.buffers)}
    matrices = {m.name: k for k, m in enumerate(recurrence.matrices)}
    products: list[ProductPart] = []
    phases: list[PhasePart] = []
    for phase in plan.phases:
        made = (phase.width, len(phase.nets), len(phase.totals))
        phases.append(PhasePart(*made, len(products), len(phase.products)))
        for p in phase.products:
            vectors = tuple(numbers[v.index] for v in p.vectors)
            factors = tuple(tuple((matrices[name], transposed) for name, transposed in row) for row in p.factors)
            widths = tuple(v.width for v in p.vectors)
            products.append(ProductPart(phase.width, len(p.nets), widths, vectors, factors))
    return Parts(
        tuple((c.seen.width, whole(c.seen)) for c in recurrence.carries),
        tuple((n.width, whole(n)) for n in plan.buffers),
        tuple(s.node.width for s in recurrence.sums),
        totals,
        tuple(products),
        tuple(phases),
    )


def step_source(recurrence: Recurrence, dtype: str) -> str:
    """The same for launches of single phases, between which products are made: see step.h."""
    computed = without_marks(recurrence)
    return _CudaSource(computed, schedule(computed)).text(f"TT_STEP(Cell, {SCALARS[dtype]})", "step.h")


def cuda_source(recurrence: Recurrence, dtype: str, exchange: str, multiplier: str) -> str:
    """The CUDA text of a recurrence for "float32" or "float64"; the same byte for byte in every process.

    `exchange`: how blocks share the units, "Alone", "Cluster" or "Grid" (exchange.h); `multiplier`: how products are
    made: "Scalar", or on tensor cores "Tensor<tt::BFloat16, tt::Cut<2, 16>>", with a cut for every product (tensor.h).
    """
    computed = without_marks(recurrence)
    entry = f"TT_ENTRY(Cell, {SCALARS[dtype]}, {exchange}, {multiplier})"
    return _CudaSource(computed, schedule(computed)).text(entry, "loop.h")


class _CudaSource(Source):
    target = "cuda"

    def __init__(self, recurrence: Recurrence, plan: Schedule) -> None:
        super().__init__(recurrence, plan)
        self.parts = _parts(recurrence, plan)

    def _more(self) -> list[str]:
        shared = [k for k, (_, whole) in enumerate(self.parts.carries) if whole]
        flags = [_list(int(whole) for _, whole in rows) for rows in (self.parts.carries, self.parts.buffers)]
        return [
            f"  static constexpr int carry_shared[] = {flags[0]}, buffer_shared[] = {flags[1]};",
            f"  static constexpr int shared_carries = {len(shared)}, shared_carry[] = {_list(shared)};",
            f"  static constexpr int all_totals = {self.parts.totals}, all_products = {len(self.parts.products)};",
        ]

    def _arrays(self, pointwise: list[str]) -> list[str]:
        return []

    def _more_of_phase(self, number: int) -> list[str]:
        before = self.plan.phases[:number]
        past = self.parts.phases[number].first_product
        of_net = [k for k, p in enumerate(self.plan.phases[number].products) for _ in p.nets]
        first = len(self.carries)
        kept = [self.buffers[n.index] - first for n in self.kept(number)]
        shared = [k for k in kept if self.parts.buffers[k][1]]
        return [
            f"  static constexpr int shared = {len(shared)}, shared_buffer[] = {_list(shared)};",
            f"  static constexpr int first_product = {past}, net_product[] = {_list(past + k for k in of_net)};",
            f"  static constexpr int first_total = {sum(len(p.totals) for p in before)};",
        ]


def _list(numbers: object) -> str:
    found = ", ".join(str(n) for n in numbers)  # type: ignore[attr-defined]
    return f"{{{found or '0'}}}"
