"""Numbers given for each step and sequence, and the reset mask: one long sequence is its pieces run alone."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

import option_oracles as oracle
import throughtime as tt
from gradient_check import randomise
from option_oracles import Asked
from test_options import LENGTHS, OPTIONS, check
from throughtime import affine, signal, tanh, where
from throughtime.symbolic import load_cell, save_cell

STEPS = 7
LONG = [7, 0, 4]


def mask(steps=STEPS):
    return torch.rand(steps, 3, generator=torch.Generator().manual_seed(5)) < 0.4


RUNS = {
    "plain": {},
    "stack": {"num_layers": 2, "bidirectional": True, "lengths": LONG, "batch_first": True},
    "chunks": {"num_layers": 2, "recompute": 3, "bidirectional": True, "lengths": LONG, "learn_initial_state": True},
    "reference": {"bidirectional": True, "lengths": LONG, "backend": "reference", "learn_initial_state": True},
    "reverse": {"reverse": True, "learn_initial_state": True, "given": False},
    "widths": {"num_layers": 2, "hidden": [3, 4], "bidirectional": True, "learn_initial_state": True},
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("cell", oracle.CELLS)
def test_reset(cell, run):
    check(cell, {}, Asked(reverse=run == "reverse"), reset=mask(), steps=STEPS, **RUNS[run])


@pytest.mark.parametrize("option", ["layer_norm of states", "zoneout", "gradient_clip", "recurrent_dropout", "all"])
@pytest.mark.parametrize("run", ["chunks", "reference"])
def test_reset_with_options(option, run):
    options, asked = OPTIONS[option]
    check("lstm", options, asked, reset=mask(), steps=STEPS, **RUNS[run])


@pytest.mark.parametrize("cell", oracle.CELLS)
@pytest.mark.parametrize("learned", [False, True])
def test_a_reset_sequence_is_its_pieces_run_alone(cell, learned):
    layer = tt.Recurrent(
        tt.cells.catalogue[cell](), 3, 5, bidirectional=True, learn_initial_state=learned, dtype=torch.float64
    )
    randomise(layer, 1)
    x = torch.randn(8, 1, 3, dtype=torch.float64)
    reset = torch.zeros(8, 1, dtype=torch.bool)
    starts = [0, 2, 3, 7]
    reset[starts] = True
    output, end = layer(x, reset=reset)
    pieces = [layer(x[a:b]) for a, b in zip(starts, [*starts[1:], 8], strict=True)]
    torch.testing.assert_close(output, torch.cat([p[0] for p in pieces]), rtol=1e-12, atol=1e-12)
    for whole, first, last in zip(
        *((e if isinstance(e, tuple) else (e,)) for e in (end, pieces[0][1], pieces[-1][1])), strict=True
    ):
        torch.testing.assert_close(whole[:1], last[:1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(whole[1:], first[1:], rtol=1e-12, atol=1e-12)


def test_no_reset_is_no_change():
    layer = tt.GRU(3, 5, bidirectional=True)
    x, h = torch.randn(6, 2, 3), torch.randn(2, 2, 5)
    found = layer(x, h, reset=torch.zeros(6, 2, dtype=torch.bool))
    for a, b in zip(found, layer(x, h), strict=True):
        torch.testing.assert_close(a, b)


def test_a_mask_in_the_padding_is_not_read():
    layer = tt.GRU(3, 5, bidirectional=True)
    x, h = torch.randn(6, 2, 3), torch.randn(2, 2, 5)
    inside = torch.zeros(6, 2, dtype=torch.bool)
    padding = inside.clone()
    padding[3:, 0] = True
    for a, b in zip(layer(x, h, [3, 6], reset=padding), layer(x, h, [3, 6], reset=inside), strict=True):
        assert torch.equal(a, b)


class Decayed(tt.Cell):
    """The state fades with the time that passed since the step before. Che et al. 2018, arXiv:1606.01865, eq. 10."""

    def step(self, x, h):
        h = tt.exp(-tt.softplus(tt.weight("rate")) * signal("gap")) * h
        return tanh(affine("f", x, h) + 0.3 * signal("gap"))


class Silent(tt.Cell):
    """Reads a signal that its backward pass does not need."""

    def step(self, x, h):
        return tanh(affine("f", x, h)) + where(signal("on") > 0.5, 1.0, 0.0)


class OfBoth(tt.Cell):
    """A signal is a state's own value."""

    state_widths: ClassVar = {"s": 3}

    def step(self, x, h, s):
        return tanh(affine("f", x, h, s) * signal("a")), signal("b") * s + signal("a")


def by_hand(layer, x, h, gap, lengths):
    """`Decayed`, in both directions."""
    p = dict(layer.named_parameters())
    outputs = torch.zeros(*x.shape[:2], 10, dtype=x.dtype)
    ends = []
    for d, suffix in enumerate(("", "_reverse")):
        rows = []
        for b, length in enumerate(lengths):
            state = h[d, b]
            for t in reversed(range(length)) if d else range(length):
                W, R, bias, rate = (p[f"{n}_l0{suffix}"] for n in ("weight_ih", "weight_hh", "bias", "rate"))
                seen = torch.exp(-torch.log(1 + torch.exp(rate)) * gap[t, b]) * state
                state = torch.tanh(W @ x[t, b] + R @ seen + bias + 0.3 * gap[t, b])
                place = torch.zeros(*x.shape[:2], 10, dtype=x.dtype)
                place[t, b, 5 * d : 5 * d + 5] = 1
                outputs = outputs + place * torch.cat([state, state])
            rows.append(state)
        ends.append(torch.stack(rows))
    return outputs, torch.stack(ends)


@pytest.mark.parametrize("backend", ["compiled", "reference", "chunks"])
def test_a_signal_of_the_users_own(backend):
    recompute, backend = (2, "compiled") if backend == "chunks" else (None, backend)
    layer = tt.Recurrent(Decayed(), 3, 5, bidirectional=True, backend=backend, recompute=recompute, dtype=torch.float64)
    randomise(layer, 1)
    x, h = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((4, 3, 3), (2, 3, 5)))
    gap = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    leaves = [x, h, gap, *layer.parameters()]
    found = layer(x, h, LENGTHS, gap=gap)
    expected = by_hand(layer, x, h, gap, LENGTHS)
    weights = [torch.randn_like(v) for v in expected]
    gradients = [
        torch.autograd.grad(sum((v * w).sum() for v, w in zip(values, weights, strict=True)), leaves)
        for values in (found, expected)
    ]
    for a, b in zip([*found, *gradients[0]], [*expected, *gradients[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("cell", [Silent(), OfBoth()], ids=lambda c: c.name)
def test_signals_against_the_reference(cell):
    x = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    names = {"Silent": ["on"], "OfBoth": ["a", "b"]}[cell.name]
    signals = {n: torch.rand(4, 3, dtype=torch.float64).requires_grad_() for n in names}
    results = []
    for backend in ("compiled", "reference"):
        layer = tt.Recurrent(cell, 3, 5, bidirectional=True, backend=backend, dtype=torch.float64)
        randomise(layer, 1)
        output, _ = layer(x, lengths=LENGTHS, **signals)
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        leaves = [x, *signals.values(), *layer.parameters()]
        gradients = torch.autograd.grad((output * weight).sum(), leaves, allow_unused=True, materialize_grads=True)
        results.append([output, *gradients])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_a_cell_with_signals_can_be_saved():
    text = save_cell(OfBoth())
    loaded = load_cell(text)
    assert save_cell(loaded) == text
    x, a, b = torch.randn(4, 2, 3), torch.rand(4, 2), torch.rand(4, 2)
    layer, again = tt.Recurrent(OfBoth(), 3, 5), tt.Recurrent(loaded, 3, 5)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x, a=a, b=b)[0], again(x, a=a, b=b)[0])


MISTAKES = {
    "missing": (Decayed(), {}, TypeError, 'Decayed uses signal("gap"): give it with the call, as layer(x, gap=tensor)'),
    "unknown": (
        Decayed(),
        {"gap": torch.zeros(4, 2), "cap": torch.zeros(4, 2)},
        TypeError,
        "Recurrent.forward() got an unexpected argument 'cap': Decayed can be given gap, reset",
    ),
    "shape": (
        Decayed(),
        {"gap": torch.zeros(2, 4)},
        RuntimeError,
        "gap must have one number for each time step and sequence, [T, B] = (4, 2), got the shape (2, 4)",
    ),
    "no tensor": (Decayed(), {"gap": 1.0}, TypeError, "gap must be a tensor, got float"),
    "no mask": (
        tt.cells.GRU(),
        {"reset": torch.zeros(4, 2)},
        TypeError,
        "reset must be a bool tensor, True at the first step of a new sequence, got torch.float32",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    cell, signals, kind, message = MISTAKES[mistake]
    with pytest.raises(kind) as caught:
        tt.Recurrent(cell, 3, 5)(torch.randn(4, 2, 3), **signals)
    assert str(caught.value) == message


def test_a_signal_needs_a_name_of_its_own():
    class Named(tt.Cell):
        def step(self, x, h):
            return tanh(affine("f", x, h)) * signal("lengths")

    with pytest.raises(tt.EquationError, match=r'signal\("lengths"\) has the name of an argument of the layer'):
        tt.Recurrent(Named(), 3, 5)


def test_shapes_of_a_mask():
    layer = tt.GRU(3, 5, batch_first=True)
    assert layer(torch.randn(2, 4, 3), reset=torch.zeros(2, 4, dtype=torch.bool))[0].shape == (2, 4, 5)
    assert layer(torch.randn(4, 3), reset=torch.zeros(4, dtype=torch.bool))[0].shape == (4, 5)
    with pytest.raises(RuntimeError, match=r"\[B, T\] = \(2, 4\), got the shape \(4, 2\)"):
        layer(torch.randn(2, 4, 3), reset=torch.zeros(4, 2, dtype=torch.bool))


def test_a_cell_may_read_the_reset_mask_itself():
    """It is then its own affair what a reset is."""

    class Own(tt.Cell):
        def step(self, x, h):
            return tanh(affine("f", x, where(signal("reset") > 0, 0.5, h)))

    layer = tt.Recurrent(Own(), 3, 5)
    x, reset = torch.randn(2, 2, 3), torch.tensor([[True, True], [False, False]])
    found, _ = layer(x, torch.randn(1, 2, 5), reset=reset)
    expected, _ = layer(x, torch.full((1, 2, 5), 0.5), reset=torch.zeros(2, 2, dtype=torch.bool))
    torch.testing.assert_close(found, expected)
