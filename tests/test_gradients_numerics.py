"""Gradients against finite differences, and which results are the same bits."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

import oracles
import throughtime as tt
from gradient_check import error, flat, randomise
from test_gradients import ACTIVATIONS, CELLS, DTYPES


def away_from_kinks(name, layer, x, state, lengths):
    """Whether no pre-activation comes close to a point where the activation has no derivative."""
    activation = name.removeprefix("rnn ")
    nets = []

    def step(p, x, h):
        net = p.weight_ih @ x + p.bias_ih + p.weight_hh @ h + p.bias_hh
        nets.append(net.detach())
        return (oracles.ACTIVATIONS[activation](net),)

    oracles.run(step, dict(layer.named_parameters()), x, state, lengths, layer.bidirectional)
    kinks = torch.tensor(oracles.KINKS.get(activation, ()), dtype=torch.float64)
    return bool(((torch.stack(nets)[..., None] - kinks).abs() > 1e-3).all())


@pytest.mark.parametrize("name", [*CELLS, *ACTIVATIONS])
def test_finite_differences(name):
    """torch's own check at rtol 1e-6; its default, 1e-3, lets a gradient pass that is wrong by 0.1 %."""
    make, _, states = (CELLS | ACTIVATIONS)[name]
    layer = tt.Recurrent(make(), 2, 3, bidirectional=True, dtype=torch.float64)
    lengths = [3, 0, 2]
    for seed in range(100):
        randomise(layer, seed)
        generator = torch.Generator().manual_seed(seed)
        x, *state = (
            torch.randn(shape, generator=generator, dtype=torch.float64) for shape in [(3, 3, 2), *[(2, 3, 3)] * states]
        )
        if name not in ACTIVATIONS or away_from_kinks(name, layer, x, state, lengths):
            break
    names = [n for n, _ in layer.named_parameters()]

    def function(x, *rest):
        state = rest[0] if states == 1 else rest[:states]
        given = dict(zip(names, rest[states:], strict=True))
        output, final = functional_call(layer, given, (x, state), {"lengths": torch.tensor(lengths)})
        return output, *flat(final)

    leaves = [t.detach().requires_grad_() for t in (x, *state, *layer.parameters())]
    assert torch.autograd.gradcheck(function, leaves, atol=1e-8, rtol=1e-6)


def outcome(layer, x, state, threads=2):
    """What the recurrence makes (output, final states, initial states' gradients); the other gradients."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        own = [s.clone().requires_grad_() for s in state]
        output, final = layer(x, own[0] if len(own) == 1 else tuple(own))
        values = [output, *flat(final)]
        leaves = [*own, *layer.parameters()]
        gradients = list(torch.autograd.grad(values, leaves, [torch.ones_like(v) for v in values]))
        return [v.detach() for v in values] + gradients[: len(own)], gradients[len(own) :]
    finally:
        torch.set_num_threads(before)


def arrangement(name, dtype, B, words):
    """A layer of 17 units that runs in both directions, an input of 9 steps and initial states."""
    make, _, states = CELLS[name]
    layer = tt.Recurrent(make(), 3, 17, bidirectional=True, dtype=dtype)
    randomise(layer, 0)
    torch.manual_seed(1)
    x = torch.randint(3, (9, B)) if words else torch.randn(9, B, 3, dtype=dtype)
    return layer, x, [torch.randn(2, B, 17, dtype=dtype) for _ in range(states)]


@pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])
@pytest.mark.parametrize("name", CELLS)
def test_same_bits_for_any_number_of_threads(name, dtype):
    """Promised: the recurrence. Words as input, so that no product of torch's BLAS stands before it.

    The weights' gradients are torch's products: not promised, equal to a few roundings.
    """
    layer, x, state = arrangement(name, dtype, 7, words=True)
    one, one_products = outcome(layer, x, state, threads=1)
    two, two_products = outcome(layer, x, state, threads=2)
    again, again_products = outcome(layer, x, state, threads=2)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(two + two_products, again + again_products, strict=True))
    limit = 100 * torch.finfo(dtype).eps
    assert all(error(a, b.double()) <= limit for a, b in zip(one_products, two_products, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])
@pytest.mark.parametrize("name", CELLS)
def test_same_bits_whoever_else_is_in_the_batch(name, dtype):
    """Promised: the recurrence given the same pre-activations, as it is here, where the input is words."""
    layer, x, state = arrangement(name, dtype, 7, words=True)
    together, _ = outcome(layer, x, state)
    for row in (0, 3, 6):
        alone, _ = outcome(layer, x[:, row : row + 1], [s[:, row : row + 1] for s in state])
        assert all(torch.equal(a[:, row : row + 1], b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("name", CELLS)
def test_batch_neighbours_change_vectors_as_input_by_roundings_only(name):
    """Not promised as bits: torch's product W x may round differently with the size of the batch."""
    layer, x, state = arrangement(name, torch.float64, 7, words=False)
    together, _ = outcome(layer, x, state)
    alone, _ = outcome(layer, x[:, :1], [s[:, :1] for s in state])
    assert all(error(a[:, :1], b) <= 1e-15 for a, b in zip(together, alone, strict=True))
