"""The ONNX operators RNN, GRU and LSTM as modules: their weights in this package's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from throughtime.cells import Elman
from throughtime.cells.onnx import ACTIVATIONS, Activation, OnnxGRU, OnnxLSTM
from throughtime.nn.recurrent import Recurrent
from throughtime.symbolic.language import Cell

GATES = {"RNN": ("net",), "GRU": ("z", "r", "n"), "LSTM": ("i", "o", "f", "g")}
"""The row blocks of ONNX's W, R and both halves of B, by this package's names."""
PEEPHOLES = ("p_i", "p_o", "p_f")
DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


class OnnxRecurrent(nn.Module):
    """One ONNX operator; see `from_onnx`, which makes it. `layers` holds a `Recurrent` for each direction."""

    def __init__(self, operator: str, layers: Sequence[Recurrent], reverse: Sequence[bool], layout: int) -> None:
        super().__init__()
        self.operator, self.reverse, self.layout = operator, tuple(reverse), layout
        self.layers = nn.ModuleList(layers)

    def forward(
        self,
        X: Tensor,
        sequence_lens: Tensor | None = None,
        initial_h: Tensor | None = None,
        initial_c: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Y, Y_h and, of an LSTM, Y_c, in ONNX's shapes.

        X [T, B, I], sequence_lens [B], initial_h and initial_c [D, B, H]; Y [T, D, B, H], Y_h and Y_c [D, B, H]. With
        layout=1 X [B, T, I], states [B, D, H] and Y [B, T, D, H].
        """
        x = X.transpose(0, 1) if self.layout else X
        given = [s if s is None or not self.layout else s.transpose(0, 1) for s in (initial_h, initial_c)]
        outputs, ends = [], []
        for d, (layer, reverse) in enumerate(zip(self.layers, self.reverse, strict=True)):
            output, end = layer(_backwards(x, sequence_lens) if reverse else x, self._state(given, d, x), sequence_lens)
            outputs.append(_backwards(output, sequence_lens) if reverse else output)
            ends.append(end if isinstance(end, tuple) else (end,))
        results = [torch.stack(outputs, 1), *(torch.cat(e) for e in zip(*ends, strict=True))]
        if self.layout:
            results = [results[0].permute(2, 0, 1, 3), *(e.transpose(0, 1) for e in results[1:])]
        return tuple(results)

    def _state(self, given: Sequence[Tensor | None], direction: int, x: Tensor) -> Any:
        """The state of one direction, [1, B, H] each; zeros for one that is missing beside another."""
        layer: Any = self.layers[direction]
        given = given[: len(layer.state_names)]
        if all(s is None for s in given):
            return None
        shape = (1, x.shape[1], layer.hidden_size)
        parts = tuple(x.new_zeros(shape) if s is None else s[direction : direction + 1] for s in given)
        return parts if len(parts) > 1 else parts[0]


def _backwards(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Every sequence of x [T, B, W] from its own end to its start; what lies behind its end stays there."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return x.gather(0, source.unsqueeze(2).expand_as(x))


def from_onnx(
    operator: Literal["RNN", "GRU", "LSTM"],
    W: Any,
    R: Any,
    B: Any = None,
    P: Any = None,
    *,
    direction: Literal["forward", "reverse", "bidirectional"] = "forward",
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    clip: float | None = None,
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    input_forget: int = 0,
) -> OnnxRecurrent:
    """An ONNX RNN, GRU or LSTM node (operator sets 7 to 22) as a module that is called as the operator is.

    Args:
        operator: the node's op_type.
        W, R, B, P: its weights, as arrays or tensors: [D, G·H, I], [D, G·H, H], [D, 2·G·H] and [D, 3·H].
        activations: f (RNN), f and g (GRU) or f, g and h (LSTM) for each direction. `activation_alpha` and
            `activation_beta` are consumed by those that have such a number, in order.
        clip, direction, hidden_size, layout, linear_before_reset, input_forget: the node's attributes.

    Raises:
        ValueError: for weights, activations or attributes that do not fit the operator.
    """
    if operator not in GATES:
        raise ValueError(f"the recurrent operators of ONNX are RNN, GRU and LSTM, got {operator!r}")
    if direction not in DIRECTIONS:
        raise ValueError(f'direction should be "forward", "reverse" or "bidirectional", got {direction!r}')
    reverse = DIRECTIONS[direction]
    weights = {n: None if v is None else torch.as_tensor(v) for n, v in (("W", W), ("R", R), ("B", B), ("P", P))}
    hidden, inputs = _checked(operator, weights, len(reverse), hidden_size)
    functions = _functions(operator, activations, activation_alpha, activation_beta, clip, len(reverse))
    layers = []
    for d in range(len(reverse)):
        cell = _cell(operator, functions[d], P is not None, bool(linear_before_reset), bool(input_forget))
        dtype, device = weights["W"].dtype, weights["W"].device  # type: ignore[union-attr]
        layer = Recurrent(cell, inputs, hidden, bias=B is not None, dtype=dtype, device=device)
        _load(layer, operator, {n: w[d] for n, w in weights.items() if w is not None})
        layers.append(layer)
    return OnnxRecurrent(operator, layers, reverse, layout)


def _cell(operator: str, functions: Sequence[Activation], peepholes: bool, linear: bool, coupled: bool) -> Cell:
    if operator == "RNN":
        return Elman(functions[0])
    if operator == "GRU":
        f, g = functions
        return OnnxGRU(f, g, linear)
    f, g, h = functions
    return OnnxLSTM(f, g, h, peepholes, coupled)


def _checked(
    operator: str, weights: dict[str, Tensor | None], directions: int, hidden_size: int | None
) -> tuple[int, int]:
    """The sizes H and I, when all weights have them."""
    W, R = weights["W"], weights["R"]
    gates = len(GATES[operator])
    if W is None or W.dim() != 3 or R is None or R.dim() != 3:
        raise ValueError(f"W and R of an ONNX {operator} have three axes: [D, {gates}·H, I] and [D, {gates}·H, H]")
    hidden, inputs = R.shape[2], W.shape[2]
    if hidden_size not in (None, hidden):
        raise ValueError(f"hidden_size is {hidden_size}, but R is made for {hidden}")
    if weights["P"] is not None and operator != "LSTM":
        raise ValueError(f"an ONNX {operator} has no peepholes P")
    shapes: dict[str, tuple[int, ...]] = {
        "W": (directions, gates * hidden, inputs),
        "R": (directions, gates * hidden, hidden),
        "B": (directions, 2 * gates * hidden),
        "P": (directions, 3 * hidden),
    }
    for name, weight in weights.items():
        if weight is not None and tuple(weight.shape) != shapes[name]:
            raise ValueError(
                f"{name} of this {operator} should have the shape {shapes[name]}, got {tuple(weight.shape)}"
            )
    return hidden, inputs


def _functions(
    operator: str,
    names: Sequence[str] | None,
    alphas: Sequence[float],
    betas: Sequence[float],
    clip: float | None,
    directions: int,
) -> list[list[Activation]]:
    """The activations of every direction."""
    each = len(DEFAULTS[operator])
    if names is None:
        names = DEFAULTS[operator] * directions
    if len(names) == 2 and operator == "RNN" and directions == 1:
        names = names[:1]  # the attribute's default lists one for each direction that there could be
    if len(names) != each * directions:
        raise ValueError(
            f"an ONNX {operator} of {directions} directions has {each * directions} activations, got {names}"
        )
    given = iter(alphas), iter(betas)
    found = []
    for name in names:
        name = name if isinstance(name, str) else bytes(name).decode()
        if name not in ACTIVATIONS:
            raise ValueError(f"the activation {name!r} is none of ONNX's: {', '.join(ACTIVATIONS)}")
        alpha, beta = 0.0, 0.0
        for k, default in enumerate(ACTIVATIONS[name][1]):
            number = next(given[k], default)
            if number is None:
                raise ValueError(f"the activation {name} has no defaults: give activation_alpha and activation_beta")
            alpha, beta = (number, beta) if k == 0 else (alpha, number)
        found.append(Activation(name, alpha, beta, clip))
    return [found[d * each : (d + 1) * each] for d in range(directions)]


@torch.no_grad()
def _load(layer: Recurrent, operator: str, weights: dict[str, Tensor]) -> None:
    """Copies one direction's weights, block by block: ONNX's order of gates is not this package's."""
    gates, size = GATES[operator], layer.hidden_size
    half = len(gates) * size
    bias = weights.get("B")
    sources = {"weight_ih": weights["W"], "weight_hh": weights["R"]}
    if bias is not None:
        sources |= {"bias_ih": bias[:half], "bias_hh": bias[half:]}
    for parameter, spec, sizes in layer.described_parameters():
        for block, _ in spec.rows:
            if spec.kind == "weight":
                source, number = weights["P"], PEEPHOLES.index(block)
            else:
                source, number = sources[spec.name], gates.index("n" if block == "m" else block)
            first = spec.first_row(block, sizes)
            parameter[first : first + size] = source[number * size : (number + 1) * size]


__all__ = ["OnnxRecurrent", "from_onnx"]
