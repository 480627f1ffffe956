"""Truncated back-propagation through time: a long sequence in pieces, the state carried and cut by the iterator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime.nn.cuts import (
    batch_first_of,
    check_axes,
    check_layers,
    check_steps,
    checked_lengths,
    detached,
    from_step,
    joined,
    layout_of,
    pieces_of,
)


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
        signals: Mapping[str, Tensor],
    ) -> None:
        check_steps(length, context)
        self.module, self.input, self.length, self.context = module, input, length, context
        batch_first = batch_first_of(module) if batch_first is None else batch_first
        self.batched, self.axis = layout_of(input, batch_first)
        self.steps = input.shape[self.axis]
        self._given = state
        self._state = detached(state)
        self.targets, self.signals = targets, signals
        check_axes("targets", targets, input, self.axis, self.batched)
        for name, signal in signals.items():
            check_axes(name, signal, input, self.axis, self.batched)
        self.lengths = checked_lengths(lengths, input, self.axis, self.batched)
        longest = self.steps if self.lengths is None or not len(self.lengths) else int(self.lengths.max())
        # Where everything has ended there is nothing to learn; a first piece there is always, if only to be refused.
        self._starts = range(0, max(longest, 1), length)
        check_layers(module)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def state(self) -> Any:
        """The state after the last piece run, cut off from every graph: what a stream's next call starts from."""
        return self._state

    def __iter__(self) -> Iterator[Piece]:
        self._state = detached(self._given)
        origin, seen = 0, self._given  # where the next piece begins to run, and the state there
        for start in self._starts:
            stop = min(start + self.length, self.steps)
            # Once the context is full, every piece begins one length later than the one before.
            following = max(0, start + self.length - self.context)
            state = seen
            if origin < following < stop:
                lead, state = self._run(origin, following, state)
                seen = detached(state)
                rest, state = self._run(following, stop, state)
                output = joined(lead, rest, self.axis, start - origin)
            else:
                output, state = self._run(origin, stop, state)
                output = from_step(output, self.axis, start - origin) if origin < start else output
                seen = detached(state if following >= stop else seen)
            origin = following
            self._state = detached(state)
            last = start == self._starts[-1]
            yield Piece(
                output,
                state,
                pieces_of(self.targets, self.axis, start, stop),
                self._mask(start, stop),
                start,
                stop,
                last,
            )

    def _run(self, start: int, stop: int, state: Any) -> tuple[Any, Any]:
        options = pieces_of(self.signals, self.axis, start, stop)
        if self.lengths is not None:
            options["lengths"] = (self.lengths - start).clamp(0, stop - start)
        result = self.module(pieces_of(self.input, self.axis, start, stop), state, **options)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"{type(self.module).__name__} returned {type(result).__name__}, but a module whose sequences are cut "
                "must return its output and its state: (output, state)"
            )
        return result

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
    **signals: Tensor,
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
        signals: further tensors for the module, by the names of its arguments, cut along time as the input is (a mask
            of the steps at which a new sequence begins, say).

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
    return Truncated(module, input, length, state, lengths, targets, context, batch_first, signals)


__all__ = ["Piece", "Truncated", "truncated"]
