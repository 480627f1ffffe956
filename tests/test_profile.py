"""The ranges that torch.profiler shows, and that there are none without it."""

from __future__ import annotations

import timeit

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import throughtime as tt
from throughtime.nn.profile import named_range


def ranges(profiler):
    return {e.key: e.count for e in profiler.key_averages() if e.key.startswith("throughtime::")}


@pytest.mark.parametrize("name, title", [("gru", "GRU"), ("lstm-peephole", "LSTM"), ("mgu", "MinimalGatedUnit")])
def test_every_kernel_run_is_a_named_range(name, title):
    """One range per layer and pass; both directions are one run. Products run twice backward, for the input
    gets a gradient from each direction."""
    layer = tt.Recurrent(tt.cells.catalogue[name](), 3, 5, 2, bidirectional=True)
    x = torch.randn(4, 2, 3, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        output, _ = layer(x)
        output.sum().backward()
    kernels = {f"throughtime::{title}": 2, f"throughtime::{title}.backward": 2}
    assert ranges(found) == {**kernels, "throughtime::products": 4}
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found, torch.no_grad():
        layer(x)
    assert ranges(found) == {f"throughtime::{title}": 2}


def test_the_gradient_of_a_gradient_has_a_range_of_its_own():
    layer = tt.GRU(3, 5)
    x = torch.randn(4, 2, 3, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        (gradient,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
        gradient.square().sum().backward()
    assert {"throughtime::GRU", "throughtime::GRU.backward", "throughtime::GRU.backward.backward"} <= set(ranges(found))


def test_without_a_profiler_nothing_is_made():
    assert named_range("GRU") is named_range("LSTM")
    with profile(activities=[ProfilerActivity.CPU], acc_events=True):
        assert isinstance(named_range("GRU"), torch.profiler.record_function)
    assert named_range("GRU") is named_range("LSTM")

    def one():
        with named_range("GRU"):
            pass

    # A small kernel call takes some 20 microseconds; the bound is loose because other programs run here too.
    assert min(timeit.repeat(one, number=1000, repeat=20)) / 1000 < 2e-6
