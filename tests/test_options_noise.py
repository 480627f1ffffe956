"""What noise options mean, at their extremes and on average; and the same bits for any number of threads."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from throughtime import affine, dropout, sigmoid, tanh

NAMES = ["rnn", "gru", "mgu", "lstm"]


def layer_of(name, **options):
    return tt.Recurrent(tt.cells.catalogue[name](), 3, 8, **options)


@pytest.mark.parametrize("name", NAMES)
def test_zoneout_of_everything_keeps_the_state(name):
    layer = layer_of(name, zoneout=1.0)
    start = tuple(torch.randn(1, 2, 8) for _ in layer.state_names)
    for training in (True, False):
        output, end = layer.train(training)(torch.randn(5, 2, 3), start if len(start) > 1 else start[0])
        assert torch.equal(output, start[0].expand(5, 2, 8))
        for a, b in zip(end if isinstance(end, tuple) else (end,), start, strict=True):
            assert torch.equal(a, b)


def test_zoneout_keeps_the_share_it_says():
    layer = tt.GRU(3, 500, zoneout=0.3)
    output, _ = layer(torch.randn(40, 4, 3))
    kept = (output[1:] == output[:-1]).double().mean().item()
    assert abs(kept - 0.3) < 0.01


def test_zoneout_of_one_state_leaves_the_other():
    layer = tt.LSTM(3, 200, zoneout=(None, 1.0))
    output, (_, c) = layer(torch.randn(5, 2, 3))
    assert (c == 0).all()
    assert (output[1:] != output[:-1]).all()


class Identity(tt.Cell):
    """Its output is what the map of the state was given."""

    def step(self, x, h):
        return affine("f", h, bias=False) + affine("g", x, bias=False)


def seen_states(mask):
    """What the map of the state was given at each of two steps; the first is given ones."""
    layer = tt.Recurrent(Identity(), 1, 400, recurrent_dropout=0.25, recurrent_dropout_mask=mask)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(torch.eye(400))
        layer.weight_ih_l0.fill_(0)
    return layer(torch.zeros(2, 2, 1), torch.ones(1, 2, 400))[0]


def test_one_mask_for_a_sequence():
    first, second = seen_states("sequence")
    assert abs((first == 0).double().mean().item() - 0.25) < 0.05
    torch.testing.assert_close(first.unique(), torch.tensor([0, 4 / 3]))
    torch.testing.assert_close(second, first * first)
    assert not torch.equal(first[0], first[1])


def test_a_mask_for_every_step():
    first, second = seen_states("step")
    assert not torch.equal(second == 0, first == 0)
    assert ((first == 0) <= (second == 0)).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_dropout_in_evaluation(name):
    torch.manual_seed(0)
    layer = layer_of(name, recurrent_dropout=0.5, weight_drop=0.5).eval()
    plain = layer_of(name)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(layer(x)[0], plain(x)[0])


@pytest.mark.parametrize("name", NAMES)
def test_weight_drop_draws_one_mask_for_each_call_and_leaves_the_parameter_alone(name):
    layer = layer_of(name, weight_drop=0.5)
    before = layer.weight_hh_l0.detach().clone()
    x = torch.randn(5, 2, 3)
    first, second = layer(x)[0], layer(x)[0]
    assert not torch.equal(first, second)
    first.sum().backward()
    assert torch.equal(layer.weight_hh_l0, before)
    dropped = (layer.weight_hh_l0.grad == 0).double().mean().item()
    assert 0.3 < dropped < 0.7


def test_dropout_of_the_candidate_is_a_line_of_a_cell():
    """Semeniuta et al. 2016, which needs to know which value the candidate is."""

    class Semeniuta(tt.Cell):
        def step(self, x, h, c):
            g = dropout("g", tanh(affine("g", x, h)), 0.5, fixed=False)
            c = sigmoid(affine("f", x, h)) * c + sigmoid(affine("i", x, h)) * g
            return sigmoid(affine("o", x, h)) * tanh(c), c

    _, (_, c) = tt.Recurrent(Semeniuta(), 3, 500)(torch.randn(1, 2, 3))
    assert abs((c == 0).double().mean().item() - 0.5) < 0.1


NOISES = {
    "zoneout": {"zoneout": 0.3},
    "recurrent_dropout": {"recurrent_dropout": 0.3},
    "recurrent_dropout per step": {"recurrent_dropout": 0.3, "recurrent_dropout_mask": "step"},
    "weight_drop": {"weight_drop": 0.3},
    "all": {"zoneout": 0.1, "recurrent_dropout": 0.3, "weight_drop": 0.3, "dropout": 0.2, "layer_norm": True},
}


@pytest.mark.parametrize("recompute", [None, 5])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits_any_number_of_threads(name, noise, recompute):
    """Outputs, final states and all gradients. The recurrence is large enough to be shared out."""
    torch.manual_seed(0)
    cell = tt.cells.catalogue[name]()
    layer = tt.Recurrent(cell, 16, 64, 2, bidirectional=True, recompute=recompute, **NOISES[noise])
    x = torch.randn(20, 24, 16, requires_grad=True)
    reset = torch.rand(20, 24) < 0.1
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 4, 1):
            torch.set_num_threads(threads)
            torch.manual_seed(7)
            output, end = layer(x, reset=reset)
            values = [output, *(end if isinstance(end, tuple) else (end,))]
            error = sum(v.square().sum() for v in values)
            found.append(values + list(torch.autograd.grad(error, [x, *layer.parameters()])))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    torch.manual_seed(8)
    assert not torch.equal(layer(x, reset=reset)[0], found[0][0])
