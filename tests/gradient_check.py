"""`check`: compares a layer with its oracle, values and every gradient, and raises where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import oracles

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}
"""Largest norm of difference / norm of reference, for each tensor. The reference is always float64."""


class Wrong(AssertionError):
    """The layer is not its equation; the message names every tensor that is off."""


def randomise(layer: Any, seed: int) -> None:
    """Random numbers, exact in float32, in every parameter: no bias, peephole or shift stays 0, no gain 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 2:
                values /= parameter.shape[1] ** 0.5
            parameter.copy_(1 + 0.3 * values if name.startswith("gain") else 0.7 * values)


def flat(value: Any) -> list[Tensor]:
    """A layer's final state as a list: torch gives one state alone, several as a tuple."""
    return [value] if isinstance(value, Tensor) else list(value)


def error(found: Tensor, expected: Tensor) -> float:
    """‖found - expected‖ / ‖expected‖ in float64; NaN and infinity count as infinitely wrong."""
    if found.shape != expected.shape:
        raise Wrong(f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    difference = (found.detach().double() - expected.detach()).norm().item()
    scale = expected.detach().norm().item()
    if difference == 0:
        return 0.0
    return difference / scale if scale > 0 and difference < torch.inf else torch.inf


def check(
    layer: Any,
    step: oracles.Step,
    *,
    states: int = 1,
    T: int = 4,
    B: int = 3,
    lengths: Sequence[int] | None = None,
    words: bool = False,
    seed: int = 0,
    tolerance: float | None = None,
) -> dict[str, float]:
    """Raises `Wrong` unless output, final states and all gradients of `layer` are the oracle's.

    Everything is random: parameters, input (word numbers if `words`), initial states, and the errors ∂E/∂ of
    the output and of every final state. Where `lengths` end, the input is NaN. Returns the relative error of
    each tensor.
    """
    randomise(layer, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    dtype = next(layer.parameters()).dtype
    directions = 2 if layer.bidirectional else 1
    rows = layer.num_layers * directions
    if words:
        x = torch.randint(layer.input_size, (T, B), generator=generator)
    else:
        x = torch.randn(T, B, layer.input_size, generator=generator)
        for b, length in enumerate(lengths or []):
            x[length:, b] = torch.nan
    state = [torch.randn(rows, B, layer.hidden_size, generator=generator) for _ in range(states)]
    cotangents = [torch.randn(T, B, directions * layer.hidden_size, generator=generator)]
    cotangents += [torch.randn(s.shape, generator=generator) for s in state]

    def run(kind: torch.dtype, forward: Any, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        own = [s.to(kind).requires_grad_() for s in state]
        own_x = x if words else x.to(kind).requires_grad_()
        output, final = forward(own_x, own)
        values = [output, *flat(final)]
        leaves = {f"∂initial state {k}": s for k, s in enumerate(own)}
        leaves |= {} if words else {"∂input": own_x}
        leaves |= {f"∂{name}": p for name, p in parameters.items()}
        # Where every length is 0 the output is a constant, into which no error can be sent.
        entered = [(v, c.to(kind)) for v, c in zip(values, cotangents, strict=True) if v.requires_grad]
        outputs, errors_in = map(list, zip(*entered, strict=True))
        gradients = torch.autograd.grad(outputs, list(leaves.values()), errors_in, materialize_grads=True)
        result = {f"final state {k}": v for k, v in enumerate(values[1:])}
        return {"output": output} | result | dict(zip(leaves, gradients, strict=True))

    def of_layer(x: Tensor, state: list[Tensor]) -> Any:
        given = state[0] if states == 1 else tuple(state)
        return layer(x, given) if lengths is None else layer(x, given, lengths=torch.tensor(lengths))

    def of_oracle(x: Tensor, state: list[Tensor]) -> Any:
        return oracles.run(step, exact, x, state, lengths, layer.bidirectional, layer.num_layers)

    exact = {n: p.detach().double().requires_grad_() for n, p in layer.named_parameters()}
    found = run(dtype, of_layer, dict(layer.named_parameters()))
    expected = run(torch.float64, of_oracle, exact)
    errors = {name: error(found[name], expected[name]) for name in expected}
    limit = TOLERANCE[dtype] if tolerance is None else tolerance
    wrong = [f"{name}: {e:.1e}" for name, e in errors.items() if e > limit]
    if wrong:
        raise Wrong(f"relative error above {limit:.0e} in " + ", ".join(wrong))
    return errors
