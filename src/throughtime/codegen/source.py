"""Prints a recurrence as the text of a C++ `struct Cell` and an entry point. The loops are in the skeletons."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from importlib import resources

from throughtime.codegen.phases import Phase, Product, Schedule, schedule
from throughtime.codegen.printer import Printer
from throughtime.codegen.reserved import WORDS_OF_CPP
from throughtime.symbolic.graph import Node, Width
from throughtime.symbolic.program import Recurrence, without_marks

SCALARS = {"float32": "float", "float64": "double"}


def skeletons(text: str) -> dict[str, str]:
    """The headers that a text includes, and those that they include: file name -> text."""
    found: dict[str, str] = {}
    wanted = _INCLUDED.findall(text)
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = _skeleton(name)
            wanted += _INCLUDED.findall(found[name])
    return dict(sorted(found.items()))


_INCLUDED = re.compile(r'^#include "(.+)"$', re.MULTILINE)


@cache
def _skeleton(name: str) -> str:
    return (resources.files("throughtime.codegen") / "skeletons" / name).read_text(encoding="utf-8")


def widths(recurrence: Recurrence) -> tuple[Width, ...]:
    """Every width of the program, 1 first: the kernel is told their values at each call, in this order."""
    found: dict[Width, None] = {1: None}
    for node in recurrence.nodes:
        found[node.width] = None
        if node.op == "size":
            found[node.data] = None
    for named in [*(c.seen for c in recurrence.carries), *(r.node for r in recurrence.used_reads)]:
        found[named.width] = None
    return tuple(found)


def kernel_source(recurrence: Recurrence, dtype: str) -> str:
    """The C++ text of a recurrence for "float32" or "float64"; the same byte for byte in every process."""
    return _text(recurrence, f"TT_ENTRY(Cell, {SCALARS[dtype]})", "recurrence.h")


def session_source(recurrence: Recurrence, dtype: str) -> str:
    """The same for a session: see session.h."""
    return _text(recurrence, f"TT_SESSION(Cell, {SCALARS[dtype]})", "session.h")


def _text(recurrence: Recurrence, entry: str, skeleton: str) -> str:
    computed = without_marks(recurrence)
    return Source(computed, schedule(computed)).text(entry, skeleton)


@cache
def products_source(dtype: str) -> str:
    """The C++ text of the products of whole matrices, and of those that kernels are made with, for "float32" or
    "float64"."""
    return f'// Products of matrices.\n#include "matmul.h"\n\nTT_PRODUCTS({SCALARS[dtype]})\n'


class Source:
    """The text for the CPU; `codegen/cuda.py` has that for GPUs."""

    target = "cpp"

    def __init__(self, recurrence: Recurrence, plan: Schedule) -> None:
        self.recurrence, self.plan = recurrence, plan
        self.widths = widths(recurrence)
        self.matrices = {m.name: k for k, m in enumerate(recurrence.matrices)}
        self.carries = {c.seen.index: k for k, c in enumerate(recurrence.carries)}
        self.buffers = {n.index: len(self.carries) + k for k, n in enumerate(plan.buffers)}
        self.names = _names(recurrence)

    def text(self, entry: str, skeleton: str) -> str:
        r = self.recurrence
        lines = [f"// {r.name}: one time step, derived from its equation.", f'#include "{skeleton}"', ""]
        lines += ["template <class T>", "struct Cell {", "  using V = tt::Vec<T>;"]
        lines += [f"  static constexpr int widths = {len(self.widths)};  // " + ", ".join(map(str, self.widths))]
        carries = [(self.names[c.seen.index], c.seen) for c in r.carries]
        lines += self._table("carry", "what a step hands to the next", carries)
        lines += self._table(
            "buffer",
            "kept for a later phase of the step",
            [(self.names[n.index], n) for n in self.plan.buffers],
        )
        lines += self._table("read", "", [(self.names[x.node.index], x.node) for x in r.used_reads])
        lines += self._table(
            "write", "", [(f"{x.array}.{x.name}" if x.array != x.name else x.name, x.node) for x in r.writes]
        )
        lines += self._table("sum", "", [(x.name, x.node) for x in r.sums])
        lines += [f"  static constexpr int matrices = {len(self.matrices)};  // " + ", ".join(self.matrices)]
        lines += self._more()
        for k, phase in enumerate(self.plan.phases):
            lines += ["", *self._phase(k, phase)]
        all_phases = ", ".join(f"Phase{k}" for k in range(len(self.plan.phases)))
        lines += [f"  using Phases = tt::Sequence<{all_phases}>;", "};", ""]
        lines += [entry, ""]
        return "\n".join(line.rstrip() for line in lines)

    def _more(self) -> list[str]:
        """What only this target is told of the cell."""
        return []

    def _more_of_phase(self, number: int) -> list[str]:
        """What only this target is told of a phase."""
        return []

    def _table(self, kind: str, comment: str, rows: list[tuple[str, Node]]) -> list[str]:
        names = ", ".join(f"{kind}_{_identifier(name)}" for name, _ in rows)
        values = ", ".join(str(self.widths.index(node.width)) for _, node in rows) or "0"
        note = f"  // {comment}" if comment and rows else ""
        lines = [f"  enum {{ {names} }};{note}"] if rows else []
        plural = {"carry": "carries"}.get(kind, f"{kind}s")
        return [*lines, f"  static constexpr int {plural} = {len(rows)}, {kind}_width[] = {{{values}}};"]

    def _phase(self, number: int, phase: Phase) -> list[str]:
        lines = [f"struct Phase{number} {{"]
        lines += [f"  static constexpr int width = {self.widths.index(phase.width)}, nets = {len(phase.nets)};"]
        totals = ", ".join(str(self.buffers[t.index]) for t in phase.totals) or "0"
        lines += [f"  static constexpr int totals = {len(phase.totals)}, total_buffer[] = {{{totals}}};"]
        lines += self._more_of_phase(number)
        first = 0
        for k, product in enumerate(phase.products):
            lines += ["  " + line for line in self._product(k, first, product)]
            first += len(product.nets)
        products = ", ".join(f"Product{k}" for k in range(len(phase.products)))
        lines += [f"  using Products = tt::Sequence<{products}>;"]
        pointwise = self._pointwise(number, phase)
        lines += self._arrays(pointwise)
        lines += ["  template <class At>", "  static TT_INLINE void pointwise(At& at) {"]
        lines += ["    " + line for line in pointwise]
        lines += ["  }", "};"]
        return ["  " + line for line in lines]

    def _arrays(self, pointwise: list[str]) -> list[str]:
        """The lines that say which arrays a phase reads and writes."""
        lines = []
        for kind in ("read", "write"):
            used = dict.fromkeys(re.findall(rf"\bat\.{kind}(?:_one)?\(({kind}_\w+)", "\n".join(pointwise)))
            lines.append(f"  static constexpr int {kind}s = {len(used)}, {kind}[] = {{{', '.join(used) or '0'}}};")
        return lines

    def _product(self, k: int, first: int, product: Product) -> list[str]:
        buffers = ", ".join(str(self._buffer(v)) for v in product.vectors)
        factors = ", ".join(
            f"{{{self.matrices[name]}, {str(transposed).lower()}}}"
            for row in product.factors
            for name, transposed in row
        )
        source = f"nets = {len(product.nets)}, sources = {len(product.vectors)}, first = {first}"
        vector_widths = ", ".join(str(self.widths.index(v.width)) for v in product.vectors)
        return [
            f"struct Product{k} {{",
            f"  static constexpr int {source};",
            f"  static constexpr int source[] = {{{buffers}}}, source_width[] = {{{vector_widths}}};",
            f"  static constexpr tt::Factor factor[] = {{{factors}}};",
            "};",
        ]

    def _buffer(self, vector: Node) -> int:
        return self.carries[vector.index] if vector.op == "carry" else self.buffers[vector.index]

    def _pointwise(self, number: int, phase: Phase) -> list[str]:
        printer = Printer(self, phase)
        roots = self.recurrence.roots
        delivered = [k for k, end in enumerate(self.plan.ends) if end == number]
        kept = self.kept(number)
        printer.count([*(roots[k] for k in delivered), *kept, *(t.args[0] for t in phase.totals)])
        for node in phase.values:
            printer.define(node)
        lines = [self._deliver(k, printer.value(roots[k]), roots[k].width == 1) for k in delivered]
        for node in kept:
            name = f"buffer_{_identifier(self.names[node.index])}"
            lines.append(f"at.keep{'_one' if node.width == 1 else ''}({name}, {printer.value(node)});")
        for k, node in enumerate(phase.totals):
            lines.append(f"at.total({k}, {printer.value(node.args[0])});")
        return printer.lines + lines or ["(void)at;"]

    def kept(self, number: int) -> list[Node]:
        """What a phase keeps for later ones."""
        return [n for n in self.plan.buffers if n.op != "total" and self._made_in(n, number)]

    def _made_in(self, node: Node, number: int) -> bool:
        if node.op in ("read", "noise"):
            first = next(k for k, p in enumerate(self.plan.phases) if p.width == node.width)
            return first == number
        return any(v is node for v in self.plan.phases[number].values)

    def _deliver(self, k: int, value: str, single: bool) -> str:
        r = self.recurrence
        one = "_one" if single else ""
        if k < len(r.carries):
            return f"at.next{one}(carry_{self.names[r.carries[k].seen.index]}, {value});"
        k -= len(r.carries)
        if k < len(r.writes):
            w = r.writes[k]
            name = f"{w.array}.{w.name}" if w.array != w.name else w.name
            return f"at.write{one}(write_{_identifier(name)}, {value});"
        return f"at.sum{one}(sum_{_identifier(r.sums[k - len(r.writes)].name)}, {value});"

    def fetch(self, node: Node, phase: Phase) -> str:
        """A value that this phase does not make: from a leaf or a row buffer."""
        one = "_one" if node.width == 1 else ""
        if node.op == "carry":
            return f"at.carry{one}(carry_{self.names[node.index]})"
        if node.op == "read":
            return f"at.read{one}(read_{self.names[node.index]})"
        if node.op == "time":
            return "at.time()"
        if node.op == "size":
            return f"at.size({self.widths.index(node.data)})"
        if node.op == "noise":
            stream, fixed = node.data
            return f"at.noise({_stream(stream)}u, {str(fixed).lower()})"
        return f"at.buffer{one}(buffer_{_identifier(self.names[node.index])})"


def _stream(name: str) -> int:
    from throughtime.symbolic.noise import stream_number

    return stream_number(name)


def _identifier(name: str) -> str:
    """The name in the letters that every compiler knows: a Greek letter is spelled out."""
    spelled = (c if c.isascii() else unicodedata.name(c, "_").split()[-1].lower() for c in name)
    return re.sub(r"\W", "_", "".join(spelled), flags=re.ASCII)


def _is_taken(name: str) -> bool:
    """Whether the name means something to the compiler, its headers or the text around it."""
    if name in WORDS_OF_CPP or name in ("at", "T", "V"):
        return True
    if name.startswith(("_", "carry_", "buffer_", "read_", "write_", "sum_")):
        return True
    return len(name) > 1 and name.isupper()  # likely to be a macro


def _names(recurrence: Recurrence) -> dict[int, str]:
    """A name for every value: its leaf's, the author's, or its operation's with a number; each used once."""
    names: dict[int, str] = {}
    taken: set[str] = set()

    def give(node: Node, wished: str) -> None:
        if node.index in names:
            return
        name = _identifier(wished)
        if name in taken or _is_taken(name):
            name = f"v{name}_{node.index}" if name.startswith("_") else f"{name}_{node.index}"
        while name in taken or _is_taken(name):
            name = f"v_{name}"
        taken.add(name)
        names[node.index] = name

    for read in recurrence.reads:
        give(read.node, read.name)
    for carry in recurrence.carries:
        give(carry.seen, carry.name)
    for node in recurrence.nodes:
        give(node, node.label or f"{node.op}{node.index}")
    return names
