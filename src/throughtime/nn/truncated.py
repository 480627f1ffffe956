"""Truncated back-propagation through time: a long sequence in pieces, the state carried and cut by the iterator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime.nn.recurrent import Recurrent
from throughtime.nn.steps import RecurrentCell


@dataclass(frozen=True)
class Piece:
    """What one piece of `truncated` gave.

    Attributes:
        output: the module's output for the piece's own time steps (in the module's layout).
        state: the state after the piece, part of its graph; the next piece starts from its value.
        targets: the targets of the same time steps, cut as they were given; None if none were.
        mask: [T, B] ([B, T] if batch first, [T] unbatched), True at real steps; None where no lengths were given.
        start, stop: the piece's steps are [start, stop) of the sequence.
        last: whether no piece follows.
    """

    output: Any
    state: Any
    targets: Any
    mask: Tensor | None
    start: int
    stop: int
    last: bool


class Truncated:
    """The pieces of one batch of sequences; see `truncated`, which makes it.

    `len()` is the number of pieces. Iterating runs each piece when it is reached, so weights changed between two
    pieces count in the next one; iterating again starts from the first piece and the state given.
    """

    def __init__(
        self,
        module: nn.Module,
        input: Tensor,
        length: int,
        state: Any,
        lengths: Any,
        targets: Any,
        context: int,
        batch_first: bool | None,
    ) -> None:
        _check_steps(length, context)
        self.module, self.input, self.length, self.context = module, input, length, context
        batch_first = _batch_first_of(module) if batch_first is None else batch_first
        self.batched, self.axis = _layout(input, batch_first)
        self.steps = input.shape[self.axis]
        self._given = state
        self._state = _detached(state)
        self.targets = targets
        _check_targets(targets, input, self.axis, self.batched)
        self.lengths = _checked_lengths(lengths, input, self.axis, self.batched)
        longest = self.steps if self.lengths is None or not len(self.lengths) else int(self.lengths.max())
        # Where everything has ended there is nothing to learn; a first piece there is always, if only to be refused.
        self._starts = range(0, max(longest, 1), length)
        _check_cuts(module)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def state(self) -> Any:
        """The state after the last piece run, cut off from every graph: what a stream's next call starts from."""
        return self._state

    def __iter__(self) -> Iterator[Piece]:
        self._state = _detached(self._given)
        origin, seen = 0, self._given  # where the next piece begins to run, and the state there
        for start in self._starts:
            stop = min(start + self.length, self.steps)
            # Once the context is full, every piece begins one length later than the one before.
            following = max(0, start + self.length - self.context)
            state = seen
            if origin < following < stop:
                lead, state = self._run(origin, following, state)
                seen = _detached(state)
                rest, state = self._run(following, stop, state)
                output = _joined(lead, rest, self.axis, start - origin)
            else:
                output, state = self._run(origin, stop, state)
                output = _narrowed(output, self.axis, start - origin) if origin < start else output
                seen = _detached(state if following >= stop else seen)
            origin = following
            self._state = _detached(state)
            last = start == self._starts[-1]
            yield Piece(output, state, self._cut(self.targets, start, stop), self._mask(start, stop), start, stop, last)

    def _run(self, start: int, stop: int, state: Any) -> tuple[Any, Any]:
        options = {}
        if self.lengths is not None:
            options["lengths"] = (self.lengths - start).clamp(0, stop - start)
        result = self.module(self._cut(self.input, start, stop), state, **options)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"{type(self.module).__name__} returned {type(result).__name__}, but a module whose sequences are cut "
                "must return its output and its state: (output, state)"
            )
        return result

    def _cut(self, value: Any, start: int, stop: int) -> Any:
        if isinstance(value, Tensor):
            return value.narrow(self.axis, start, stop - start)
        if isinstance(value, Mapping):
            return {k: self._cut(v, start, stop) for k, v in value.items()}
        return tuple(self._cut(v, start, stop) for v in value) if value is not None else None

    def _mask(self, start: int, stop: int) -> Tensor | None:
        if self.lengths is None:
            return None
        mask = torch.arange(start, stop, device=self.lengths.device).unsqueeze(1) < self.lengths
        if not self.batched:
            return mask.squeeze(1)
        return mask.t() if self.axis == 1 else mask


def truncated(
    module: nn.Module,
    input: Tensor,
    length: int,
    state: Any = None,
    lengths: Tensor | Sequence[int] | None = None,
    targets: Any = None,
    context: int = 0,
    batch_first: bool | None = None,
) -> Truncated:
    """Runs long sequences in pieces of `length` steps through which alone the error flows back.

        for piece in tt.truncated(layer, x, length=50, targets=y):
            loss = criterion(head(piece.output), piece.targets)
            optimizer.zero_grad(); loss.backward(); optimizer.step()

    Every piece starts from the value of the state that the one before ended in, and no error crosses that border
    (Williams and Peng 1990, doi:10.1162/neco.1990.2.4.490, BPTT(h; h')). A cut longer than the sequences gives the
    numbers and gradients of `module(input, state)`. Every call starts from `state`, so unrelated sequences never
    follow each other by accident; to go on with a stream, give the next call the `.state` of this one.

    Args:
        module: a recurrent layer, or any module that is called as module(input, state) and returns (output, state).
        input: the whole sequences, as the module takes them: [T, B, I] or word numbers [T, B], or with the batch first.
        length: time steps of a piece (the last may be shorter), after each of which a gradient is wanted.
        state: the state before the first step, or None; error flows into it from the first piece.
        lengths: [B], how many steps of each sequence are real; it may end anywhere in a piece.
        targets: a tensor, or a tuple or dict of tensors, with the batch and time axes of the input, cut with it.
        context: further steps before each piece that its error flows back through; they are run again for it
            (k1 = length and k2 = length + context in the usual names).
        batch_first: None takes it from the recurrent layers in the module.

    Noise that is the same at all steps of a sequence is drawn anew for each piece.

    Raises:
        ValueError: the module reads a sequence backwards (the end would have to be known at the start), its equation
            counts the time steps, or a shape or number does not fit.
        TypeError: `input` is a PackedSequence, or the module does not return (output, state).
    """
    if isinstance(input, PackedSequence):
        raise TypeError("truncated cannot cut a PackedSequence: give the padded tensor and lengths=")
    if not isinstance(input, Tensor):
        raise TypeError(f"truncated expects a tensor as input, got {type(input).__name__}")
    return Truncated(module, input, length, state, lengths, targets, context, batch_first)


def _check_steps(length: int, context: int) -> None:
    for name, value, least in (("length", length, 1), ("context", context, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of time steps, {least} or more, got {value!r}")


def _layers(module: nn.Module) -> list[Any]:
    """The layers that run over whole sequences; single steps say nothing about the input's axes."""
    found = [m for m in module.modules() if isinstance(m, (Recurrent, nn.RNNBase))]
    return [m for m in found if not isinstance(m, RecurrentCell)]


def _batch_first_of(module: nn.Module) -> bool:
    """Whether the batch comes first, as all the recurrent layers inside say."""
    firsts = {bool(layer.batch_first) for layer in _layers(module)}
    if len(firsts) != 1:
        why = "recurrent layers of both kinds" if firsts else "no recurrent layer of this package or torch.nn"
        raise ValueError(
            f"which axis of the input is time cannot be seen, for {type(module).__name__} holds {why}: "
            "say batch_first=True or batch_first=False"
        )
    return firsts.pop()


def _check_cuts(module: nn.Module) -> None:
    """Refuses layers that no sequence can be cut for."""
    for layer in _layers(module):
        if layer.bidirectional or getattr(layer, "reverse", False):
            raise ValueError(
                f"a {type(layer).__name__} that reads the sequence backwards cannot be truncated, for it starts at the "
                "sequence's end: use bidirectional=False, or run the whole sequence at once"
            )
        if isinstance(layer, Recurrent) and any(
            n.op == "time" for e in layer.derived.equations.values() for n in e.graph.nodes
        ):
            raise ValueError(
                f"{layer.cell.name} counts the time steps, and each piece would count from 0 again: "
                "run the whole sequence at once (recompute= saves memory)"
            )


def _layout(input: Tensor, batch_first: bool) -> tuple[bool, int]:
    """Whether the input has a batch axis, and which axis is time."""
    rank = input.dim() + (not input.dtype.is_floating_point)
    if rank not in (2, 3):
        raise ValueError(
            f"input must be [T, B, I] or [T, I] (word numbers [T, B] or [T]), got the shape {tuple(input.shape)}"
        )
    return rank == 3, int(batch_first and rank == 3)


def _checked_lengths(lengths: Any, input: Tensor, axis: int, batched: bool) -> Tensor | None:
    if lengths is None:
        return None
    result = torch.as_tensor(lengths, device=input.device)
    rows, steps = (input.shape[1 - axis] if batched else 1), input.shape[axis]
    if result.shape != (rows,) or result.dtype.is_floating_point or result.dtype == torch.bool:
        raise ValueError(
            f"lengths must be one whole number for each of the {rows} sequences, "
            f"got the shape {tuple(result.shape)} of {result.dtype}"
        )
    if rows and not 0 <= int(result.min()) <= int(result.max()) <= steps:
        raise ValueError(
            f"lengths must lie in [0, {steps}], the time steps given, got {int(result.min())} to {int(result.max())}"
        )
    return result


def _check_targets(targets: Any, input: Tensor, axis: int, batched: bool) -> None:
    axes = 2 if batched else 1
    if targets is None:
        return
    if isinstance(targets, Tensor):
        if targets.shape[:axes] != input.shape[:axes]:
            names = "time" if not batched else "batch and time" if axis else "time and batch"
            raise ValueError(
                f"targets must have the {names} axes of the input, {tuple(input.shape[:axes])}, "
                f"got the shape {tuple(targets.shape)}"
            )
        return
    if not isinstance(targets, (Mapping, tuple, list)):
        raise TypeError(f"targets must be a tensor, or a tuple or dict of tensors, got {type(targets).__name__}")
    for part in targets.values() if isinstance(targets, Mapping) else targets:
        _check_targets(part, input, axis, batched)


def _detached(state: Any) -> Any:
    """The same values with no graph behind them."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, Mapping):
        return {k: _detached(v) for k, v in state.items()}
    if isinstance(state, (tuple, list)):
        parts = [_detached(s) for s in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if state is None:
        return None
    raise TypeError(f"a state must be a tensor, or a tuple, list or dict of tensors, got {type(state).__name__}")


def _narrowed(output: Any, axis: int, first: int) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"with context= the module's output must be a tensor, got {type(output).__name__}")
    return output.narrow(axis, first, output.shape[axis] - first)


def _joined(lead: Any, rest: Any, axis: int, first: int) -> Tensor:
    """The piece's own steps of two outputs that follow each other; `first`: how many steps of the first are context."""
    if not isinstance(lead, Tensor) or not isinstance(rest, Tensor):
        raise TypeError(f"with context= the module's output must be a tensor, got {type(lead).__name__}")
    return _narrowed(torch.cat([lead, rest], axis), axis, first)


__all__ = ["Piece", "Truncated", "truncated"]
