"""`layer.session(batch)`: a layer whose states and packed weights stay, for input that comes step by step."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from throughtime.nn.precision import NARROW
from throughtime.nn.session_stage import Stage
from throughtime.nn.states import State, checked_states, in_kind

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent


class Session:
    """A stack that is given one step at a time, or some, in evaluation mode and without gradients.

    `batch`: B, sequences side by side. The numbers are those of a call on the whole sequences. Weights are packed when
    the session is opened; `refresh` takes them anew. Nothing is allocated by a step, which gives its output in the same
    tensor every time: copy what must outlive the next step. A session belongs to one thread at a time. It works on as
    many threads as torch had when it was opened, where that is faster.

    Raises NotImplementedError for layers that cannot be run step by step (both directions, reverse) or whose steps need
    more than x (signals, connections between layers), for heads, and for the reference backend.
    """

    def __init__(self, layer: Recurrent, batch: int = 1, state: Any = None) -> None:
        check_layer(layer, batch)
        self.layer, self.batch = layer, batch
        self._stages = [Stage(layer, level, batch) for level in range(layer.num_layers)]
        first, last = self._stages[0], self._stages[-1]
        self.output = last.output[0]  # [B, H]
        self._dtype, self._width = first.dtype, layer.input_size
        self._x = torch.zeros(batch, layer.input_size, dtype=self._dtype)
        self._handles = (ctypes.c_void_p * len(self._stages))(*(s.stepping for s in self._stages))
        self._step, self._count = first.library.tt_step, len(self._stages)
        self._steps = True  # rather than runs
        self.reset(state)

    def step(self, x: Tensor | int) -> Tensor:
        """One step of all sequences: x [B, I], or int64 word numbers [B], or one number where B = 1; returns the
        output [B, H] of the last layer, which the next step overwrites.

        Raises TypeError, ValueError or IndexError for input of another shape, kind or range.
        """
        if not self._steps:
            self._switch(False)
        if x.__class__ is int or (isinstance(x, Tensor) and not x.dtype.is_floating_point):
            return self._step_words(x)
        if not isinstance(x, Tensor) or x.shape != self._x.shape:
            check_input(x, self.batch, self._width)
        assert isinstance(x, Tensor)
        if x.dtype != self._dtype or not x.is_contiguous() or not x.is_cpu:
            _check_device(x)
            x = self._x.copy_(x.detach())
        self._step(self._handles, self._count, x.data_ptr(), self._width, 0)
        return self.output

    def _step_words(self, words: Tensor | int) -> Tensor:
        check_input(words, self.batch, self._width)
        if isinstance(words, Tensor):
            low, high = (int(words.min()), int(words.max())) if self.batch > 1 else (int(words), int(words))
        else:
            low = high = words
        check_words(low, high, self._width)
        first = self._stages[0]
        if first.reads_x or not first.maps_input:  # the step itself asks for the one-hot vector
            self._x.zero_()[torch.arange(self.batch), torch.as_tensor(words)] = 1
            self._step(self._handles, self._count, self._x.data_ptr(), self._width, 0)
            return self.output
        table = first.rows_of_words()
        between = table.stride(0)
        if self.batch == 1:
            address = table.data_ptr() + low * between * table.itemsize
        else:
            torch.index_select(table, 0, words, out=first.net)  # type: ignore[arg-type]
            address = first.net.data_ptr()
        self._step(self._handles, self._count, address, between, 1)
        return self.output

    def run(self, x: Tensor) -> Tensor:
        """Some steps at once: x [T, B, I] ([B, T, I] if the layer is `batch_first`), or int64 word numbers [T, B]
        ([B, T]); returns the outputs [T, B, H] ([B, T, H]) of the last layer, a new tensor.

        The same as so many `step`s, and faster: W x is made for many steps at a time, in every layer.
        Raises TypeError, ValueError or IndexError for input of another shape, kind or range.
        """
        batch_first = self.layer.batch_first
        words = check_run(x, self.batch, self._width, batch_first)
        _check_device(x)
        x = x.detach().transpose(0, 1) if batch_first else x.detach()
        given = 0
        if words:
            x, given = self._of_words(x)
        x = x.to(self._dtype)
        self._switch(True)
        for stage in self._stages:
            x, given = stage.run(x, given), 0
        return x.transpose(0, 1) if batch_first else x

    def _switch(self, many: bool) -> None:
        for stage in self._stages:
            stage.switch(many)
        self._steps = not many

    def _of_words(self, words: Tensor) -> tuple[Tensor, int]:
        """What the first layer is given for these word numbers: W x where it maps its input, else one-hot vectors."""
        if words.numel():
            check_words(int(words.min()), int(words.max()), self._width)
        first = self._stages[0]
        if first.reads_x or not first.maps_input:
            return torch.nn.functional.one_hot(words.long(), self._width).to(self._dtype), 0
        return torch.nn.functional.embedding(words.long(), first.rows_of_words()), 1

    def refresh(self) -> None:
        """Takes the layer's weights as they are now; the states stay."""
        for stage in self._stages:
            stage.take_weights(self.layer)

    def reset(self, state: Any = None) -> None:
        """Begins new sequences, from the layer's initial state or from `state`, as a call of the layer takes it."""
        weight = self.layer.any_weight
        states, _ = checked_states(self.layer, state, weight, self.batch, True, False)
        self._load(states, 0)

    @property
    def state(self) -> Any:
        """A copy of the states, in the shapes of a call's final state: give it to `reset`, or to the layer."""
        for stage in self._stages:
            stage.store()
        states: list[State] = []
        for k in range(len(self.layer.state_names)):
            parts = [stage.states[k].clone() for stage in self._stages]
            states.append(torch.cat(parts) if self.layer.uniform else parts)
        kind = self.layer.any_weight.dtype
        found = [in_kind(s, kind) for s in states] if kind in NARROW else states
        return tuple(found) if len(found) > 1 else found[0]

    def _load(self, states: list[State], origin: int) -> None:
        for level, stage in enumerate(self._stages):
            for k, state in enumerate(states):
                if state is None:
                    stage.states[k].zero_()
                else:
                    own = state[level] if isinstance(state, list) else state[level : level + 1]
                    stage.states[k].copy_(own.detach())
            stage.load(origin)


def _check_device(x: Tensor) -> None:
    if not x.is_cpu:
        raise RuntimeError(f"a session works on the CPU, the input is on {x.device}: move it with .to()")


def check_layer(layer: Recurrent, batch: int) -> None:
    """Raises what `Session` says."""
    if type(batch) is not int or batch < 1:
        raise ValueError(f"batch should be a number of sequences above 0, got {batch!r}")
    obstacles = {
        "both directions": layer.bidirectional,
        "the reverse direction": layer.reverse,
        "connections between layers": layer.connections is not None,
        "heads": layer.heads > 1,
        'backend="reference"': layer.backend != "compiled",
        f"the signals {', '.join(layer.derived.signals)}": bool(layer.derived.signals),
    }
    for what, given in obstacles.items():
        if given:
            raise NotImplementedError(f"a session runs forward, step by step: it has no place for {what}")
    if layer.any_weight.device.type not in ("cpu", "cuda"):
        raise NotImplementedError(f"a session works on the CPU and on NVIDIA GPUs, not on {layer.any_weight.device}")


def check_input(x: object, batch: int, width: int) -> bool:
    """Whether a step is given word numbers. Raises TypeError or ValueError for what is neither x nor words."""
    if x.__class__ is int:
        if batch != 1:
            raise ValueError(f"a step of {batch} sequences expects as many word numbers, got one")
        return True
    if not isinstance(x, Tensor):
        raise TypeError(f"a step expects a tensor or a word number, got {type(x).__name__}")
    words = not x.dtype.is_floating_point
    wanted = (batch,) if words else (batch, width)
    if x.shape != wanted:
        raise ValueError(f"a step expects {'word numbers' if words else 'x'} as {wanted}, got {tuple(x.shape)}")
    return words


def check_run(x: object, batch: int, width: int, batch_first: bool) -> bool:
    """The same for some steps at once."""
    if not isinstance(x, Tensor):
        raise TypeError(f"run expects a tensor, got {type(x).__name__}")
    words = not x.dtype.is_floating_point
    own = () if words else (width,)
    rows = x.shape[0 if batch_first else 1 :][:1]
    if x.dim() != 2 + len(own) or rows != (batch,) or x.shape[2:] != own:
        expected = ", ".join(map(str, ((batch, "T") if batch_first else ("T", batch)) + own))
        raise ValueError(f"run expects {'word numbers' if words else 'x'} as ({expected}), got {tuple(x.shape)}")
    return words


def check_words(low: int, high: int, vocabulary: int) -> None:
    if not 0 <= low <= high < vocabulary:
        raise IndexError(f"word numbers must lie in [0, {vocabulary}), the vocabulary, got {low} to {high}")
