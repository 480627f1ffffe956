"""What a stack with options must compute: plain torch, one sequence and one step at a time, written by hand.

Nothing here comes from the package but the random numbers themselves (`noise.uniform`), which are data. The four cells
say by hand where an option acts in them; `run` is the time loop and the stack around it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout

import oracles
from throughtime.symbolic.noise import direction_seed, uniform


@dataclass
class Asked:
    """The options of a layer, spelled out: one number for each state where there are several."""

    norms: tuple[str, ...] = ()
    drop: float = 0.0
    drop_per_step: bool = False
    zoneout: tuple[float, ...] = ()
    state_clip: tuple[float | None, ...] = ()
    gradient_clip: tuple[float | None, ...] = ()
    activation: str = "tanh"
    gate_activation: str = "sigmoid"
    weight_drop: float = 0.0
    merge: str = "concat"
    reverse: bool = False
    connections: str | None = None
    training: bool = True
    learned: bool = False

    def of(self, option: str, k: int) -> float | None:
        values = getattr(self, option)
        return values[k] if k < len(values) else None

    @property
    def noisy(self) -> bool:
        return self.training and (self.drop > 0 or any(self.zoneout))


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, limit: float) -> Tensor:
        ctx.limit = limit
        return v.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g.clamp(-ctx.limit, ctx.limit), None


@dataclass
class Woven:
    """A cell's parameters and the options at one step of one sequence."""

    p: Any
    asked: Asked
    seed: int
    sequence: int
    time: int = 0
    names: list[str] = field(default_factory=list)

    def random(self, name: str, width: int, fixed: bool) -> Tensor:
        stream = zlib.crc32(name.encode())
        time = 0 if fixed else self.time
        return uniform(self.seed, stream, time, torch.tensor(self.sequence), torch.arange(width)).double()

    def norm(self, name: str, v: Tensor) -> Tensor:
        gain, shift = getattr(self.p, f"gain_{name}"), getattr(self.p, f"shift_{name}")
        return (v - v.mean()) / torch.sqrt(v.var(unbiased=False) + 1e-5) * gain + shift

    def map(self, name: str, v: Tensor) -> Tensor:
        return self.norm(name, v) if "maps" in self.asked.norms else v

    def dropped(self, h: Tensor) -> Tensor:
        """The output state as a map takes it."""
        p = self.asked.drop
        if p == 0 or not self.asked.training:
            return h
        kept = self.random(f"dropout_{self.names[0]}", len(h), not self.asked.drop_per_step) >= p
        return torch.where(kept, h / (1 - p), torch.zeros_like(h))

    def clip(self, k: int, v: Tensor) -> Tensor:
        limit = self.asked.of("state_clip", k)
        return v if limit is None else v.clamp(-limit, limit)

    def memory(self, k: int, v: Tensor) -> Tensor:
        """The new value of a state as the output is computed from it."""
        v = self.clip(k, v)
        return self.norm(f"new_{self.names[k]}", v) if "memory" in self.asked.norms else v

    def before(self, k: int, v: Tensor) -> Tensor:
        limit = self.asked.of("gradient_clip", k)
        return v if limit is None else _Clipped.apply(v, limit)

    def seen(self, k: int, v: Tensor) -> Tensor:
        return self.norm(f"seen_{self.names[k]}", v) if "states" in self.asked.norms else v

    def after(self, k: int, old: Tensor, new: Tensor) -> Tensor:
        new = self.clip(k, new)
        p = self.asked.of("zoneout", k)
        if not p:
            return new
        if not self.asked.training:
            return p * old + (1 - p) * new
        return torch.where(self.random(f"zoneout_{self.names[k]}", len(new), False) < p, old, new)

    def act(self, v: Tensor) -> Tensor:
        return oracles.ACTIVATIONS[self.asked.activation](v)

    def gate(self, v: Tensor) -> Tensor:
        return oracles.ACTIVATIONS[self.asked.gate_activation](v)


def rnn(w: Woven, x: Tensor, h: Tensor) -> tuple[Tensor]:
    p = w.p
    return (w.act(w.map("net", p.weight_ih @ x + p.bias_ih + p.weight_hh @ w.dropped(h) + p.bias_hh)),)


def gru(w: Woven, x: Tensor, h: Tensor) -> tuple[Tensor]:
    p = w.p
    r_x, z_x, n_x = (p.weight_ih @ x + p.bias_ih).chunk(3)
    r_h, z_h, n_h = (p.weight_hh @ w.dropped(h) + p.bias_hh).chunk(3)
    r = w.gate(w.map("r", r_x + r_h))
    z = w.gate(w.map("z", z_x + z_h))
    n = w.act(w.map("n", n_x) + r * w.map("m", n_h))
    return ((1 - z) * n + z * h,)


def mgu(w: Woven, x: Tensor, h: Tensor) -> tuple[Tensor]:
    p = w.p
    f_x, n_x = (p.weight_ih @ x + p.bias).chunk(2)
    f_r, n_r = p.weight_hh.chunk(2)
    f = w.gate(w.map("f", f_x + f_r @ w.dropped(h)))
    n = w.act(w.map("h", n_x + n_r @ (f * w.dropped(h))))
    return ((1 - f) * h + f * n,)


def lstm(w: Woven, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    p = w.p
    i, f, g, o = (p.weight_ih @ x + p.bias_ih + p.weight_hh @ w.dropped(h) + p.bias_hh).chunk(4)
    i, f, o = (w.gate(w.map(n, v)) for n, v in (("i", i), ("f", f), ("o", o)))
    c = f * c + i * w.act(w.map("g", g))
    return o * w.act(w.memory(1, c)), c


CELLS: dict[str, tuple[Callable[..., tuple[Tensor, ...]], list[str]]] = {
    "rnn": (rnn, ["h"]),
    "gru": (gru, ["h"]),
    "mgu": (mgu, ["h"]),
    "lstm": (lstm, ["h", "c"]),
}


def run(
    cell: str,
    asked: Asked,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    state: list[list[Tensor]] | None,
    hidden: list[int],
    bidirectional: bool = False,
    lengths: list[int] | None = None,
    reset: Tensor | None = None,
    between: float = 0.0,
) -> tuple[Tensor, list[list[Tensor]]]:
    """x [T, B, I] -> output [T, B, ...] and the final states [states][L], each [D, B, H]; `state` in the same form, or
    None for zeros or the learned ones; `between`: dropout between layers. Draws from torch's generator as a layer does.
    """
    step, names = CELLS[cell]
    T, B = x.shape[:2]
    lengths = [T] * B if lengths is None else lengths
    directions = 2 if bidirectional else 1
    outputs: list[list[list[Tensor]]] = []  # [L][B][t]
    ends: list[list[Tensor]] = [[] for _ in names]
    for level, width in enumerate(hidden):
        if level == 0:
            given = [[x[t, b] for t in range(lengths[b])] for b in range(B)]
        elif asked.connections == "dense":
            given = [[torch.cat([o[b][t] for o in outputs]) for t in range(lengths[b])] for b in range(B)]
        else:
            given = outputs[-1]
        inner = given
        if level and between and asked.training:
            mask = dropout(torch.ones(T, B, len(given[0][0]), dtype=x.dtype), between)
            inner = [[v * mask[t, b] for t, v in enumerate(given[b])] for b in range(B)]
        seed = int(torch.randint(2**62, ())) if asked.noisy else 0
        made, final = [], [[] for _ in names]
        for d in range(directions):
            p = oracles.Parameters(parameters, f"_l{level}" + ("_reverse" if d else ""))
            if asked.weight_drop and asked.training:
                p._tensors["weight_hh"] = dropout(p.weight_hh, asked.weight_drop)
            start = [
                _start(parameters, asked, n, level, d, directions, width, x.dtype, len(set(hidden))) for n in names
            ]
            rows = []
            for b in range(B):
                begin = start if state is None else [s[level][d, b] for s in state]
                w = Woven(p, asked, direction_seed(seed, d), b, names=names)
                rows.append(_sequence(step, w, inner[b], begin, start, bool(d) or asked.reverse, b, reset))
            made.append([r[0] for r in rows])
            for k, of_state in enumerate(final):
                of_state.append(torch.stack([r[1][k] for r in rows]))
        for k, of_state in enumerate(final):
            ends[k].append(torch.stack(of_state))
        here = [[_merged(asked.merge, [m[b][t] for m in made]) for t in range(lengths[b])] for b in range(B)]
        if level and asked.connections in ("residual", "highway"):
            join = _joiner(asked.connections, parameters, level)
            here = [[join(given[b][t], here[b][t]) for t in range(lengths[b])] for b in range(B)]
        outputs.append(here)
    size = next(len(v) for row in outputs[-1] for v in row)
    padding = torch.zeros(size, dtype=x.dtype)
    padded = [[outputs[-1][b][t] if t < lengths[b] else padding for b in range(B)] for t in range(T)]
    return torch.stack([torch.stack(row) for row in padded]), ends


def _start(
    parameters: Any, asked: Asked, name: str, level: int, d: int, directions: int, width: int, dtype: Any, widths: int
) -> Tensor:
    if not asked.learned:
        return torch.zeros(width, dtype=dtype)
    return (
        parameters[f"initial_{name}"][level * directions + d]
        if widths == 1
        else parameters[f"initial_{name}_l{level}"][d]
    )


def _sequence(
    step: Any, w: Woven, inputs: list[Tensor], state: Any, start: Any, backwards: bool, b: int, reset: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    outputs: dict[int, Tensor] = {}
    steps = range(len(inputs))
    for t in reversed(steps) if backwards else steps:
        w.time = t
        first = t + 1 if backwards else t  # the step that the mask would mark if this one began anew
        if reset is not None and first < len(inputs) and bool(reset[first, b]):
            state = start
        old = [w.before(k, s) for k, s in enumerate(state)]
        new = step(w, inputs[t], *(w.seen(k, s) for k, s in enumerate(old)))
        state = [w.after(k, o, n) for k, (o, n) in enumerate(zip(old, new, strict=True))]
        outputs[t] = state[0]
    return [outputs[t] for t in steps], list(state)


def _merged(merge: str, of_directions: list[Tensor]) -> Tensor:
    if merge == "concat":
        return torch.cat(of_directions)
    a, b = of_directions
    return {"sum": a + b, "mean": (a + b) / 2, "product": a * b}[merge]


def _joiner(kind: str, parameters: Mapping[str, Tensor], level: int) -> Callable[[Tensor, Tensor], Tensor]:
    if kind == "residual":
        return lambda x, y: x + y
    weight, bias = (parameters[f"highways.{level - 1}.gate.{n}"] for n in ("weight", "bias"))

    def highway(x: Tensor, y: Tensor) -> Tensor:
        t = 1 / (1 + torch.exp(-(weight @ x + bias)))
        return t * y + (1 - t) * x

    return highway
