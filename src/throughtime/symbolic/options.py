"""Options of every cell: an equation with normalisation, noise, clipping or resets woven in is an equation again.

A `Variant` is a cell. Its step makes the values of the inner cell's step once more and changes them on the way, so that
whatever can be done with a cell (kernels, derivatives, the reference, saving) is done with its variants too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from throughtime.symbolic import language
from throughtime.symbolic.equation import Equation, trace
from throughtime.symbolic.functions import clip, clip_gradient, where
from throughtime.symbolic.graph import LEAVES, EquationError, Node, reachable
from throughtime.symbolic.language import Cell, layer_norm, noise, signal, weight, zoneout
from throughtime.symbolic.replay import compute, labelled, with_signature

Key = tuple[int, bool, bool]
"""A value of the step by its index, and what it is made for: the output, a map."""
NORMS = ("maps", "memory", "states")

PerState = float | None | Sequence[float | None]
"""One number for every state, or one (or None) for each of them in the step's order."""


@dataclass(frozen=True)
class Options:
    """What can be asked of every cell. The defaults leave a cell as it is.

    layer_norm: layer normalisation with a learned gain and shift (Ba et al. 2016, arXiv:1607.06450, eq. 4) of
        "maps": the result of every affine map, its bias included (`gain_f`, `shift_f` for the map "f");
        "memory": the new value of every state but the first, wherever the output is computed from it, while the state
        itself is handed on as it is (their eq. 22; so Cooijmans et al. 2017, arXiv:1603.09025, eq. 8) (`gain_new_c`);
        "states": every state as the step sees it (`gain_seen_h`); or several of these words. True: "maps", and
        "memory" in a cell that has one. `cells.LSTM` with True is `cells.LayerNormLSTM`.
    recurrent_dropout: probability with which, in training, a unit of the output state is 0 wherever an affine map is
        given the state or something that is made of it by other means than maps (r ⊙ h); kept units are divided by
        1 - p. Where the step uses the state itself (z ⊙ h) it is whole. One mask for a whole sequence: Gal and
        Ghahramani 2016, arXiv:1512.05287, eq. 7.
    recurrent_dropout_mask: "sequence", or "step" for a new mask at every step. (Dropout of the candidate, Semeniuta et
        al. 2016, arXiv:1603.05118, needs to know which value that is: write `dropout("g", g, p, fixed=False)`.)
    zoneout: probability with which, in training, a unit of a new state keeps its old value; in evaluation the mean of
        both. The output is computed from the new values. Krueger et al. 2017, arXiv:1606.01305, eq. 2-3.
    state_clip: every new state is clipped to [-c, c] where it is made, so that an LSTM's output is computed from the
        clipped cell state. Sak et al. 2014, arXiv:1402.1128, section 3.
    gradient_clip: the error that flows from a step to the one before it is clipped to [-c, c], number by number, for
        every state. Graves 2013, arXiv:1308.0850, section 2.1.
    activation, gate_activation: instead of the tanh of the candidate and the sigmoid of the gates, for cells that have
        these fields (all of the catalogue): a name or a function of one value.

    `zoneout`, `state_clip` and `gradient_clip` are one number for all states, or one for each state in order (None:
    none). The order within a step: reset, gradient clipping and normalisation of what is seen; the cell's own step;
    then clipping of what is made, and zoneout.
    """

    layer_norm: bool | str | Sequence[str] = False
    recurrent_dropout: float = 0.0
    recurrent_dropout_mask: Literal["sequence", "step"] = "sequence"
    zoneout: PerState = None
    state_clip: PerState = None
    gradient_clip: PerState = None
    activation: str | Callable[[Any], Any] | None = None
    gate_activation: str | Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        norms = self.norms
        if len(set(norms)) < len(norms) or not all(n in NORMS for n in norms):
            raise ValueError(
                f'layer_norm should be True, False, or some of "maps", "memory", "states", got {self.layer_norm!r}'
            )
        if not _is_number(self.recurrent_dropout) or not 0 <= self.recurrent_dropout < 1:
            raise ValueError(
                f"recurrent_dropout should be a probability of at least 0 and below 1, got {self.recurrent_dropout!r}"
            )
        if self.recurrent_dropout_mask not in ("sequence", "step"):
            raise ValueError(
                f'recurrent_dropout_mask should be "sequence" or "step", got {self.recurrent_dropout_mask!r}'
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """The options of these names. Raises TypeError for a name that is none."""
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise TypeError(
                    f"got an unexpected keyword argument {name!r}: the options of a cell are {', '.join(known)}"
                )
        return cls(**given)

    @property
    def norms(self) -> tuple[str, ...]:
        if isinstance(self.layer_norm, bool):
            return ("maps", "memory") if self.layer_norm else ()
        return (self.layer_norm,) if isinstance(self.layer_norm, str) else tuple(self.layer_norm)

    def given(self) -> dict[str, Any]:
        """The options that are not at their defaults."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}


def varied(cell: Cell, options: Options) -> Cell:
    """The cell with its options. Raises ValueError for options that it cannot have."""
    chosen = {n: v for n in ("activation", "gate_activation") if (v := getattr(options, n)) is not None}
    if chosen:
        own: list[str] = [f.name for f in fields(cell)] if dataclasses.is_dataclass(cell) else []
        for name in chosen:
            if name not in own:
                raise ValueError(f"{cell.name} has no field {name}: write the function into its step")
        cell = dataclasses.replace(cell, **chosen)  # type: ignore[type-var]
    return Variant(cell, options) if set(options.given()) - set(chosen) - {"recurrent_dropout_mask"} else cell


class Variant(Cell):
    """A cell with options; see the module and `Options`.

    `resets`: a step at which `signal("reset")` is 1 sees states of 0, or, where `learned_start`, the weights
    `initial_<state>`.
    """

    def __init__(self, cell: Cell, options: Options, resets: bool = False, learned_start: bool = False) -> None:
        self.cell, self.options = cell, options
        self.resets, self.learned_start = resets, learned_start
        self._equations = {mode: trace(cell, mode) for mode in (False, True)}
        self.gates = cell.gates  # type: ignore[misc]
        self.recurrent_gates = cell.recurrent_gates  # type: ignore[misc]
        self.biases = cell.biases  # type: ignore[misc]
        self.projection = cell.projection
        self.state_widths = cell.state_widths  # type: ignore[misc]
        equation = self._equations[False]
        self._states = [s.name for s in equation.states]
        self._zoneout = self._of_each("zoneout", lambda p: 0 <= p <= 1, "a probability from 0 to 1")
        self._clip = self._of_each("state_clip", lambda c: c > 0, "a number above 0")
        self._gradient_clip = self._of_each("gradient_clip", lambda c: c > 0, "a number above 0")
        if "memory" in options.norms and options.layer_norm is not True and not _memory(equation):
            raise ValueError(
                f'{cell.name} has no state besides its output that the output is computed from: layer_norm="memory" '
                'has nothing to normalise, so choose "maps" or "states"'
            )
        self.step = with_signature(self._run, [str(equation.input.data), *self._states])
        self._own_names = {w.name for w in equation.weights}
        self._own_names |= {str(n.data[0]) for e in self._equations.values() for n in e.graph.nodes if n.op == "noise"}

    def __reduce__(self) -> tuple[Any, ...]:
        return Variant, (self.cell, self.options, self.resets, self.learned_start)

    @property
    def name(self) -> str:
        return self.cell.name

    def _of_each(self, option: str, holds: Callable[[float], bool], expected: str) -> list[float | None]:
        """The option's number for each state, None where it has none."""
        value = getattr(self.options, option)
        names = self._states
        numbers = list(value) if isinstance(value, (tuple, list)) else [value] * len(names)
        if len(numbers) != len(names):
            raise ValueError(
                f"{option} should be one number, or one for each state of {self.name} ({', '.join(names)}), "
                f"got {value!r}"
            )
        for v in numbers:
            if v is not None and not (_is_number(v) and holds(v)):
                raise ValueError(f"{option} should be {expected} or None for each state, got {value!r}")
        return numbers

    def _run(self, x: Any, *carried: Any) -> Any:
        """One step: what every state is taken for, the cell's own values, and what becomes of the new states."""
        equation = self._equations[language.training()]
        # A state that the step does not look at needs no reset, and what it would be normalised with is not learned.
        looked_at = {n.index for n in reachable(s.new for s in equation.states)}
        used = [s.seen.index in looked_at for s in equation.states]
        needed = [u or bool(p) for u, p in zip(used, self._zoneout, strict=True)]
        olds = [self._old(k, v) if needed[k] else v for k, v in enumerate(carried)]
        seen = list(olds)
        if "states" in self.options.norms:
            seen = [
                self._normalised(f"seen_{n}", v) if used[k] else v
                for k, (n, v) in enumerate(zip(self._states, olds, strict=True))
            ]
        given = {s.seen.index: labelled(v, f"{s.name}_seen") for s, v in zip(equation.states, seen, strict=True)}
        news = self._replayed(equation, {equation.input.index: x, **given})
        for k, (name, p) in enumerate(zip(self._states, self._zoneout, strict=True)):
            news[k] = self._clipped(k, news[k])
            if p:
                news[k] = zoneout(self._fresh(f"zoneout_{name}"), olds[k], news[k], p)
        return tuple(news) if len(news) > 1 else news[0]

    def _fresh(self, name: str) -> str:
        """A name that an option adds: it must not be taken for something that the cell has itself."""
        if name in self._own_names:
            raise EquationError(f"an option adds {name}, which the cell has already: rename it in the cell's step")
        return name

    def _old(self, k: int, v: Any) -> Any:
        """The state before this step."""
        if self.resets:
            name = f"initial_{self._states[k]}"
            start = weight(self._fresh(name), v) if self.learned_start else 0.0
            v = where(signal("reset") > 0, start, v)
        limit = self._gradient_clip[k]
        return v if limit is None else clip_gradient(v, limit)

    def _clipped(self, k: int, v: Any) -> Any:
        limit = self._clip[k]
        return v if limit is None else clip(v, -limit, limit)

    def _normalised(self, name: str, v: Any) -> Any:
        self._fresh(f"gain_{name}"), self._fresh(f"shift_{name}")
        return layer_norm(name, v)

    def _replayed(self, equation: Equation, given: dict[int, Any]) -> list[Any]:
        """The new states. Every value is made for where it is used, (output?, map?): the output is made of normalised
        and clipped memory, maps are given dropped states."""
        options, first = self.options, equation.states[0]
        drops = options.recurrent_dropout > 0 and language.training()
        changed = "memory" in options.norms or any(c is not None for c in self._clip)
        memory = _memory(equation) if changed else {}
        from_memory = _dependent(equation, set(memory), through_maps=True)
        from_state = _dependent(equation, {first.seen.index} if drops else set(), through_maps=False)
        inits = {w.name: w.init for w in equation.weights}

        def use(node: Node, output: bool, mapped: bool) -> Key:
            return node.index, output and node.index in from_memory, mapped and node.index in from_state

        def needs(key: Key) -> list[Key]:
            index, output, mapped = key
            node = equation.graph.nodes[index]
            if output and index in memory:
                return [use(node, False, mapped)]
            if mapped and node is first.seen:
                return [use(node, False, False)]
            return [use(a, output, mapped or node.op == "affine") for a in node.args]

        roots = [use(s.new, k == 0, False) for k, s in enumerate(equation.states)]
        made: dict[Key, Any] = {}
        for key in _in_order(roots, needs):
            index, output, mapped = key
            node = equation.graph.nodes[index]
            values = [made[k] for k in needs(key)]
            if output and index in memory:
                value = self._clipped(memory[index], values[0])
                if "memory" in options.norms:
                    value = self._normalised(f"new_{self._states[memory[index]]}", value)
            elif mapped and node is first.seen:
                mask = noise(
                    self._fresh(f"dropout_{first.name}"), values[0], options.recurrent_dropout_mask == "sequence"
                )
                p = options.recurrent_dropout
                value = where(mask >= p, values[0] / (1 - p), 0.0)
            elif index in given:
                value = given[index]
            else:
                data = (node.data, inits[node.data]) if node.op == "weight" else node.data
                value = compute(node.op, values, data, node.width)
                if node.op == "affine" and "maps" in options.norms:
                    value = self._normalised(node.data[0], value)
            made[key] = value if index in given else labelled(value, node.label)
        return [made[r] for r in roots]


def _memory(equation: Equation) -> dict[int, int]:
    """The new values of states from which the output is computed, by index: the number of the state."""
    output = equation.states[0].new
    below = {n.index for n in reachable(output.args)}
    news = {s.new.index: k for k, s in enumerate(equation.states) if s.new.op not in LEAVES}
    return {index: k for index, k in news.items() if index in below}


def _dependent(equation: Equation, sources: set[int], through_maps: bool) -> set[int]:
    """The values that are computed from these, sources included."""
    found = set(sources)
    for node in equation.graph.nodes if sources else ():
        if (through_maps or node.op != "affine") and any(a.index in found for a in node.args):
            found.add(node.index)
    return found


def _in_order(roots: Sequence[Key], needs: Callable[[Key], list[Key]]) -> list[Key]:
    """Everything that the roots need, each after what it needs itself."""
    found = set(roots)
    stack = list(roots)
    while stack:
        for key in needs(stack.pop()):
            if key not in found:
                found.add(key)
                stack.append(key)
    return sorted(found)


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
