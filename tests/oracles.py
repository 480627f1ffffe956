"""What every cell must compute: one step each in plain torch, written by hand from the papers' equations.

Nothing here comes from the package. `run` puts the steps together in the plainest way there is: a Python
loop over layers, directions, sequences and time steps, differentiated by torch's autograd. It is slow, and
meant to be.

A step takes the layer's parameters p, the input x [I] and the previous states [H] of one sequence, and
returns the tuple of new states; the first is the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Step = Callable[..., tuple[Tensor, ...]]


class Parameters:
    """One layer and direction of a module's parameters, by name without the suffix; an absent bias is 0."""

    def __init__(self, parameters: Mapping[str, Tensor], suffix: str) -> None:
        names = [name for name in parameters if name.endswith(suffix)]
        self._tensors = {name.removesuffix(suffix): parameters[name] for name in names}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("bias"):
            return self._tensors.get(name, 0.0)
        return self._tensors[name]


def run(
    step: Step,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    state: Sequence[Tensor],
    lengths: Sequence[int] | None = None,
    bidirectional: bool = False,
    num_layers: int = 1,
) -> tuple[Tensor, list[Tensor]]:
    """The layer's output [T, B, D*H] and final states, each [L*D, B, H].

    x is [T, B, I], or integers [T, B] that stand for one-hot vectors. Each state is [L*D, B, H]. A sequence
    takes part in its first lengths[b] steps only: the reverse direction starts at its own end, the output
    after it is 0.
    """
    if not x.is_floating_point():
        width = parameters["weight_ih_l0"].shape[1]
        x = torch.nn.functional.one_hot(x, width).to(state[0].dtype)
    steps, batch = x.shape[:2]
    lengths = [steps] * batch if lengths is None else list(lengths)
    directions = ["", "_reverse"] if bidirectional else [""]
    final: list[list[list[Tensor]]] = [[] for _ in state]  # [states][L*D][B]
    below = [[x[t, b] for t in range(lengths[b])] for b in range(batch)]  # [B][length]: padding is never touched
    for layer in range(num_layers):
        outputs = []  # [D][B][length]
        for d, reverse in enumerate(directions):
            p = Parameters(parameters, f"_l{layer}{reverse}")
            row = layer * len(directions) + d
            ends = [_sequence(step, p, below[b], [s[row, b] for s in state], bool(reverse)) for b in range(batch)]
            outputs.append([output for output, _ in ends])
            for k, of_state in enumerate(final):
                of_state.append([last[k] for _, last in ends])
        below = [
            [torch.cat([outputs[d][b][t] for d in range(len(directions))]) for t in range(lengths[b])]
            for b in range(batch)
        ]
    padding = torch.zeros(len(directions) * state[0].shape[-1], dtype=x.dtype)
    output = [[below[b][t] if t < lengths[b] else padding for b in range(batch)] for t in range(steps)]
    return _stacked(output), [_stacked(rows) for rows in final]


def _sequence(
    step: Step, p: Parameters, inputs: list[Tensor], state: Sequence[Tensor], reverse: bool
) -> tuple[list[Tensor], Sequence[Tensor]]:
    """One sequence: the first state after each step, in the order of time, and all states after the last."""
    outputs = []
    for x in reversed(inputs) if reverse else inputs:
        state = step(p, x, *state)
        outputs.append(state[0])
    return outputs[::-1] if reverse else outputs, state


def _stacked(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row) for row in rows])


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": lambda v: v.clamp(min=0),
    "sigmoid": lambda v: 1 / (1 + torch.exp(-v)),
    "identity": lambda v: v,
    "leaky_relu": lambda v: torch.where(v > 0, v, 0.01 * v),
    "elu": lambda v: torch.where(v > 0, v, torch.exp(v.clamp(max=0)) - 1),
    "selu": lambda v: 1.0507009873554805 * torch.where(v > 0, v, 1.6732632423543772 * (torch.exp(v.clamp(max=0)) - 1)),
    "gelu": lambda v: v * (1 + torch.special.erf(v / math.sqrt(2))) / 2,
    "silu": lambda v: v / (1 + torch.exp(-v)),
    "softplus": lambda v: torch.log(1 + torch.exp(v)),
    "softsign": lambda v: v / (1 + v.abs()),
    "hard_tanh": lambda v: torch.where(v > 1, 1.0, torch.where(v < -1, -1.0, v)),
    "hard_sigmoid": lambda v: torch.where(v > 3, 1.0, torch.where(v < -3, 0.0, v / 6 + 0.5)),
    "sin": torch.sin,
}
"""The activations of the simple recurrent network; constants as in torch.nn.functional."""

KINKS: dict[str, tuple[float, ...]] = {
    "relu": (0.0,),
    "leaky_relu": (0.0,),
    "selu": (0.0,),
    "hard_tanh": (-1.0, 1.0),
    "hard_sigmoid": (-3.0, 3.0),
}
"""Where an activation has no derivative."""


def elman(activation: str = "tanh") -> Step:
    """Simple recurrent network: h' = f(W x + b + R h)."""
    f = ACTIVATIONS[activation]

    def step(p: Any, x: Tensor, h: Tensor) -> tuple[Tensor]:
        return (f(p.weight_ih @ x + p.bias_ih + p.weight_hh @ h + p.bias_hh),)

    return step


def gru_reset_after(p: Any, x: Tensor, h: Tensor) -> tuple[Tensor]:
    """torch's GRU: the reset gate multiplies the recurrent product and its bias."""
    from_x = p.weight_ih @ x + p.bias_ih
    from_h = p.weight_hh @ h + p.bias_hh
    (r_x, z_x, n_x), (r_h, z_h, n_h) = from_x.chunk(3), from_h.chunk(3)
    r = torch.sigmoid(r_x + r_h)
    z = torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + r * n_h)
    return ((1 - z) * n + z * h,)


def gru_reset_before(p: Any, x: Tensor, h: Tensor) -> tuple[Tensor]:
    """Cho et al. 2014: the reset gate multiplies the state before the recurrent product."""
    r_x, z_x, n_x = (p.weight_ih @ x + p.bias_ih + p.bias_hh).chunk(3)
    r_recurrent, z_recurrent, n_recurrent = p.weight_hh.chunk(3)
    r = torch.sigmoid(r_x + r_recurrent @ h)
    z = torch.sigmoid(z_x + z_recurrent @ h)
    n = torch.tanh(n_x + n_recurrent @ (r * h))
    return ((1 - z) * n + z * h,)


def lstm(p: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """torch's LSTM."""
    i, f, g, o = (p.weight_ih @ x + p.bias_ih + p.weight_hh @ h + p.bias_hh).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def lstm_peephole(p: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Gers et al. 2002: the gates see the cell state; the output gate sees the new one."""
    i, f, g, o = (p.weight_ih @ x + p.bias_ih + p.weight_hh @ h + p.bias_hh).chunk(4)
    new_c = torch.sigmoid(f + p.p_f * c) * c + torch.sigmoid(i + p.p_i * c) * torch.tanh(g)
    return torch.sigmoid(o + p.p_o * new_c) * torch.tanh(new_c), new_c


def mgu(p: Any, x: Tensor, h: Tensor) -> tuple[Tensor]:
    """Zhou et al. 2016, minimal gated unit."""
    f_x, candidate_x = (p.weight_ih @ x + p.bias).chunk(2)
    f_recurrent, candidate_recurrent = p.weight_hh.chunk(2)
    f = torch.sigmoid(f_x + f_recurrent @ h)
    candidate = torch.tanh(candidate_x + candidate_recurrent @ (f * h))
    return ((1 - f) * h + f * candidate,)


def lstm_layernorm(p: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Ba et al. 2016: each gate's pre-activation is normalised on its own, and so is the cell state."""

    def norm(a: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        return (a - a.mean()) / torch.sqrt(a.var(unbiased=False) + 1e-5) * gain + shift

    i, f, g, o = (p.weight_ih @ x + p.weight_hh @ h + p.bias).chunk(4)
    i = torch.sigmoid(norm(i, p.gain_i, p.shift_i))
    f = torch.sigmoid(norm(f, p.gain_f, p.shift_f))
    g = torch.tanh(norm(g, p.gain_g, p.shift_g))
    o = torch.sigmoid(norm(o, p.gain_o, p.shift_o))
    c = f * c + i * g
    return o * torch.tanh(norm(c, p.gain_c, p.shift_c)), c


def lstm_mogrifier(rounds: int = 1) -> Step:
    """Melis et al. 2020, at most two rounds: the state gates the input, then the input the state."""

    def step(p: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        x = 2 * torch.sigmoid(p.weight_q @ h) * x
        *second, gates = p.weight_ih.split([h.numel()] * (rounds - 1) + [4 * h.numel()])
        for matrix in second:  # the map of the gated input to the state stands above the gates' rows
            h = 2 * torch.sigmoid(matrix @ x) * h
        i, f, g, o = (gates @ x + p.weight_hh @ h + p.bias).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    return step


STEPS: dict[str, Step] = {
    "rnn": elman("tanh"),
    "gru": gru_reset_after,
    "gru-reset-before": gru_reset_before,
    "lstm": lstm,
    "lstm-peephole": lstm_peephole,
    "mgu": mgu,
    "lstm-layernorm": lstm_layernorm,
    "lstm-mogrifier": lstm_mogrifier(1),
}
"""The package's catalogue of cells, by the same names."""
