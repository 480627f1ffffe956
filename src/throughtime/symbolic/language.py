"""The language in which a cell is written: `Cell`, `affine`, `weight` and what a step may say besides functions.

The same `step` runs in two contexts: while it is traced its values are symbols, in the reference they are tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Protocol

from throughtime.symbolic.functions import sqrt, where
from throughtime.symbolic.graph import EquationError, Node, Width


class Cell:
    """A recurrent cell: one step of its equation, as in its paper.

    A subclass defines `step(self, x, h)`, or `step(self, x, h, c)` for several states, and returns the new state(s) in
    the same order; the first state is the layer's output. Options of a cell are plain fields.
    """

    gates: ClassVar[tuple[str, ...]] = ()
    """Names of the maps of the input, in the row order of `weight_ih`; empty = in order of appearance in `step`."""
    recurrent_gates: ClassVar[tuple[str, ...]] = ()
    """The same for `weight_hh`, where it differs from `gates`."""
    biases: ClassVar[int] = 1
    """1: one bias for each affine map. 2: torch's `bias_ih` and `bias_hh`, which are added."""
    state_widths: ClassVar[Mapping[str, Width]] = {}
    """Width of each state that is not "hidden" numbers wide."""
    projection: int = 0
    """What the width "projection" stands for, in a cell that uses it."""

    step: Callable[..., Any]

    @property
    def name(self) -> str:
        return type(self).__name__


class Context(Protocol):
    """What a step's own words mean: symbols while it is traced, tensors in the reference."""

    training: bool

    def affine(self, name: str, vectors: tuple[Any, ...], size: Any, bias: bool, shared: bool) -> Any: ...
    def weight(self, name: str, like: Any, init: float) -> Any: ...
    def noise(self, name: str, like: Any, fixed: bool) -> Any: ...
    def time(self) -> Any: ...
    def signal(self, name: str) -> Any: ...
    def width_number(self, width: Width) -> Any: ...


_context: ContextVar[Context] = ContextVar("throughtime.step")


@contextmanager
def running(context: Context) -> Any:
    """Gives `affine`, `weight`, `noise`, `signal` and `time` their meaning inside the block."""
    token = _context.set(context)
    try:
        yield context
    finally:
        _context.reset(token)


def current(word: str) -> Context:
    try:
        return _context.get()
    except LookupError:
        raise EquationError(f"{word} has a meaning only inside a cell's step: give the cell to tt.Recurrent") from None


def affine(name: str, *vectors: Any, size: Any = "hidden", bias: bool = True, shared: bool = False) -> Any:
    """W x + R h + b: the sum of one linear map for each vector given, plus a bias.

    `name` names the map's weights; using it twice is an error unless every use says `shared=True`. `size` is the
    width of the result: "hidden", "input", a whole number, or a vector whose width to take.
    """
    return current("affine").affine(name, vectors, size, bias, shared)


def weight(name: str, like: Any = "hidden", init: float = 0.0) -> Any:
    """A learned vector with one number for each unit (a peephole, a gain); `like`: its width or a vector of it."""
    return current("weight").weight(name, like, init)


def time() -> Any:
    """The number of the current time step in the whole sequence, from 0."""
    return current("time").time()


def signal(name: str) -> Any:
    """A number for each time step and sequence that is given with the call, as `layer(x, name=tensor)`.

    The tensor is [T, B] ([B, T] where the layer is `batch_first`), of numbers or bool (1 where True), and error flows
    into it. It is read at the step's own time in both directions.
    """
    return current("signal").signal(name)


def noise(name: str, like: Any = "hidden", fixed: bool = False) -> Any:
    """Uniform random numbers in [0, 1), one for each unit, drawn anew at every step or, if `fixed`, once a sequence.

    They depend on the call's seed, the time step, the sequence and the unit alone, so that the backward pass and any
    number of threads see the same numbers.
    """
    return current("noise").noise(name, like, fixed)


def training() -> bool:
    """Whether the layer is in training mode: a Python if may depend on it."""
    return current("training").training


def total(v: Any) -> Any:
    """The sum of a vector over its units: one number for each sequence."""
    if isinstance(v, Node):
        if v.boolean or v.width == 1:
            raise EquationError(f'total was given "{v!r}", where a vector is expected')
        return v.graph.node("total", (v,))
    return v.sum(-1, keepdim=True)


def size(v: Any) -> Any:
    """The number of units of a vector."""
    if isinstance(v, Node):
        return 1 if v.width == 1 else width_number(v.width)
    return v.shape[-1]


def width_number(width: Width) -> Any:
    """The number that a width ("hidden", "input") stands for."""
    return current("size").width_number(width)


def mean(v: Any) -> Any:
    return total(v) / size(v)


def layer_norm(name: str, v: Any, eps: float = 1e-5) -> Any:
    """Layer normalisation with a learned gain and shift. Ba et al. 2016, arXiv:1607.06450, eq. 4 (variance biased)."""
    centred = hinted(f"centred_{name}", v - mean(v))
    std = hinted(f"std_{name}", sqrt(mean(centred * centred) + eps))
    return hinted(
        f"norm_{name}", centred * (1 / std) * weight(f"gain_{name}", v, init=1.0) + weight(f"shift_{name}", v)
    )


def hinted(name: str, value: Any) -> Any:
    """The value with a name for printed formulas."""
    if isinstance(value, Node):
        value.hint = value.hint or name
    return value


def dropout(name: str, v: Any, p: float, fixed: bool = True) -> Any:
    """In training, each unit is 0 with probability p and 1/(1 - p) times itself otherwise; the same units at every
    step of a sequence if `fixed` (Gal and Ghahramani 2016, arXiv:1512.05287)."""
    if not training() or p == 0:
        return v
    return where(noise(name, v, fixed) >= p, v / (1 - p), 0.0)


def zoneout(name: str, old: Any, new: Any, p: float) -> Any:
    """Each unit keeps its old value with probability p, in evaluation its mean.

    Krueger et al. 2017, arXiv:1606.01305.
    """
    if not training():
        return p * old + (1 - p) * new
    return where(noise(name, old) >= p, new, old)
