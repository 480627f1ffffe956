"""The layer under autograd: what is used of it, recomputing, and derivatives of derivatives."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from throughtime import affine, dropout, noise, tanh, time, where

CATALOGUE = tt.cells.catalogue


class Noisy(tt.Cell):
    """Dropout that is fixed for a sequence, noise that is not, and the time."""

    def step(self, x, h):
        seen = dropout("drop", h, 0.3)
        new = tanh(affine("f", x, seen)) + 0.1 * noise("n", h)
        return where(time() > 2, new, 0.5 * new)


def flat(state):
    return [state] if isinstance(state, torch.Tensor) else list(state)


def layer_of(cell, **options):
    layer = tt.Recurrent(cell, 3, 4, dtype=torch.float64, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.5)
    return layer


def results(layer, lengths=None, steps=7, batch_first=False):
    """Output and final states, then the gradients of input, first states and parameters."""
    generator = torch.Generator().manual_seed(1)
    shape = (3, steps, 3) if batch_first else (steps, 3, 3)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    rows = layer.num_layers * layer.directions
    starts = tuple(
        torch.randn(rows, 3, w, generator=generator, dtype=torch.float64).requires_grad_() for w in layer.state_sizes
    )
    torch.manual_seed(2)
    output, end = layer(x, starts if len(starts) > 1 else starts[0], lengths)
    values = [output, *flat(end)]
    error = sum((v * torch.randn(v.shape, generator=generator, dtype=v.dtype)).sum() for v in values)
    return values, torch.autograd.grad(error, [x, *starts, *layer.parameters()])


@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("cell", [tt.cells.GRU(), tt.cells.LSTM(), Noisy()], ids=lambda c: c.name)
def test_recomputing_changes_nothing(cell, every):
    """With lengths, both directions, two layers and noise: W x is made in pieces and may round differently."""
    options = {"num_layers": 2, "bidirectional": True}
    plain = results(layer_of(cell, **options), lengths=[7, 0, 4])
    again = results(layer_of(cell, recompute=every, **options), lengths=[7, 0, 4])
    for a, b in zip(again[0], plain[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)
    for a, b in zip(again[1], plain[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("learn", [False, True])
def test_recomputing_with_batch_first_and_no_state(learn):
    x = torch.randn(3, 7, 3, dtype=torch.float64)
    found = []
    for every in (None, 2):
        layer = layer_of(tt.cells.LSTM(), recompute=every, batch_first=True, learn_initial_state=learn)
        output, _ = layer(x)
        found.append((output, *torch.autograd.grad(output.sin().sum(), list(layer.parameters()))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_what_is_not_used_costs_no_gradient():
    """Only the final state, only the output, input without gradient, one frozen weight: each as torch has it."""
    layer, expected = (m.LSTM(3, 4, bidirectional=True, dtype=torch.float64) for m in (tt, torch.nn))
    layer.load_state_dict(expected.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    for frozen in (None, "weight_hh_l0", "bias_ih_l0_reverse"):
        for use in (lambda o, s: o.sum(), lambda o, s: s[0].sum(), lambda o, s: s[1][1].sin().sum()):
            gradients = []
            for each in (layer, expected):
                for n, p in each.named_parameters():
                    p.grad = None
                    p.requires_grad_(n != frozen)
                use(*each(x)).backward()
                gradients.append({n: p.grad for n, p in each.named_parameters()})
            for n, g in gradients[1].items():
                if g is None or not g.any():
                    assert gradients[0][n] is None or not gradients[0][n].any()
                else:
                    torch.testing.assert_close(gradients[0][n], g, rtol=1e-12, atol=1e-13)
    assert not x.requires_grad


def test_no_gradient_is_recorded_without_need():
    layer = tt.GRU(3, 4)
    with torch.no_grad():
        assert layer(torch.randn(2, 1, 3))[0].grad_fn is None
    layer.requires_grad_(False)
    assert layer(torch.randn(2, 1, 3))[0].grad_fn is None


def test_backward_twice():
    layer = layer_of(tt.cells.GRU())
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    output, _ = layer(x)
    error = output.sin().sum()
    first = torch.autograd.grad(error, [x, *layer.parameters()], retain_graph=True)
    second = torch.autograd.grad(error, [x, *layer.parameters()])
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        error.backward()


def test_a_weight_changed_before_backward_is_an_error():
    layer = layer_of(tt.cells.GRU())
    output, _ = layer(torch.randn(5, 2, 3, dtype=torch.float64))
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_errors_of_any_layout():
    """Cotangents that are expanded, strided or transposed."""
    layer = layer_of(tt.cells.GRU(), bidirectional=True)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    output, end = layer(x)
    wide = torch.randn(10, 2, 16, dtype=torch.float64)
    for error in (
        wide[::2, :, ::2],
        torch.randn(8, 2, 5, dtype=torch.float64).permute(2, 1, 0),
        torch.randn(8, dtype=torch.float64).expand(5, 2, 8),
        torch.ones((), dtype=torch.float64).expand(5, 2, 8),
    ):
        given = [error, torch.randn(4, 2, 2, dtype=torch.float64).permute(2, 1, 0)]
        found, expected = (
            torch.autograd.grad((output, end), list(layer.parameters()), e, retain_graph=True)
            for e in (given, [g.contiguous() for g in given])
        )
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [None, [3, 1]], ids=["whole", "lengths"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_second_derivatives(name, lengths):
    """gradgradcheck of input, states and parameters, in both directions."""
    layer = tt.Recurrent(CATALOGUE[name](), 2, 2, bidirectional=True, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * 0.7).requires_grad_()

    starts = [random(2, 2, 2) for _ in layer.state_names]
    names = [n for n, _ in layer.named_parameters()]
    parameters = [random(*p.shape) for p in layer.parameters()]

    def call(x, *rest):
        state = rest[: len(starts)] if len(starts) > 1 else rest[0]
        weights = dict(zip(names, rest[len(starts) :], strict=True))
        output, end = torch.func.functional_call(layer, weights, (x, state, lengths))
        return (output, *flat(end))

    inputs = (random(3, 2, 2), *starts, *parameters)
    assert torch.autograd.gradgradcheck(call, inputs, atol=1e-7, rtol=1e-5, fast_mode=True)


def test_second_derivatives_through_recomputing():
    found = []
    for every in (None, 2):
        layer = layer_of(tt.cells.GRU(), recompute=every)
        x = torch.ones(5, 2, 3, dtype=torch.float64, requires_grad=True)
        (g,) = torch.autograd.grad(layer(x)[0].sin().sum(), x, create_graph=True)
        found.append(torch.autograd.grad((g * g).sum(), list(layer.parameters()), allow_unused=True))
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
