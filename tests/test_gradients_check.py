"""The check can fail: planted errors that other suites let through are caught, one by one."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

import oracles
import throughtime as tt
from gradient_check import Wrong, check, error, flat


class Scaled(torch.autograd.Function):
    """The value itself; its gradient 0.1 % too large."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 1.001


class Mutant:
    """A layer that is wrong in one way."""

    def __init__(self, layer):
        self.layer = layer

    def __getattr__(self, name):
        return getattr(self.layer, name)

    def changed(self, parameters):
        return parameters

    def __call__(self, x, state, lengths=None):
        parameters = self.changed(dict(self.layer.named_parameters()))
        return functional_call(self.layer, parameters, (x, state), {"lengths": lengths})


class WeightGradientScaled(Mutant):
    def changed(self, parameters):
        return parameters | {"weight_hh_l0": Scaled.apply(parameters["weight_hh_l0"])}


class BiasGradientScaled(Mutant):
    def changed(self, parameters):
        return parameters | {"bias_ih_l0": Scaled.apply(parameters["bias_ih_l0"])}


class InputGradientScaled(Mutant):
    def __call__(self, x, state, lengths=None):
        return super().__call__(Scaled.apply(x), state, lengths)


class StateGradientScaled(Mutant):
    def __call__(self, x, state, lengths=None):
        return super().__call__(x, Scaled.apply(state), lengths)


class BiasOutsideReset(Mutant):
    """b_hn added beside r ⊙ (R_n h) instead of inside."""

    def changed(self, parameters):
        inside = parameters["bias_hh_l0"].unflatten(0, (3, -1)) * torch.tensor([[1], [1], [0]])
        moved = parameters["bias_hh_l0"] - inside.flatten()
        return parameters | {"bias_hh_l0": inside.flatten(), "bias_ih_l0": parameters["bias_ih_l0"] + moved}


class GatesSwapped(Mutant):
    def changed(self, parameters):
        r, z, n = parameters["weight_hh_l0"].chunk(3)
        return parameters | {"weight_hh_l0": torch.cat([z, r, n])}


class FinalStateDetached(Mutant):
    """The error of the final state does not enter."""

    def __call__(self, x, state, lengths=None):
        output, final = super().__call__(x, state, lengths)
        return output, final.detach().requires_grad_()


class ReverseFromTheEndOfPadding(Mutant):
    """Right in the forward direction; the reverse direction walks through the padding first."""

    def __call__(self, x, state, lengths=None):
        output, final = super().__call__(x, state, lengths)
        real = (torch.arange(x.shape[0])[:, None] < lengths)[..., None]
        wrong, wrong_final = super().__call__(x.where(real, 0.0), state, None)
        H = self.layer.hidden_size
        output = torch.cat([output[..., :H], wrong[..., H:].where(real, 0.0)], -1)
        return output, torch.stack([final[0], wrong_final[1]])


class InputProductReadsPadding(Mutant):
    """The weight gradient multiplies the errors, 0 in the padding, by all of x: 0 · NaN is NaN."""

    def __call__(self, x, state, lengths=None):
        output, final = super().__call__(x, state, lengths)
        real = (torch.arange(x.shape[0])[:, None] < lengths)[..., None]
        unused = torch.nn.functional.linear(x, self.layer.weight_ih_l0[:1]).where(real, 0.0)
        return output + 0 * unused, final


MUTANTS = Mutant.__subclasses__()


def gru(**options):
    return tt.GRU(3, 5, dtype=torch.float64, **options)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_planted_error_is_caught(mutant):
    layer = mutant(gru(bidirectional=True))
    with pytest.raises(Wrong, match="relative error above 1e-12"):
        check(layer, oracles.gru_reset_after, T=4, B=3, lengths=[4, 0, 2])


def test_the_same_layer_without_a_planted_error_passes():
    check(Mutant(gru(bidirectional=True)), oracles.gru_reset_after, T=4, B=3, lengths=[4, 0, 2])


def test_float32_tolerance_catches_0_1_percent_too():
    layer = WeightGradientScaled(tt.GRU(3, 5))
    with pytest.raises(Wrong, match=r"relative error above 2e-06 in ∂weight_hh_l0: 1\.0e-03$"):
        check(layer, oracles.gru_reset_after)


def test_the_check_itself_against_torch():
    """torch.nn passes: the check is not fitted to this package."""
    for dtype in (torch.float64, torch.float32):
        check(torch.nn.GRU(3, 17, 2, bidirectional=True, dtype=dtype), oracles.gru_reset_after, T=9)
        check(torch.nn.LSTM(3, 17, 2, bidirectional=True, dtype=dtype), oracles.lstm, T=9, states=2)


def test_error_measure():
    one = torch.ones(4, dtype=torch.float64)
    assert error(one * 1.5, one) == 0.5
    assert error(one * 0, one * 0) == 0
    assert error(one, one * 0) == torch.inf
    assert error(one * torch.nan, one) == torch.inf
    with pytest.raises(Wrong, match=r"shape \(2, 2\) instead of \(4,\)"):
        error(one.reshape(2, 2), one)
    assert [t.shape for t in flat((one, one))] == [(4,), (4,)]
