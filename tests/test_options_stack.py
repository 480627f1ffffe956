"""Connections between layers, merged and reversed directions, a width for each layer: against the loop by hand."""

from __future__ import annotations

import pytest
import torch

import option_oracles as oracle
import throughtime as tt
from option_oracles import Asked
from test_options import LENGTHS, check

CELLS = list(oracle.CELLS)

STACKS = {
    "lengths": {"num_layers": 3, "lengths": LENGTHS},
    "directions": {"num_layers": 3, "bidirectional": True, "batch_first": True},
    "reference": {"num_layers": 2, "bidirectional": True, "lengths": LENGTHS, "backend": "reference"},
    "chunks": {"num_layers": 2, "bidirectional": True, "recompute": 3, "learn_initial_state": True, "given": False},
}


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("connections", ["residual", "highway", "dense"])
@pytest.mark.parametrize("cell", CELLS)
def test_connections(cell, connections, stack):
    check(cell, {"connections": connections}, Asked(connections=connections), **STACKS[stack])


@pytest.mark.parametrize("connections", ["residual", "highway", "dense"])
def test_dropout_acts_on_what_a_layer_maps_and_not_on_what_passes_it(connections):
    check("gru", {"connections": connections, "dropout": 0.5}, Asked(connections=connections), num_layers=2)


@pytest.mark.parametrize("merge", ["sum", "mean", "product"])
@pytest.mark.parametrize("cell", CELLS)
def test_merge(cell, merge):
    check(cell, {"merge": merge}, Asked(merge=merge), num_layers=2, bidirectional=True, lengths=LENGTHS)


@pytest.mark.parametrize("stack", ["lengths", "chunks", "reference"])
@pytest.mark.parametrize("cell", CELLS)
def test_reverse(cell, stack):
    arrangement = STACKS[stack] | {"bidirectional": False}
    layer = check(cell, {"reverse": True}, Asked(reverse=True), **arrangement)
    assert not any("reverse" in name for name in layer.state_dict())


def test_reverse_is_the_reverse_half_of_both_directions():
    both = tt.GRU(3, 5, bidirectional=True)
    alone = tt.GRU(3, 5, reverse=True)
    alone.load_state_dict({n.removesuffix("_reverse"): p for n, p in both.state_dict().items() if "reverse" in n})
    x, lengths = torch.randn(6, 3, 3), [6, 0, 2]
    found, end = alone(x, lengths=lengths)
    output, ends = both(x, lengths=lengths)
    assert torch.equal(found, output[..., 5:])
    assert torch.equal(end, ends[1:])


@pytest.mark.parametrize("given", [True, False], ids=["given", "learned"])
@pytest.mark.parametrize("stack", ["lengths", "directions", "reference", "chunks"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_width_for_each_layer(cell, stack, given):
    hidden = [4, 7, 2][: STACKS[stack]["num_layers"]]
    arrangement = STACKS[stack] | {"given": given, "learn_initial_state": True}
    check(cell, {}, Asked(), hidden=hidden, **arrangement)


def test_everything_at_once():
    options = {"connections": "dense", "merge": "mean", "zoneout": 0.2, "layer_norm": True, "gradient_clip": 0.4}
    asked = Asked(("maps", "memory"), zoneout=(0.2, 0.2), gradient_clip=(0.4, 0.4), connections="dense", merge="mean")
    reset = torch.rand(5, 3, generator=torch.Generator().manual_seed(4)) < 0.4
    for given in (True, False):
        check(
            "lstm",
            options | {"learn_initial_state": True, "recompute": 2, "batch_first": True},
            asked,
            hidden=[4, 6, 3],
            num_layers=3,
            bidirectional=True,
            lengths=[5, 2, 0],
            reset=reset,
            steps=5,
            given=given,
        )


def test_states_of_layers_of_different_widths():
    layer = tt.LSTM(3, (4, 6), 2, bidirectional=True)
    output, (h, c) = layer(torch.randn(5, 2, 3))
    assert output.shape == (5, 2, 12)
    assert [tuple(s.shape) for s in h] == [tuple(s.shape) for s in c] == [(2, 2, 4), (2, 2, 6)]
    again, _ = layer(torch.randn(5, 2, 3), (h, c))
    assert again.shape == output.shape
    output, (h, c) = layer(torch.randn(5, 3))
    assert output.shape == (5, 12)
    assert [tuple(s.shape) for s in h] == [(2, 4), (2, 6)]
    assert layer(torch.randn(5, 3), (h, c))[0].shape == (5, 12)
    gru = tt.GRU(3, [4, 6], 2)
    _, h = gru(torch.randn(5, 2, 3))
    assert gru(torch.randn(5, 2, 3), h)[0].shape == (5, 2, 6)


def test_equal_widths_are_one_width():
    layer = tt.GRU(3, [4, 4], 2)
    assert layer.hidden_size == 4
    assert layer(torch.randn(5, 2, 3))[1].shape == (2, 2, 4)


def test_reset_parameters_also_draws_the_highways():
    layer = tt.GRU(3, 4, 2, connections="highway")
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(7.0)
    layer.reset_parameters()
    gate = layer.highways[0].gate
    assert (gate.bias == -1).all()
    assert gate.weight.abs().max() <= 0.5
