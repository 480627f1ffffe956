"""torch.fx and TorchScript, as programs that were written for torch.nn use them."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

import throughtime as tt
from throughtime.nn.older_graphs import TorchScriptWarning

NAMES = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),  # torch.nn's own checks read shapes
]


class Model(nn.Module):
    """A layer between two others, as any program has it."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.layer = nn.Linear(4, 3), layer

    def forward(self, x):
        return self.layer(self.first(x))


def model_of(name, **options):
    torch.manual_seed(0)
    return Model(getattr(tt, name)(3, 5, dtype=torch.float64, **options)).double()


def x_for(name, *shape):
    x = torch.randn(*shape, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x[0] if name.endswith("Cell") else x


def results(model, x):
    values = tree_leaves(model(x))
    gradients = torch.autograd.grad(sum(v.sin().sum() for v in values), list(model.parameters()))
    return [*values, *gradients]


def equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_fx_holds_a_layer_as_one_node(name):
    model = model_of(name)
    graph = torch.fx.symbolic_trace(model)
    assert [(n.op, n.target) for n in graph.graph.nodes][1:3] == [("call_module", "first"), ("call_module", "layer")]
    x = x_for(name, 6, 2)
    for a, b in zip(results(graph, x), results(model, x), strict=True):
        assert torch.equal(a, b)
    assert type(copy.deepcopy(graph).layer) is getattr(tt, name)


def test_fx_keeps_what_a_call_was_given():
    class Resetting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = tt.Recurrent(tt.cells.MinimalGatedUnit(), 3, 5)

        def forward(self, x, h, lengths, reset):
            return self.layer(x, h, lengths, reset=reset)[0].relu()

    model = Resetting()
    given = torch.randn(6, 2, 3), torch.randn(1, 2, 5), torch.tensor([6, 3]), torch.rand(6, 2) < 0.3
    assert torch.equal(torch.fx.symbolic_trace(model)(*given), model(*given))


def saved_and_loaded(scripted):
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False}])
@pytest.mark.parametrize("name", NAMES)
def test_torchscript(name, options):
    """Traced and compiled, saved and loaded, for other shapes than those it was traced with: results and gradients."""
    if name.endswith("Cell"):
        options = {k: v for k, v in options.items() if k == "bias"}
    model, x = model_of(name, **options), x_for(name, 6, 3)
    expected = results(model, x)
    with pytest.warns(TorchScriptWarning, match=rf"{name} goes into it as torch.nn.{name} with the same weights"):
        traced = torch.jit.trace(model, x_for(name, 4, 2))
    equal(results(saved_and_loaded(traced), x), expected)
    assert type(model.layer) is getattr(tt, name)
    with pytest.warns(TorchScriptWarning, match=rf"{name} goes into it as torch.nn.{name} with the same weights"):
        scripted = torch.jit.script(model)
    equal(results(saved_and_loaded(scripted), x), expected)


@pytest.mark.filterwarnings("ignore::throughtime.nn.older_graphs.TorchScriptWarning")
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_traced_with_packing_states_and_computed_weights(name):
    layer = getattr(tt, name)(3, 5, 2, bidirectional=True, dtype=torch.float64)
    parametrizations.weight_norm(layer, "weight_hh_l0")
    prune.l1_unstructured(layer, "weight_ih_l1", 0.5)

    class Packing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, lengths, h):
            packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
            output, state = self.layer(packed, (h, h) if name == "LSTM" else h)
            return pad_packed_sequence(output)[0], state

    def given(steps, rows):
        lengths = torch.tensor([steps, *(1 for _ in range(rows - 1))])
        return torch.randn(steps, rows, 3).double(), lengths, torch.randn(4, rows, 5).double()

    model = Packing()
    traced = torch.jit.trace(model, given(4, 2))
    other = given(6, 3)
    equal(tree_leaves(traced(*other)), tree_leaves(model(*other)))


def test_what_torchscript_cannot_hold():
    x = torch.randn(4, 2, 3)
    own = tt.Recurrent(tt.cells.MinimalGatedUnit(), 3, 5)
    message = r"TorchScript cannot hold Recurrent, torch.nn has no MinimalGatedUnit: torch.export and torch.compile can"
    with pytest.raises(RuntimeError, match=message):
        torch.jit.trace(own, x)
    with pytest.raises(RuntimeError, match=message):
        torch.jit.script(own)
    normalised = tt.GRU(3, 5, layer_norm=True)
    with pytest.raises(RuntimeError, match=r"TorchScript cannot hold GRU, torch.nn"):
        torch.jit.trace(normalised, x)

    class WithLengths(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = tt.GRU(3, 5)

        def forward(self, x):
            return self.layer(x, lengths=[4, 2])[0]

    with pytest.raises(RuntimeError, match=r"TorchScript cannot hold GRU's lengths: torch.export can"):
        torch.jit.trace(WithLengths(), x)
