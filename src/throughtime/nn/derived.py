"""What follows from a cell's equation for a layer: its parameter table, its programs, and the kinds of calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from throughtime.nn.calls import Kind
from throughtime.nn.parameters import Layout, check_equations, check_heads, layout
from throughtime.nn.program import Program
from throughtime.symbolic.equation import Equation, trace
from throughtime.symbolic.graph import Width, structure
from throughtime.symbolic.language import Cell
from throughtime.symbolic.options import Options, Variant
from throughtime.symbolic.program import Sizes, lower
from throughtime.symbolic.stored import save_cell


class Derived:
    """See the module. What differs between training and evaluation is listed by mode, True for training.

    `signals`: what a step reads besides x, by name. `loops`: the parameters that hold matrices of the loop, by name.
    `noisy`: whether a step draws random numbers.
    """

    def __init__(self, cell: Cell, bias: bool, num_layers: int, heads: int = 1, learned_start: bool = False) -> None:
        self.cell, self.heads = cell, heads
        self._bias, self._num_layers, self._learned_start = bias, num_layers, learned_start
        self._text = {"cell": save_cell(cell), "bias": bias, "heads": heads}
        self.equations: dict[bool, Equation] = {mode: trace(cell, mode) for mode in (False, True)}
        equation = self.equations[False]
        check_equations(cell, self.equations, num_layers)
        self.layout: Layout = layout(cell, equation, bias, heads)
        self.state_names = [s.name for s in equation.states]
        self.state_widths: list[Width] = [s.seen.width for s in equation.states]
        self.signals = list(dict.fromkeys(s for e in self.equations.values() for s in e.signals))
        self.noisy = {mode: e.has("noise") for mode, e in self.equations.items()}
        self.programs = self._programs(traced=False)
        if heads > 1:
            for p in self.programs.values():
                check_heads(cell, p.recurrence)
        self.names = [p.name for p in self.layout.parameters]
        used = {m: {self.layout.places[x.name][0] for x in p.recurrence.matrices} for m, p in self.programs.items()}
        self.loops = {mode: [name for name in self.names if name in names] for mode, names in used.items()}
        self.biases = [p.name for p in self.layout.of_kind("bias")]
        self._kinds: dict[tuple[object, ...], Kind] = {}
        self.short_ways: dict[bool, list[Any]] = {}  # the layer's, see short.py

    def __deepcopy__(self, memo: object) -> Derived:
        return self  # nothing in it is a layer's own

    def _programs(self, traced: bool) -> dict[bool, Program]:
        order, biases = self.layout.input_order, self.layout.bias_blocks()
        programs = {m: Program(lower(e, order, biases, traced)) for m, e in self.equations.items()}
        if len({structure(p.recurrence.roots) for p in programs.values()}) == 1:
            programs[True] = programs[False]
        return programs

    @cached_property
    def traced_programs(self) -> dict[bool, Program]:
        """The programs that also write every value with a name."""
        return self._programs(traced=True)

    @cached_property
    def resetting(self) -> Derived:
        """The same for the cell with a step that forgets where the signal `reset` says so."""
        known = self.cell if isinstance(self.cell, Variant) else Variant(self.cell, Options())
        cell = Variant(known.cell, known.options, resets=True, learned_start=self._learned_start)
        return Derived(cell, self._bias, self._num_layers, self.heads)

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def kind(
        self,
        sizes: Sizes,
        reverse: tuple[bool, ...],
        streams: tuple[int, ...],
        training: bool,
        traced: bool = False,
        resets: bool = False,
    ) -> Kind:
        """What calls of these sizes in these directions have in common; `streams`: the number of each one's noise;
        `resets`: whether the calls have a reset mask."""
        if resets:
            return self.resetting.kind(sizes, reverse, streams, training, traced)  # type: ignore[no-any-return]
        key = tuple(sizes.items()), reverse, streams, training, traced
        found = self._kinds.get(key)
        if found is None:
            facts = {"sizes": list(sizes.items()), "reverse": reverse, "streams": streams, "training": training}
            facts["traced"] = traced
            found = self._kinds[key] = Kind(
                json.dumps(self._text | facts, ensure_ascii=False),
                (self.traced_programs if traced else self.programs)[training],
                sizes,
                self._places(sizes, training),
                len(self.loops[training]),
                reverse,
                streams,
                self.heads,
            )
        return found

    def _places(self, sizes: Sizes, training: bool) -> Mapping[str, tuple[int, int]]:
        loop = self.loops[training]
        places = {}
        for matrix in self.programs[training].recurrence.matrices:
            name, block = self.layout.places[matrix.name]
            places[matrix.name] = loop.index(name), self.layout[name].first_row(block, sizes)
        return places
