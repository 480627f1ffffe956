"""Cells of the user's own, of every kind that the language allows, and noise."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

import throughtime as tt
from gradient_check import check
from throughtime import affine, dropout, noise, sigmoid, surrogate, tanh, total, weight, where, zoneout
from throughtime.symbolic import noise as random_numbers

# ---- cells ----------------------------------------------------------------------------------------


class Spiking(tt.Cell):
    """Leaky integrate-and-fire with a fast-sigmoid surrogate (Zenke and Ganguli 2018)."""

    def step(self, x, h, v):
        v = 0.9 * v * (1 - h) + affine("i", x, h)
        steep = 5 * (v - 0.3)
        return surrogate(where(v > 0.3, 1.0, 0.0), steep / (1 + tt.absolute(steep))), v


class LowRank(tt.Cell):
    def step(self, x, h):
        return tanh(affine("f", x, affine("low", h, size=3, bias=False)))


class Projected(tt.Cell):
    """LSTM with a projected output: the first state is 3 wide, the second "hidden"."""

    state_widths: ClassVar = {"h": 3}

    def step(self, x, h, c):
        i = sigmoid(affine("i", x, h))
        c = sigmoid(affine("f", x, h)) * c + i * tanh(affine("g", x, h))
        return affine("p", sigmoid(affine("o", x, h)) * tanh(c), size=3, bias=False), c


class Autonomous(tt.Cell):
    """Does not look at x."""

    def step(self, x, h):
        return h + 0.3 * tanh(affine("f", h))


class Pointwise(tt.Cell):
    """Multiplies x itself, besides mapping it."""

    def step(self, x, h):
        return tanh(affine("f", x * sigmoid(affine("gate", h, size=x)), h) + total(x))


class OnlyWeights(tt.Cell):
    """No matrix at all: every unit is alone (x enters by its sum)."""

    def step(self, x, h):
        return tanh(weight("a", init=0.5) * h + weight("b", init=0.2) * total(x) + weight("c"))


class Delayed(tt.Cell):
    """The second state is the input of the step before."""

    state_widths: ClassVar = {"before": "input"}

    def step(self, x, h, before):
        return tanh(affine("f", x, before, h)), x


class Twins(tt.Cell):
    """One map for two vectors of different widths, to a width of its own."""

    state_widths: ClassVar = {"s": 3}

    def step(self, x, h, s):
        low = tanh(affine("low", h, s, size=3))
        return tanh(affine("f", x, low)), low


class Keywords(tt.Cell):
    """Local names that are words of C++ or of the generated text."""

    def step(self, x, h):
        new = sigmoid(affine("new", x, h))
        double = tanh(affine("double", x, new * h))
        read_h = new * double
        T = read_h + double * h * read_h
        σ = T * T + read_h
        return tanh(σ - T * double) + 0.1 * σ * new


OWN = [Spiking(), LowRank(), Projected(), Autonomous(), Pointwise(), OnlyWeights(), Delayed(), Keywords()]


def randomised(cell, **options):
    layer = tt.Recurrent(cell, 4, 5, dtype=torch.float64, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.5)
    return layer


def results(layer, x, lengths=None, seed=0):
    torch.manual_seed(seed)
    output, end = layer(x, lengths=lengths)
    values = [output, *(end if isinstance(end, tuple) else (end,))]
    generator = torch.Generator().manual_seed(1)
    error = sum((v * torch.randn(v.shape, generator=generator, dtype=v.dtype)).sum() for v in values)
    leaves = [x, *layer.parameters()]
    return values + list(torch.autograd.grad(error, leaves, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("lengths", [None, [5, 0, 3]], ids=["whole", "lengths"])
@pytest.mark.parametrize("cell", OWN, ids=lambda c: c.name)
def test_own_cells_against_the_reference(cell, lengths):
    """Output, final states and gradients, two layers, both directions."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    options = {"num_layers": 1 if cell.name == "Delayed" else 2, "bidirectional": True}
    found = results(randomised(cell, **options), x, lengths)
    expected = results(randomised(cell, backend="reference", **options), x, lengths)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_one_map_of_two_vectors_of_different_widths():
    assert tt.Recurrent(Twins(), 4, 5)(torch.zeros(2, 1, 4))[0].shape == (2, 1, 5)


def test_dropout_of_the_input():
    """In training the map is not given x itself, as it is in evaluation."""

    class Dropped(tt.Cell):
        def step(self, x, h):
            return tanh(affine("f", dropout("d", x, 0.5), h))

    assert tt.Recurrent(Dropped(), 4, 5)(torch.ones(2, 1, 4))[0].shape == (2, 1, 5)


def test_directions_have_noise_of_their_own():
    output, _ = tt.Recurrent(Masks(), 2, 50, bidirectional=True)(torch.zeros(1, 1, 2))
    assert not torch.equal(output[..., :50], output[..., 50:])


def test_spikes_are_whole_and_learn():
    x = torch.randn(9, 2, 4, dtype=torch.float64, requires_grad=True)
    layer = randomised(Spiking())
    output, _ = layer(3 * x)
    assert set(output.unique().tolist()) == {0.0, 1.0}
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert gradient.any()


def test_own_activation():
    """A function of one value is an activation; its gradient against torch's own of the same formula."""
    layer = tt.RNN(3, 5, nonlinearity=lambda v: v / tt.sqrt(1 + v * v), dtype=torch.float64)

    def step(p, x, h):
        v = p.weight_ih @ x + p.bias_ih + p.weight_hh @ h + p.bias_hh
        return (v / torch.sqrt(1 + v * v),)

    check(layer, step, lengths=[4, 0, 2])


def test_widths_of_a_projected_state():
    layer = tt.Recurrent(Projected(), 4, 5, 2, bidirectional=True)
    output, (h, c) = layer(torch.randn(6, 2, 4))
    assert output.shape == (6, 2, 6) and h.shape == (4, 2, 3) and c.shape == (4, 2, 5)
    assert layer.weight_ih_l1.shape == (20, 6) and layer.weight_p_l0.shape == (3, 5)


def test_more_sums_than_a_phase_was_made_for():
    class Sums(tt.Cell):
        def step(self, x, h):
            return tanh(affine("f", x, h) + sum(total(tanh(k * h)) for k in range(1, 21)))

    x = torch.randn(3, 1, 4, dtype=torch.float64, requires_grad=True)
    found = results(randomised(Sums()), x)
    for a, b in zip(found, results(randomised(Sums(), backend="reference"), x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


# ---- noise ----------------------------------------------------------------------------------------


class Masks(tt.Cell):
    """Writes its noise out: what h was, is not used."""

    fixed = False

    def step(self, x, h):
        return where(noise("n", h, self.fixed) >= 0.25, 1.0, 0.0) + 0 * affine("f", x, h)


def test_dropout_drops_as_often_as_it_says():
    layer = tt.Recurrent(Masks(), 2, 100)
    output, _ = layer(torch.zeros(50, 20, 2))
    assert abs(output.mean().item() - 0.75) < 0.005
    for axis in range(3):
        spread = output.mean([d for d in range(3) if d != axis])
        assert 0.001 < spread.std() < 0.02


def test_fixed_noise_is_the_same_at_every_step():
    layer = tt.Recurrent(type("Fixed", (Masks,), {"fixed": True})(), 2, 100)
    output, _ = layer(torch.zeros(5, 3, 2))
    assert torch.equal(output, output[:1].expand_as(output))
    assert not torch.equal(output[0, 0], output[0, 1])


def test_noise_is_drawn_from_the_generator():
    layer = tt.Recurrent(Masks(), 2, 100)
    x = torch.zeros(5, 3, 2)
    torch.manual_seed(7)
    first, second = layer(x)[0], layer(x)[0]
    torch.manual_seed(7)
    assert torch.equal(layer(x)[0], first)
    assert not torch.equal(first, second)


def test_streams_directions_and_layers_differ():
    assert len({random_numbers.stream_number(n) for n in ("a", "b", "drop", "drop2")}) == 4

    class Two(tt.Cell):
        def step(self, x, h, c):
            return noise("a", h) + 0 * affine("f", x, h), noise("b", c)

    layer = tt.Recurrent(Two(), 2, 50, 2)
    _, (h, c) = layer(torch.zeros(1, 1, 2))
    assert not torch.equal(h, c)
    assert not torch.equal(h[0], h[1])


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_noise_does_not_depend_on_the_threads(backend):
    class Noisy(tt.Cell):
        def step(self, x, h):
            return zoneout("z", h, tanh(affine("f", x, dropout("d", h, 0.3))), 0.1)

    layer = randomised(Noisy(), backend=backend)
    x = torch.randn(4, 16, 4, dtype=torch.float64, requires_grad=True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results(layer, x, seed=3)
        torch.set_num_threads(2)
        two = results(layer, x, seed=3)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(one[:2], two[:2], strict=True):
        assert torch.equal(a, b)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
