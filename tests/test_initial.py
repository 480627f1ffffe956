"""First values of the weights."""

from __future__ import annotations

import math

import pytest
import torch

import throughtime as tt


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("layers, bidirectional, bias", [(1, False, True), (2, True, True), (2, True, False)])
def test_drop_ins_start_from_the_numbers_of_torch(name, layers, bidirectional, bias):
    starts = []
    for module in (tt, torch.nn):
        torch.manual_seed(5)
        layer = getattr(module, name)(7, 5, layers, bias=bias, bidirectional=bidirectional)
        starts.append(layer.state_dict())
    assert list(starts[0]) == list(starts[1])
    assert all(torch.equal(starts[0][n], p) for n, p in starts[1].items())


def test_torch_default_on_any_cell():
    layer = tt.init.torch_default_(tt.Recurrent(tt.cells.LayerNormLSTM(), 7, 16))
    for name, p in layer.named_parameters():
        if name.startswith(("gain", "shift")):
            assert torch.equal(p, torch.full_like(p, name.startswith("gain")))
        else:
            assert 0.8 / math.sqrt(16) < p.abs().max() <= 1 / math.sqrt(16)


def test_tutorial():
    """uniform(-1e-4, 1e-4), no bias, which it says itself barely trains."""
    layer = tt.init.tutorial_(tt.RNN(30, 50))
    for name in ("weight_ih_l0", "weight_hh_l0"):
        weight = getattr(layer, name)
        assert 0.9e-4 < weight.abs().max() <= 1e-4 and abs(weight.mean()) < 1e-5
    assert not layer.bias_ih_l0.any() and not layer.bias_hh_l0.any()


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_orthogonal(gain):
    """Every recurrent map of every gate on its own, in every layer and direction."""
    layer = tt.init.orthogonal_(tt.GRU(3, 6, 2, bidirectional=True, dtype=torch.float64), gain)
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        for block in getattr(layer, "weight_hh" + suffix).split(6):
            expected = gain**2 * torch.eye(6, dtype=torch.float64)
            torch.testing.assert_close(block @ block.t(), expected, rtol=1e-12, atol=1e-12)


def test_forget_bias():
    layer = tt.init.forget_bias_(tt.LSTM(3, 4), 2.0)
    total = layer.bias_ih_l0 + layer.bias_hh_l0
    assert total[4:8].tolist() == [2.0] * 4
    assert not (total[:4] == 2).any() and not (total[8:] == 2).any()
    single = tt.init.forget_bias_(tt.Recurrent(tt.cells.MinimalGatedUnit(), 3, 4), -1.0)
    assert single.bias_l0.tolist() == [-1.0] * 4 + [0.0] * 4
    with pytest.raises(ValueError, match="GRU has no affine map 'f' with a bias: name one of its maps"):
        tt.init.forget_bias_(tt.GRU(3, 4))


def test_default_of_any_cell():
    """Orthogonal recurrent maps, an open forget gate, no other bias, gains at 1."""
    layer = tt.Recurrent(tt.cells.LayerNormLSTM(), 7, 4, dtype=torch.float64)
    assert layer.bias_l0.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    assert layer.gain_c_l0.tolist() == [1.0] * 4
    block = layer.weight_hh_l0[:4]
    torch.testing.assert_close(block @ block.t(), torch.eye(4, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert layer.weight_ih_l0.abs().max() <= math.sqrt(6 / 11)


def test_functions_return_the_layer_and_keep_gradients():
    layer = tt.GRU(3, 4)
    for function in (tt.init.tutorial_, tt.init.torch_default_, tt.init.orthogonal_):
        assert function(layer) is layer
    assert all(p.requires_grad and p.is_leaf for p in layer.parameters())
