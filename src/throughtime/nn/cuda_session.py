"""`layer.session(batch)` for a layer on a GPU: see `session.py`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from throughtime.nn.precision import NARROW
from throughtime.nn.session import check_input, check_layer, check_run, check_words
from throughtime.nn.shapes import prepare
from throughtime.nn.states import State, checked_states, each, in_kind

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent


class GpuSession:
    """What `Session` is, with the same methods and refusals, for a layer on a GPU: a step is a call of the layer.

    It waits for nothing. Input, states and output of a step stay where they are, so that steps of a tensor, but for a
    cell that reads the time, can be captured in a CUDA graph and replayed.
    """

    def __init__(self, layer: Recurrent, batch: int = 1, state: Any = None) -> None:
        check_layer(layer, batch)
        self.layer, self.batch = layer, batch
        weight = layer.any_weight
        self._own = copy.deepcopy(layer).eval().requires_grad_(False)
        self._own.batch_first = False
        self._x = weight.new_zeros(1, batch, layer.input_size)
        self._words = weight.new_zeros(1, batch, dtype=torch.int64)
        kind = torch.float32 if weight.dtype in NARROW else weight.dtype
        self.output = weight.new_zeros(batch, layer.output_size(layer.num_layers - 1), dtype=kind)
        self._states: list[Any] = [self._zeros(k) for k in range(len(layer.state_names))]
        self._made = 0  # steps of the present sequences
        self.reset(state)

    def _zeros(self, number: int) -> State:
        def made(level: int, count: int) -> Tensor:
            size = self.layer.state_size(self.layer.state_widths[number], level)
            return self.output.new_zeros(count, self.batch, size)

        layers = self.layer.num_layers
        return made(0, layers) if self.layer.uniform else [made(level, 1) for level in range(layers)]

    def step(self, x: Tensor | int) -> Tensor:
        """See `Session.step`. Words of a tensor that are none of the vocabulary end the process later, on the GPU."""
        place = self._words if check_input(x, self.batch, self.layer.input_size) else self._x
        if isinstance(x, Tensor):
            self._check_device(x)
            place[0].copy_(x.detach())
        else:
            check_words(x, x, self.layer.input_size)
            place.fill_(x)
        self.output.copy_(self._advance(place)[0])
        return self.output

    def run(self, x: Tensor) -> Tensor:
        """See `Session.run`."""
        batch_first = self.layer.batch_first
        words = check_run(x, self.batch, self.layer.input_size, batch_first)
        self._check_device(x)
        x = x.detach().transpose(0, 1) if batch_first else x.detach()
        x = x if words else x.to(self._x.dtype)
        made = self._advance(x) if len(x) else self.output.new_zeros(0, *self.output.shape)
        return made.transpose(0, 1) if batch_first else made

    def _advance(self, x: Tensor) -> Tensor:
        """x [T, B, I] or word numbers [T, B] -> outputs [T, B, H]; the states go on."""
        with torch.no_grad():
            call = prepare(self._own, x, None, None)
            call.states, call.origin = self._states, self._made
            output, ends = self._own._run(call)
            self._keep(ends)
        self._made += len(x)
        return output

    def _keep(self, states: list[Any]) -> None:
        for kept, given in zip(self._states, states, strict=True):
            for to, value in zip(kept, given, strict=True):  # layer by layer, whether they are one tensor or not
                to.copy_(value)

    def refresh(self) -> None:
        """Takes the layer's weights as they are now; the states stay."""
        self._own.load_state_dict(self.layer.state_dict())

    def reset(self, state: Any = None) -> None:
        """Begins new sequences, from the layer's initial state or from `state`, as a call of the layer takes it."""
        states, _ = checked_states(self.layer, state, self.layer.any_weight, self.batch, True, False)
        with torch.no_grad():
            self._keep([self._zeros(k) if s is None else s for k, s in enumerate(states)])
        self._made = 0

    @property
    def state(self) -> Any:
        """A copy of the states, in the shapes of a call's final state: give it to `reset`, or to the layer."""
        kind = self.layer.any_weight.dtype
        found = [in_kind(each(s, Tensor.clone), kind) for s in self._states]
        return tuple(found) if len(found) > 1 else found[0]

    def _check_device(self, x: Tensor) -> None:
        if x.device != self.output.device:
            raise RuntimeError(f"the session is on {self.output.device}, the input on {x.device}: move it with .to()")
