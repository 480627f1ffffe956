"""Weights that something else computes or masks: by value as torch.nn's layer under the same treatment."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import throughtime as tt

NAMES = ("RNN", "GRU", "LSTM")


class Skew(nn.Module):
    def forward(self, weight):
        return 0.5 * weight - 0.1 * weight.roll(1, 0)


def treat_parametrize(layer):
    for name in ("weight_ih_l0", "weight_hh_l1", "bias_hh_l0"):
        parametrize.register_parametrization(layer, name, Skew())


def treat_weight_norm(layer):
    for name in ("weight_ih_l0", "weight_hh_l0", "weight_hh_l1"):
        parametrizations.weight_norm(layer, name)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def treat_old_weight_norm(layer):
    nn.utils.weight_norm(layer, "weight_hh_l0")
    nn.utils.weight_norm(layer, "weight_ih_l0")


def treat_prune(layer):
    for name in ("weight_hh_l0", "weight_ih_l0", "weight_hh_l1"):
        prune.l1_unstructured(layer, name, 0.4)


def treat_prune_for_good(layer):
    prune.l1_unstructured(layer, "weight_hh_l0", 0.4)
    prune.remove(layer, "weight_hh_l0")


def treat_spectral_norm(layer):
    torch.manual_seed(3)
    parametrizations.spectral_norm(layer, "weight_hh_l0")
    layer.eval()  # in training each reading of the weight is an iteration, of which torch.nn makes several


def treat_orthogonal(layer):
    torch.manual_seed(3)
    parametrizations.orthogonal(layer, "weight_hh_l0")


TREATMENTS = [v for k, v in globals().items() if k.startswith("treat_")]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("treat", TREATMENTS, ids=lambda f: f.__name__.removeprefix("treat_"))
def test_as_torch(name, treat):
    """Results, state dicts and gradients of all parameters, twice: also after a step of the optimiser."""
    layers = []
    for module in (tt, nn):
        torch.manual_seed(0)
        layers.append(getattr(module, name)(3, 6, 2, dtype=torch.float64))
        treat(layers[-1])
    assert list(layers[0].state_dict()) == list(layers[1].state_dict())
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    for _ in range(2):
        found = []
        for layer in layers:
            layer.zero_grad()
            output, _ = layer(x)
            output.square().sum().backward()
            found.append([output, *(p.grad for p in layer.parameters())])
            torch.optim.SGD(layer.parameters(), lr=0.1).step()
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    assert "ih_l0" in "".join(layers[0].state_dict())


def test_a_parametrized_weight_is_computed_once_a_call():
    calls = []

    class Counted(nn.Module):
        def forward(self, weight):
            calls.append(1)
            return weight

    layer = tt.GRU(3, 5)
    parametrize.register_parametrization(layer, "weight_ih_l0", Counted())
    calls.clear()
    layer(torch.zeros(4, 2, 3))
    assert len(calls) == 1


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("undo", [nn.utils.remove_weight_norm, prune.remove])
def test_flat_weights_follow(undo):
    """A treated weight is a tensor among the flat weights, and a parameter again when the treatment is undone."""
    layer = tt.LSTM(3, 5)
    if undo is prune.remove:
        prune.l1_unstructured(layer, "weight_ih_l0", 0.5)
    else:
        nn.utils.weight_norm(layer, "weight_ih_l0")
    assert [isinstance(w, nn.Parameter) for w in layer._flat_weights] == [False, True, True, True]
    undo(layer, "weight_ih_l0")
    assert [isinstance(w, nn.Parameter) for w in layer._flat_weights] == [True] * 4
    assert {n for n, _ in layer.named_parameters()} == set(layer._flat_weights_names)


def test_parametrized_copies():
    layer = tt.GRU(3, 5)
    treat = Skew()
    parametrize.register_parametrization(layer, "weight_hh_l0", treat)
    x = torch.randn(4, 2, 3)
    expected = layer(x)[0]
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.parametrizations.weight_hh_l0.original.zero_()
    assert torch.equal(layer(x)[0], expected) and not torch.equal(other(x)[0], expected)
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert torch.equal(layer(x)[0], expected)


@pytest.mark.parametrize("name", NAMES)
def test_functional_call(name):
    layer, theirs = (getattr(m, name)(3, 5, dtype=torch.float64) for m in (tt, nn))
    own = {n: torch.randn_like(p, requires_grad=True) for n, p in layer.named_parameters()}
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    before = layer(x)[0]
    found = []
    for module in (layer, theirs):
        output, _ = torch.func.functional_call(module, own, (x,))
        found.append([output, *torch.autograd.grad(output.sin().sum(), list(own.values()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    assert torch.equal(layer(x)[0], before)
