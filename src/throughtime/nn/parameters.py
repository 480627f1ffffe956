"""Which learned tensors an equation has, and where each of its maps lies in them.

The rows of `weight_ih`, `weight_hh` and the biases are one table per cell, so that the weights of other libraries map
by table. Names are torch's wherever torch has the tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from throughtime.symbolic.equation import Affine, Equation
from throughtime.symbolic.graph import EquationError, Width
from throughtime.symbolic.language import Cell
from throughtime.symbolic.program import Recurrence, Sizes, matrix_name, size_of


@dataclass(frozen=True)
class Parameter:
    """One learned tensor [Σ widths of rows, columns], or a vector [Σ widths of rows] where `columns` is None.

    `kind`: "input" (applied to x before the loop), "recurrent" (applied inside it), "bias" or "weight" (per unit; its
    first value is `init`). `heads`: each block of rows is that many matrices one below the other, each of which maps
    its own share of the vector.
    """

    name: str
    kind: str
    rows: tuple[tuple[str, Width], ...]
    columns: Width | None = None
    init: float = 0.0
    heads: int = 1

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        rows = sum(size_of(w, sizes) for _, w in self.rows)
        return (rows,) if self.columns is None else (rows, size_of(self.columns, sizes) // self.heads)

    def first_row(self, name: str, sizes: Sizes) -> int:
        names = [n for n, _ in self.rows]
        return sum(size_of(w, sizes) for _, w in self.rows[: names.index(name)])

    def has(self, name: str) -> bool:
        return any(n == name for n, _ in self.rows)


@dataclass
class Layout:
    """All parameters of one layer in one direction, in the order in which they are registered.

    `places`: matrix of the loop -> (parameter name, block of its rows). `input_order`: the maps of x, in row order.
    """

    parameters: list[Parameter] = field(default_factory=list)
    places: dict[str, tuple[str, str]] = field(default_factory=dict)
    input_order: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Parameter:
        return next(p for p in self.parameters if p.name == name)

    def of_kind(self, kind: str) -> list[Parameter]:
        return [p for p in self.parameters if p.kind == kind]

    @cached_property
    def biases_add_up(self) -> bool:
        """Whether all biases have the same rows, so that their sum is the one bias that the loop reads."""
        return len({p.rows for p in self.of_kind("bias")}) == 1

    def bias_blocks(self) -> tuple[tuple[str, str], ...]:
        """The column blocks of the loop's `bias` and the affine map each is added to: the rows of the one bias (or of
        the sum of both), or of one bias after the other."""
        biases = self.of_kind("bias")
        if self.biases_add_up:
            return tuple((name, name) for name, _ in biases[0].rows)
        return tuple((f"{p.name}.{name}", name) for p in biases for name, _ in p.rows)


def check_equations(cell: Cell, equations: Mapping[bool, Equation], num_layers: int) -> None:
    """Raises EquationError for a cell that one set of parameters, or one tensor per state, cannot serve."""
    modes = {m: {a.name for a in e.affines} | {w.name for w in e.weights} for m, e in equations.items()}
    if modes[True] != modes[False]:
        odd = ", ".join(sorted(modes[True] ^ modes[False]))
        raise EquationError(
            f"{cell.name}.step uses {odd} in training or in evaluation only: "
            "compute it in both and choose with training()"
        )
    if num_layers > 1 and any(s.seen.width == "input" for s in equations[False].states):
        raise EquationError(
            f"{cell.name} has a state as wide as its input, which differs from layer to layer: "
            "give each layer a Recurrent of its own"
        )


def check_heads(cell: Cell, recurrence: Recurrence) -> None:
    """Raises EquationError for a step that cannot be cut into blocks of units, each of which sees only itself."""
    other = next((n for n in recurrence.nodes if n.width not in (1, "hidden")), None)
    if other is not None:
        raise EquationError(
            f"{cell.name} cannot have heads: its step has a vector of the width {other.width!r} inside the loop, where "
            "all must be as wide as the state"
        )


def layout(cell: Cell, equation: Equation, bias: bool = True, heads: int = 1) -> Layout:
    """The parameter table of a cell. Raises EquationError for a table that does not fit its equation."""
    uses: dict[str, Affine] = {}
    for a in equation.affines:
        uses.setdefault(a.name, a)
    _check_gates(cell, uses, equation)
    with_input = [a for a in uses.values() if equation.input in a.vectors]
    result = Layout()
    ordered = _ordered(cell, cell.gates, with_input)
    result.input_order = tuple(a.name for a in ordered)
    if ordered:
        result.parameters.append(Parameter("weight_ih", "input", _rows(ordered), "input"))
    first = equation.states[0].seen.width
    output = "hidden" if first == "input" else first
    groups: dict[str, list[tuple[Affine, int]]] = {}
    for a in uses.values():
        inside = [k for k, v in enumerate(a.vectors) if v is not equation.input]
        for k in set(range(len(a.vectors))) - set(inside):
            # Inside the loop this matrix is used only where x is changed first, as by dropout in training.
            result.places[matrix_name(a.name, k)] = ("weight_ih", a.name)
        for ordinal, k in enumerate(inside, 1):
            same = [j for j in inside[:ordinal] if a.vectors[j].width == a.vectors[k].width]
            name = _group_name(a, a.vectors[k].width, output, ordinal, len(same), bool(ordered))
            groups.setdefault(name, []).append((a, k))
    for name, members in groups.items():
        order = _ordered(cell, cell.recurrent_gates or cell.gates, [a for a, _ in members])
        position = {a.name: k for a, k in members}
        columns = members[0][0].vectors[members[0][1]].width
        result.parameters.append(Parameter(name, "recurrent", _rows(order), columns, heads=heads))
        result.places |= {matrix_name(a.name, position[a.name]): (name, a.name) for a in order}
    if bias:
        _add_biases(cell, result, uses)
    if cell.biases == 2:  # torch's order: the two matrices, their biases, then any other
        result.parameters.sort(key=lambda p: p.kind == "recurrent" and p.name != "weight_hh")
    for w in equation.weights:
        result.parameters.append(Parameter(w.name, "weight", ((w.name, w.width),), None, w.init))
    if not result.parameters:
        raise EquationError(f"{cell.name} has nothing to learn: its step uses no affine map and no weight")
    return result


def _rows(affines: Iterable[Affine]) -> tuple[tuple[str, Width], ...]:
    return tuple((a.name, a.width) for a in affines)


def _group_name(affine: Affine, width: Width, output: Width, ordinal: int, of_width: int, has_input: bool) -> str:
    """Maps between the same widths share one tensor, row by row; a map to another width has its own. `output`: the
    width of the first state, whose maps are `weight_hh`. `ordinal` counts the affine map's vectors inside the loop,
    `of_width` those of this vector's width."""
    if affine.width != "hidden":
        return f"weight_{affine.name}" if ordinal == 1 else f"weight_{affine.name}_{ordinal}"
    base = {output: "hh", "input": "ih"}.get(width, f"{width}h")
    if width == "input" and has_input:
        of_width += 1
    return f"weight_{base}" if of_width == 1 else f"weight_{base}{of_width}"


def _check_gates(cell: Cell, uses: Mapping[str, Affine], equation: Equation) -> None:
    """The table of rows must name maps of the equation, and every map of x."""
    known = ", ".join(uses)
    for gate in (*cell.gates, *cell.recurrent_gates):
        if gate not in uses:
            raise EquationError(f"{cell.name}.gates names {gate!r}, but the maps of its step are {known}")
    for name, a in uses.items():
        if cell.gates and equation.input in a.vectors and name not in cell.gates:
            raise EquationError(f"{cell.name}.gates does not name {name!r}, which maps the input: list all of {known}")


def _ordered(cell: Cell, wished: tuple[str, ...], affines: list[Affine]) -> list[Affine]:
    names = {a.name for a in affines}
    if not wished or not names <= set(wished):
        return affines
    return sorted(affines, key=lambda a: wished.index(a.name))


def _add_biases(cell: Cell, result: Layout, uses: Mapping[str, Affine]) -> None:
    biased = [a for a in uses.values() if a.bias]
    if cell.biases == 2:
        for matrix, name in (("weight_ih", "bias_ih"), ("weight_hh", "bias_hh")):
            found = [p for p in result.parameters if p.name == matrix]
            if not found:
                raise EquationError(f"{cell.name} has biases = 2 but no {matrix}: leave biases at 1")
            result.parameters.append(Parameter(name, "bias", found[0].rows))
        covered = {name for _, name in result.bias_blocks()}
        bare = [a.name for a in uses.values() if not a.bias and a.name in covered]
        if bare:
            raise EquationError(f"{cell.name} has biases = 2, so its map {bare[0]!r} cannot say bias=False")
        missing = [a.name for a in biased if a.name not in covered]
        if missing:
            raise EquationError(f"{cell.name} has biases = 2, but {missing[0]!r} is in neither weight_ih nor weight_hh")
    elif biased:
        result.parameters.append(Parameter("bias", "bias", _rows(_ordered(cell, cell.gates, biased))))
