"""`RNN`, `GRU`, `LSTM` in torch.nn's place: arguments, attributes, projection, dropout, copies, hidden-state errors."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import warnings

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import throughtime as tt

NAMES = ("RNN", "GRU", "LSTM")


def pair(name, *args, seed=1, **options):
    """Ours and torch.nn's, made after the same seed."""
    made = []
    for module in (tt, nn):
        torch.manual_seed(seed)
        made.append(getattr(module, name)(*args, **options))
    return made


def answer(call):
    """The exception's type and text."""
    with pytest.raises(Exception) as raised, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call()
    return raised.type, str(raised.value)


@pytest.mark.parametrize("name", NAMES)
def test_what_code_looks_for(name):
    ours, theirs = pair(name, 3, 5, 2, bias=False, bidirectional=True, dropout=0.5, batch_first=True)
    assert isinstance(ours, nn.RNNBase) and isinstance(ours, tt.Recurrent)
    assert repr(ours) == repr(theirs)
    for attribute in ("mode", "proj_size", "dropout", "bias", "_all_weights", "_flat_weights_names", "__constants__"):
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert [[w.tolist() for w in row] for row in ours.all_weights] == [
        [w.tolist() for w in row] for row in theirs.all_weights
    ]
    assert all(a is b for a, b in zip(ours._flat_weights, ours.parameters(), strict=True))
    assert ours.flatten_parameters() is None
    x = torch.zeros(2, 4, 3)
    for method in ("get_expected_hidden_size", *(["get_expected_cell_size"] if name == "LSTM" else [])):
        assert getattr(ours, method)(x, None) == getattr(theirs, method)(x, None)
    state = [torch.randn(4, 2, 5), torch.randn(4, 2, 5)]
    hx, order = (tuple(state) if name == "LSTM" else state[0]), torch.tensor([1, 0])
    ours.check_forward_args(x, hx, None)
    for a, b in zip(*(tree_leaves(m.permute_hidden(hx, order)) for m in (ours, theirs)), strict=True):
        assert torch.equal(a, b)
    assert ours(x, hx=hx)[0].shape == theirs(x, hx=hx)[0].shape


@pytest.mark.parametrize("name", NAMES)
def test_arguments_in_torchs_order(name):
    extra = ("relu",) if name == "RNN" else ()
    ours, theirs = pair(name, 3, 5, 2, *extra, False, True, 0.25, True, **({"proj_size": 2} if name == "LSTM" else {}))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert {"device", "dtype"} <= set(inspect.signature(getattr(tt, name)).parameters)
    empty = nn.utils.skip_init(getattr(tt, name), 3, 5, dtype=torch.float64)
    assert empty.weight_hh_l0.dtype == torch.float64


def test_nonlinearity():
    assert (tt.RNN(3, 5).mode, tt.RNN(3, 5).nonlinearity) == ("RNN_TANH", "tanh")
    assert tt.RNN(3, 5, nonlinearity="relu").mode == nn.RNN(3, 5, nonlinearity="relu").mode == "RNN_RELU"
    assert tt.RNN(3, 5, nonlinearity="sin").mode == "RNN_SIN"


WRONG = {
    "proj_size of a GRU": ("GRU", (3, 5), {"proj_size": 0}),
    "proj_size of an RNN": ("RNN", (3, 5), {"proj_size": 2}),
    "proj_size below 0": ("LSTM", (3, 5), {"proj_size": -1}),
    "proj_size as hidden": ("LSTM", (3, 5), {"proj_size": 5}),
    "no such nonlinearity": ("RNN", (3, 5, 1, "sine"), {}),
    "dropout above 1": ("GRU", (3, 5), {"dropout": 2}),
    "dropout of bool": ("GRU", (3, 5), {"dropout": True}),
    "bias of int": ("GRU", (3, 5, 1, 1), {}),
    "batch_first of str": ("GRU", (3, 5), {"batch_first": "no"}),
    "no hidden": ("LSTM", (3, 0), {}),
    "no layers": ("LSTM", (3, 5, 0), {}),
}


@pytest.mark.parametrize("what", WRONG)
def test_refused_with_torchs_words(what):
    name, args, options = WRONG[what]
    ours, theirs = (answer(lambda m=m: getattr(m, name)(*args, **options)) for m in (tt, nn))
    assert ours[0] is theirs[0] and ours[1].startswith(theirs[1])


def states(name, *shape, dtype=torch.float32):
    return (torch.zeros(shape, dtype=dtype),) * 2 if name == "LSTM" else torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 2, 4), (2, 2, 5), (1, 3, 5), (2, 5), (5,)])
def test_states_refused_with_torchs_words(name, shape):
    x = torch.zeros(4, 2, 3)
    ours, theirs = pair(name, 3, 5)
    assert answer(lambda: ours(x, states(name, *shape))) == answer(lambda: theirs(x, states(name, *shape)))


@pytest.mark.parametrize("name", NAMES)
def test_other_misuse_of_states(name):
    x = torch.zeros(4, 2, 3)
    ours, theirs = pair(name, 3, 5)
    assert answer(lambda: ours(x[:, 0], states(name, 1, 1, 5))) == answer(
        lambda: theirs(x[:, 0], states(name, 1, 1, 5))
    )
    double = states(name, 1, 2, 5, dtype=torch.float64)
    found, text = answer(lambda: ours(x, double))
    assert found is answer(lambda: theirs(x, double))[0] is RuntimeError
    assert text.startswith("the state h has dtype torch.float64 but the layer's weights are torch.float32")


@pytest.mark.parametrize("name", NAMES)
def test_misuse_of_input(name):
    ours, theirs = pair(name, 3, 5)
    for x in (torch.zeros(4, 2, 3).double(), torch.zeros(4, 2, 7), torch.zeros(0, 2, 3), torch.zeros(4, 2, 3).half()):
        assert answer(lambda x=x: ours(x)) == answer(lambda x=x: theirs(x))
    for x in (torch.zeros(3), torch.zeros(1, 4, 2, 3)):
        assert answer(lambda x=x: ours(x)) == answer(lambda x=x: theirs(x))
    for kind in (torch.int64, torch.bool, torch.complex64):
        found, expected = (answer(lambda m=m, kind=kind: m(torch.zeros(4, 2, 3).to(kind))) for m in (ours, theirs))
        assert found[0] is expected[0] and found[1].split(", or ")[0] == expected[1].split(", or ")[0]


# ---- projection -----------------------------------------------------------------------------------


def projected(layer, x, h, c):
    """LSTMP, Sak et al. 2014, in float64 from the layer's parameters: output, (h, c)."""
    below, ends = x, []
    for level in range(layer.num_layers):
        outputs = []
        for d, suffix in enumerate(["", "_reverse"][: layer.directions]):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
            p = {name: getattr(layer, f"{name}_l{level}{suffix}") for name in names}
            k = level * layer.directions + d
            s, m, found = h[k], c[k], {}
            for t in reversed(range(len(x))) if d else range(len(x)):
                net = below[t] @ p["weight_ih"].T + s @ p["weight_hh"].T + p["bias_ih"] + p["bias_hh"]
                i, f, g, o = net.split(layer.hidden_size, -1)
                m = torch.sigmoid(f) * m + torch.sigmoid(i) * torch.tanh(g)
                s = (torch.sigmoid(o) * torch.tanh(m)) @ p["weight_hr"].T
                found[t] = s
            ends.append((s, m))
            outputs.append(torch.stack([found[t] for t in range(len(x))]))
        below = torch.cat(outputs, -1)
    return below, torch.stack([e[0] for e in ends]), torch.stack([e[1] for e in ends])


@pytest.mark.parametrize("proj_size", [1, 4])
@pytest.mark.parametrize("layers, bidirectional", [(1, False), (2, True)])
@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_projection(proj_size, layers, bidirectional, backend):
    """Against a loop of one's own: output, states, every gradient; and torch's parameters."""
    options = {"proj_size": proj_size, "bidirectional": bidirectional, "dtype": torch.float64}
    layer = tt.LSTM(3, 7, layers, backend=backend, **options)
    assert [(n, p.shape) for n, p in layer.named_parameters()] == [
        (n, p.shape) for n, p in nn.LSTM(3, 7, layers, **options).named_parameters()
    ]
    rows = layers * layer.directions
    generator = torch.Generator().manual_seed(2)
    x, h, c = (
        torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((5, 3, 3), (rows, 3, proj_size), (rows, 3, 7))
    )
    output, (new_h, new_c) = layer(x, (h, c))
    both = [(output, new_h, new_c), projected(layer, x, h, c)]
    errors = [torch.randn(v.shape, dtype=torch.float64, generator=generator) for v in both[0]]
    leaves = [x, h, c, *layer.parameters()]
    found, expected = ([*v, *torch.autograd.grad(v, leaves, errors)] for v in both)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_projection_of_any_lstm_and_as_text():
    """A cell's option, with peepholes and lengths; the cell as text keeps it."""
    cell = tt.cells.LSTM(peepholes=True, projection=2)
    layer = tt.Recurrent(cell, 3, 5, dtype=torch.float64)
    stored = tt.symbolic.stored.load_cell(tt.symbolic.stored.save_cell(cell))
    twin = tt.Recurrent(stored, 3, 5, dtype=torch.float64)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    output, (h, c) = layer(x, lengths=[4, 1])
    assert (output.shape, h.shape, c.shape) == ((4, 2, 2), (1, 2, 2), (1, 2, 5))
    assert torch.equal(twin(x, lengths=[4, 1])[0], output)


# ---- dropout, numbers, copies ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["padded", "unbatched", "packed"])
def test_dropout_is_torchs_for_the_same_seed(name, batch_first, kind):
    ours, theirs = pair(name, 3, 6, 3, dropout=0.4, batch_first=batch_first, bidirectional=True, dtype=torch.float64)
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    if kind == "unbatched":
        x = x[:, 0]
    if kind == "packed":
        x = nn.utils.rnn.pack_padded_sequence(x, [2, 4, 1, 3], batch_first, enforce_sorted=False)
    found = []
    for layer in (ours, theirs):
        torch.manual_seed(8)
        found.append(tree_leaves(layer(x)))
        found[-1] += [torch.rand(1)]  # and as much was drawn
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name, options", [("RNN", {}), ("GRU", {}), ("LSTM", {}), ("LSTM", {"proj_size": 2})])
def test_copies_and_state_dicts_both_ways(name, options, tmp_path):
    ours, theirs = pair(name, 3, 5, 2, bidirectional=True, **options)
    x = torch.randn(4, 2, 3)
    expected = ours(x)[0]
    torch.save(ours, tmp_path / "layer.pt")
    copies = [
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(tmp_path / "layer.pt", weights_only=False),
    ]
    for other in copies:
        assert torch.equal(other(x)[0], expected) and repr(other) == repr(ours)
        assert all(a is b for a, b in zip(other._flat_weights, other.parameters(), strict=True))
        with torch.no_grad():
            other.weight_hh_l0.zero_()
        assert torch.equal(ours(x)[0], expected)
    other, _ = pair(name, 3, 5, 2, seed=2, bidirectional=True, **options)
    assert str(theirs.load_state_dict(other.state_dict())) == "<All keys matched successfully>"
    assert str(ours.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"
    torch.testing.assert_close(ours(x)[0], other(x)[0], rtol=0, atol=0)


def test_weights_that_are_replaced():
    """As tensors under a parameter's name and through the list of flat weights, as older code does it."""
    layer = tt.GRU(3, 5)
    x = torch.randn(4, 2, 3)
    before = layer(x)[0]
    new = nn.Parameter(layer.weight_hh_l0.detach() * 0.5)
    layer._flat_weights = [new if w is layer.weight_hh_l0 else w for w in layer._flat_weights]
    assert layer.weight_hh_l0 is new and not torch.equal(layer(x)[0], before)
    del layer.weight_hh_l0
    layer.weight_hh_l0 = new.detach() * 2
    assert torch.equal(layer(x)[0], before)


def test_a_layer_of_which_a_weight_is_missing_moves():
    """As when a weight is taken off, and put back computed from others."""
    layer = tt.LSTM(3, 5)
    x = torch.randn(4, 2, 3)
    expected = layer(x)[0]
    weight = layer.weight_hh_l0
    del layer.weight_hh_l0
    assert not hasattr(layer, "weight_hh_l0")
    layer.double().float()
    layer.weight_hh_l0 = weight
    assert torch.equal(layer(x)[0], expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_of_other_dropout_afterwards(name):
    found = []
    for layer in pair(name, 3, 5, 2, dtype=torch.float64):
        layer.dropout = 0.5
        torch.manual_seed(2)
        found.append(layer(torch.ones(4, 2, 3, dtype=torch.float64))[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_tied_weights(name):
    """One parameter in both directions: its gradient is the sum, and it is one after a step and a copy."""
    found = []
    for layer in pair(name, 3, 5, bidirectional=True, dtype=torch.float64):
        layer.weight_hh_l0_reverse = layer.weight_hh_l0
        output, _ = layer(torch.ones(4, 2, 3, dtype=torch.float64))
        output.sin().sum().backward()
        torch.optim.SGD(layer.parameters(), lr=0.1).step()
        twin = copy.deepcopy(layer)
        assert twin.weight_hh_l0_reverse is twin.weight_hh_l0
        found.append([output, *(p.grad for p in layer.parameters()), twin(torch.ones(4, 2, 3).double())[0]])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_lengths_and_packed_together():
    layer = tt.GRU(3, 5)
    packed = nn.utils.rnn.pack_sequence([torch.zeros(2, 3)])
    with pytest.raises(TypeError, match=re.escape("a PackedSequence has its own lengths: leave lengths= out")):
        layer(packed, lengths=[2])
