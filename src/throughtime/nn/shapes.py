"""What a layer may be given, checked once at the door: shapes, lengths, states, with one sentence for each mistake."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import dropout
from torch.nn.utils.rnn import PackedSequence

from throughtime.nn import precision
from throughtime.nn.cuda_wish import VARIABLE as CUDA_VARIABLE
from throughtime.nn.packed import Packing
from throughtime.nn.states import State, checked_states, each, in_kind

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent


def check_options(
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bias: bool,
    batch_first: bool,
    dropout: Any,
    recompute: int | None,
    backend: str,
) -> None:
    """Raises TypeError or ValueError for options that no layer can have, torch.nn's with torch.nn's words."""
    if isinstance(dropout, bool) or not issubclass(type(dropout), Real) or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed, "
            f"got {dropout!r}"
        )
    for name, flag in (("bias", bias), ("batch_first", batch_first)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(flag).__name__}")
    for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
        if value <= 0:
            raise ValueError(f"{name} must be greater than zero, got {value}")
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
            f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
            stacklevel=3,
        )
    if recompute is not None and (type(recompute) is not int or recompute < 1):
        raise ValueError(f"recompute should be None or a number of steps above 0, got {recompute!r}")
    if backend not in ("compiled", "reference"):
        raise ValueError(f'backend should be "compiled" or "reference", got {backend!r}')


def check_heads(hidden_size: int, heads: int) -> None:
    if type(heads) is not int or heads < 1 or hidden_size % heads:
        raise ValueError(f"heads should be a number that divides hidden_size ({hidden_size}), got {heads!r}")


def hidden_sizes(given: Any, num_layers: Any) -> tuple[int, ...]:
    """The hidden size of every layer."""
    if not isinstance(given, (tuple, list)):
        return (given,) * max(1, num_layers if isinstance(num_layers, int) else 1)
    if len(given) != num_layers:
        raise ValueError(
            f"hidden_size has {len(given)} numbers for {num_layers} layers: give one number, or one for each layer"
        )
    return tuple(given)


def check_probability(name: str, p: object) -> None:
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p < 1:
        raise ValueError(f"{name} should be a probability of at least 0 and below 1, got {p!r}")


@dataclass
class Call:
    """A checked call: x [T, B, I] or word numbers [T, B]; each state as in `State`.

    `signals` [T, B, 1] by name; `resets`: whether one of them is a reset that the cell's own step does not read.
    `kinds`: the dtypes of the final states, the first of which is the output's; None: that of x. `packing`: of a
    PackedSequence. `origin`: the number of the first step.
    """

    x: Tensor
    states: list[State]
    lengths: Tensor | None
    batch_first: bool
    batched: bool
    tuple_state: bool
    kinds: list[torch.dtype] | None
    packing: Packing | None
    autocast: bool
    signals: dict[str, Tensor] = field(default_factory=dict)
    resets: bool = False
    origin: int = 0

    def dropped(self, x: Tensor, p: float) -> Tensor:
        """Dropout on x [T, B, F], whose mask falls on the numbers in torch.nn's order: step by step, packed or not."""
        if self.packing is None:
            return dropout(x.contiguous(), p)
        return self.packing.pad(dropout(self.packing.rows_of(x), p))


def prepare(layer: Recurrent, input: Any, state: Any, lengths: Any) -> Call:
    """Checks and unifies what `forward` was given. Raises TypeError, ValueError or RuntimeError as torch.nn does."""
    packing = None
    batch_first = layer.batch_first
    if isinstance(input, PackedSequence):
        if lengths is not None:
            raise TypeError("a PackedSequence has its own lengths: leave lengths= out")
        data = input.data
        if data.dim() != 2 and (data.dim() != 1 or data.is_floating_point()):
            raise RuntimeError(f"input must have 2 dimensions, got {data.dim()}")
        packing = Packing(input)
        input, lengths, batch_first = packing.pad(data), packing.lengths, False
    elif not isinstance(input, Tensor):
        raise TypeError(f"{type(layer).__name__} expects a tensor as input, got {type(input).__name__}")
    kind = input.dtype
    words = kind in (torch.int64, torch.int32) and input.dim() < 3
    rank = input.dim() + words
    if rank not in (2, 3):
        wanted = "1D or 2D, as word numbers are" if words else "2D or 3D"
        # torch.nn's RNN says "tensor" here, its GRU and LSTM do not.
        given = f"{input.dim()}D tensor" if getattr(layer, "mode", "").startswith("RNN") else f"{input.dim()}D"
        raise ValueError(f"{type(layer).__name__}: Expected input to be {wanted}, got {given} instead")
    batched = rank == 3
    if not batched:
        input = input.unsqueeze(0 if batch_first else 1)
    x = input.transpose(0, 1) if batch_first else input
    weight = layer.any_weight
    autocast = precision.under_autocast(weight)
    if not words:
        _check_kind(kind, weight.dtype, autocast)
        if x.shape[2] != layer.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {layer.input_size}, got {x.shape[2]}"
            )
    check_device(layer, x, weight)
    if x.shape[0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    if packing is None and lengths is not None:
        lengths = real_lengths(lengths, x)
        if words:  # those in the padding may be none of the vocabulary
            x = x.masked_fill(torch.arange(x.shape[0], device=x.device).unsqueeze(1) >= lengths, 0)
    if words:
        x = checked_words(x, layer.input_size)
    states, is_tuple = checked_states(layer, state, weight, x.shape[1], batched, autocast)
    return typed(layer, Call(x, states, lengths, batch_first, batched, is_tuple, None, packing, autocast), weight)


def _check_kind(given: torch.dtype, own: torch.dtype, autocast: bool) -> None:
    """Raises ValueError, in torch.nn's words, for an input that the layer's weights cannot be multiplied with."""
    if not own.is_floating_point:
        raise ValueError(f"the layer's weights are {own}: a recurrence is computed in floating-point numbers")
    if given != own and not (autocast and given.is_floating_point):
        other = f"convert model: model.to({given})" if given.is_floating_point else "give word numbers: int64 [T, B]"
        raise ValueError(
            f"RNN input dtype ({given}) does not match weight dtype ({own}). Convert input: input.to({own}), or {other}"
        )


def check_device(layer: Recurrent, x: Tensor, weight: Tensor) -> None:
    if x.device != weight.device:
        raise RuntimeError(f"input is on {x.device} but the layer is on {weight.device}: move one with .to()")
    if layer.backend == "compiled" and x.device.type not in ("cpu", "cuda", "meta"):
        raise NotImplementedError(
            "the compiled backend works on the CPU and on NVIDIA GPUs, "
            f'the input is on {x.device}: use backend="reference" there'
        )
    if layer.backend == "compiled" and x.device.type == "cuda" and not os.environ.get(CUDA_VARIABLE):
        raise NotImplementedError(
            f"the CUDA kernels have been compiled and emulated, but have never run on a GPU: set {CUDA_VARIABLE}=block "
            f'to try them, or use backend="reference" on {x.device}'
        )


def typed(layer: Recurrent, call: Call, weight: Tensor) -> Call:
    """The call with its tensors in the dtype of the arithmetic and its `kinds`."""
    if call.autocast:
        first = [s[0] if isinstance(s, list) else s for s in call.states]
        call.kinds = precision.autocast_kinds(layer, weight, call.x, first, call.packing is not None)
    elif weight.dtype in precision.NARROW:
        call.kinds = [weight.dtype] * len(call.states)
    if call.kinds is not None:
        call.x = call.x.float() if call.x.dtype in precision.NARROW else call.x
        call.states = [each(s, lambda p: p.float() if p.dtype in precision.NARROW else p) for s in call.states]
    return call


def checked_words(x: Tensor, vocabulary: int) -> Tensor:
    """Word numbers [T, B] as int64. Raises IndexError for one that is not in [0, vocabulary)."""
    x = x.long()
    if torch.compiler.is_compiling() or x.is_cuda:  # a GPU is not waited for
        torch._assert_async(((x >= 0) & (x < vocabulary)).all(), "word numbers must lie in the vocabulary")
    elif not _within(x, 0, vocabulary - 1):
        raise IndexError(f"word numbers must lie in [0, {vocabulary}), the vocabulary, got {_range(x)}")
    return x


def _bare(numbers: Tensor) -> Tensor:
    """The numbers of all calls that torch.func.vmap makes one of."""
    while torch._C._functorch.is_functorch_wrapped_tensor(numbers):
        numbers = torch._C._functorch.get_unwrapped(numbers)
    return numbers


def _within(numbers: Tensor, least: int, most: int) -> bool:
    numbers = _bare(numbers)
    return numbers.is_meta or not numbers.numel() or least <= int(numbers.min()) <= int(numbers.max()) <= most


def _range(numbers: Tensor) -> str:
    return f"{int(_bare(numbers).min())} to {int(_bare(numbers).max())}"


def real_lengths(lengths: Any, x: Tensor) -> Tensor:
    """The lengths of the sequences of x [T, B, ...] as int64 [B]. Raises TypeError or ValueError for others."""
    steps, rows = x.shape[:2]
    if not isinstance(lengths, Tensor):
        if not isinstance(lengths, Sequence) or isinstance(lengths, str):
            raise TypeError(f"lengths must be a tensor or a list of whole numbers, got {type(lengths).__name__}")
        lengths = torch.tensor(lengths)
    if lengths.numel() and (lengths.dtype.is_floating_point or lengths.dtype == torch.bool):
        raise TypeError(f"lengths must be whole numbers, got {lengths.dtype}")
    if lengths.shape != (rows,):
        raise ValueError(
            f"lengths must have one number for each of the {rows} sequences, got the shape {tuple(lengths.shape)}"
        )
    if torch.compiler.is_compiling() or lengths.is_cuda:
        torch._assert_async(((lengths >= 0) & (lengths <= steps)).all(), "lengths must lie in [0, T]")
        lengths = lengths.clamp(0, steps)  # a kernel must never leave its arrays, whatever becomes of the assertion
    elif not _within(lengths, 0, steps):
        raise ValueError(f"lengths must lie in [0, {steps}], the time steps given, got {_range(lengths)}")
    checked: Tensor = lengths.to(device=x.device, dtype=torch.int64).contiguous()
    return checked


def finish(call: Call, output: Tensor, states: list[Any]) -> tuple[Any, Any]:
    """The results in the shape and dtype in which the input came; output [T, B, D·H], `states` as in `State`."""
    if call.kinds is not None:
        output = output.to(call.kinds[0])
        states = [in_kind(s, k) for s, k in zip(states, call.kinds, strict=True)]
    result: Any = output.transpose(0, 1) if call.batch_first else output
    if call.packing is not None:
        result = call.packing.pack(output)
    elif not call.batched:
        result = result.squeeze(0 if call.batch_first else 1)
        states = [each(s, lambda p: p.squeeze(1)) for s in states]
    return result, tuple(states) if call.tuple_state else states[0]
