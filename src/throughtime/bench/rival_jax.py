"""RNN, GRU and LSTM as one writes them in JAX: W x in one product, then lax.scan, compiled whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def make(
    kind: str, what: str, weights: Sequence[Tensor], x: Tensor, cotangent: Tensor, threads: int
) -> tuple[Callable[[], Any], Callable[[Any], list[Tensor]]]:
    """The call, and what turns its result into our layer's. `weights`: W [G·H, I], R [G·H, H] and their biases."""
    # XLA reads these when it starts.
    os.environ.setdefault("NPROC", str(threads))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    from jax import numpy as jnp

    steps: dict[str, Callable[..., Any]] = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}
    step = steps[kind]

    def output(weights: Any, x: Any) -> Any:
        w, r, b, b_r = weights
        h = jnp.zeros((x.shape[1], r.shape[1]), x.dtype)
        nets = x @ w.T + (b if kind == "GRU" else b + b_r)
        start = (h, h) if kind == "LSTM" else h
        return jax.lax.scan(lambda state, net: step(jax, r, b_r, state, net), start, nets)[1]

    given = [jnp.asarray(w.numpy()) for w in weights]
    inputs, errors = jnp.asarray(x.numpy()), jnp.asarray(cotangent.numpy())
    if what == "inference":
        run = jax.jit(output)
        return lambda: run(given, inputs).block_until_ready(), lambda y: [_tensor(y)]
    run = jax.jit(jax.value_and_grad(lambda w, x: (output(w, x) * errors).sum(), (0, 1)))

    def results(found: Any) -> list[Tensor]:
        of_weights, of_x = found[1]
        return [_tensor(of_x), *map(_tensor, of_weights)]

    return lambda: jax.block_until_ready(run(given, inputs)), results


def _tensor(array: Any) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.array(array))


def _rnn(jax: Any, r: Any, b_r: Any, h: Any, net: Any) -> Any:
    h = jax.numpy.tanh(net + h @ r.T)
    return h, h


def _gru(jax: Any, r: Any, b_r: Any, h: Any, net: Any) -> Any:
    x_r, x_z, x_n = jax.numpy.split(net, 3, -1)
    h_r, h_z, h_n = jax.numpy.split(h @ r.T + b_r, 3, -1)
    reset, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    h = (1 - z) * jax.numpy.tanh(x_n + reset * h_n) + z * h
    return h, h


def _lstm(jax: Any, r: Any, b_r: Any, state: Any, net: Any) -> Any:
    h, c = state
    i, f, g, o = jax.numpy.split(net + h @ r.T, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jax.numpy.tanh(g)
    h = jax.nn.sigmoid(o) * jax.numpy.tanh(c)
    return (h, c), h
