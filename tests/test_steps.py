"""`RNNCell`, `GRUCell`, `LSTMCell` in torch.nn's place, and `RecurrentCell` of any cell."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import throughtime as tt

NAMES = ("RNNCell", "GRUCell", "LSTMCell")


def pair(name, *args, seed=1, **options):
    made = []
    for module in (tt, nn):
        torch.manual_seed(seed)
        made.append(getattr(module, name)(*args, **options))
    return made


def states(name, *shape):
    made = [torch.randn(shape, dtype=torch.float64) for _ in range(2)]
    return tuple(made) if name == "LSTMCell" else made[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bias", [True, False])
def test_what_code_looks_for(name, bias):
    ours, theirs = pair(name, 3, 5, bias)
    assert isinstance(ours, nn.RNNCellBase) and repr(ours) == repr(theirs)
    assert ours.__constants__ == theirs.__constants__
    assert [(n, p.tolist()) for n, p in ours.named_parameters()] == [
        (n, p.tolist()) for n, p in theirs.named_parameters()
    ]
    assert (ours.bias_ih is None) == (not bias) and ours.bias is bias
    assert str(theirs.load_state_dict(ours.state_dict())) == "<All keys matched successfully>"
    assert str(ours.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"
    x = torch.randn(2, 3)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert all(torch.equal(a, b) for a, b in zip(tree_leaves(other(x)), tree_leaves(ours(x)), strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2,), ()])
@pytest.mark.parametrize("with_state", [True, False])
def test_numbers(name, bias, shape, with_state):
    """Three steps one after the other: states and all gradients."""
    ours, theirs = pair(name, 3, 5, bias, dtype=torch.float64)
    xs = torch.randn(3, *shape, 3, dtype=torch.float64, requires_grad=True)
    first = states(name, *shape, 5) if with_state else None
    found = []
    for cell in (ours, theirs):
        leaves = [s.requires_grad_() for s in tree_leaves(first)] if with_state else []
        state = first
        for x in xs:
            state = cell(x, state)
        values = tree_leaves(state)
        errors = [torch.arange(v.numel(), dtype=torch.float64).view(v.shape) for v in values]
        assert type(state) is (tuple if name == "LSTMCell" else torch.Tensor)
        found.append([*values, *torch.autograd.grad(values, [xs, *leaves, *cell.parameters()], errors)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_no_units(name):
    """As torch.nn allows it for single steps alone."""
    found = []
    for cell in pair(name, 3, 0, dtype=torch.float64):
        x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        values = tree_leaves(cell(x, states(name, 2, 0)))
        sum(v.sum() for v in values).backward()
        found.append([v.shape for v in values] + [p.grad.shape for p in cell.parameters()] + [x.grad.tolist()])
    assert found[0] == found[1]


def test_relu_and_others():
    ours, theirs = pair("RNNCell", 3, 5, True, "relu")
    x = torch.randn(2, 3)
    assert repr(ours) == repr(theirs)
    torch.testing.assert_close(ours(x), theirs(x))
    assert tt.RNNCell(3, 5, nonlinearity="sin")(x).shape == (2, 5)
    with pytest.raises(RuntimeError, match="Unknown nonlinearity: sine"):
        tt.RNNCell(3, 5, nonlinearity="sine")


def misuses(name):
    def hx(*shape, **options):
        made = torch.zeros(*shape, **options)
        return (made, made) if name == "LSTMCell" else made

    x = torch.zeros(2, 3)
    return [
        (torch.zeros(1, 2, 3), None),
        (torch.zeros(2, 4), None),
        (x, hx(2, 4)),
        (x, hx(3, 5)),
        (x, hx(5)),
        (x, hx(2, 1, 5)),
        (x[0], hx(2, 5)),
        (x.double(), None),
        (x, hx(2, 5, dtype=torch.float64)),
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", range(9))
def test_misuse_as_torch_answers_it(name, number):
    """Torch's type everywhere; torch's words, but for two dtypes, which its product words."""
    args = misuses(name)[number]
    answers = []
    for cell in pair(name, 3, 5):
        with pytest.raises(Exception) as raised:
            cell(*args)
        answers.append((raised.type, str(raised.value)))
    assert answers[0][0] is answers[1][0]
    if number < 7:
        assert answers[0] == answers[1]
    else:
        assert "has dtype torch.float64 but the weights are torch.float32" in answers[0][1]


@pytest.mark.parametrize("name", tt.cells.catalogue)
@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_any_cell_step_by_step_as_the_layer(name, backend):
    cell = tt.cells.catalogue[name]()
    layer = tt.Recurrent(cell, 3, 5, dtype=torch.float64)
    step = tt.RecurrentCell(cell, 3, 5, backend=backend, dtype=torch.float64)
    step.load_state_dict(layer.state_dict())
    words = torch.randint(3, (4, 2))
    for x in (torch.randn(4, 2, 3, dtype=torch.float64), words):
        output, end = layer(x)
        state = None
        for t in range(4):
            state = step(x[t], state)
            torch.testing.assert_close(tree_leaves(state)[0], output[t], rtol=1e-12, atol=1e-13)
        for a, b in zip(tree_leaves(state), tree_leaves(end), strict=True):
            torch.testing.assert_close(a, b[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_options_step_by_step_as_the_layer(name):
    options = {"layer_norm": ("maps", "states"), "state_clip": 0.4, "gradient_clip": 0.1, "zoneout": 0.2}
    layer = getattr(tt, name)(3, 5, dtype=torch.float64, **options).eval()
    step = getattr(tt, name + "Cell")(3, 5, dtype=torch.float64, **options).eval()
    step.load_state_dict({n.removesuffix("_l0"): p for n, p in layer.state_dict().items()})
    assert repr(step).endswith("zoneout=0.2, state_clip=0.4, gradient_clip=0.1)")
    xs = torch.randn(4, 2, 3, dtype=torch.float64)
    state, found = None, []
    for x in xs:
        state = step(x, state)
        found.append(tree_leaves(state)[0])
    output, _ = layer(xs)
    error = torch.randn_like(output)
    torch.testing.assert_close(torch.stack(found), output, rtol=1e-12, atol=1e-13)
    gradients = (
        torch.autograd.grad(o, list(m.parameters()), error) for o, m in ((torch.stack(found), step), (output, layer))
    )
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'num_layers': the options of a cell are"):
        getattr(tt, name + "Cell")(3, 5, num_layers=2)


def test_no_sequences_and_own_misuse():
    cell = tt.LSTMCell(3, 5)
    assert [s.shape for s in cell(torch.zeros(0, 3))] == [(0, 5), (0, 5)]
    with pytest.raises(TypeError, match=r"LSTM expects its state as a tuple of 2 tensors \(h, c\)"):
        cell(torch.zeros(2, 3), torch.zeros(2, 5))
    with pytest.raises(TypeError, match="LSTMCell expects a tensor as input, got list"):
        cell([1.0])
    with pytest.raises(RuntimeError, match="input must hold floating-point numbers, or int64 word numbers"):
        cell(torch.zeros(2, 3) > 0)
    with pytest.raises(IndexError, match=r"word numbers must lie in \[0, 3\)"):
        cell(torch.tensor([3]))
    assert (
        repr(tt.RecurrentCell(tt.cells.MinimalGatedUnit(), 3, 5, False))
        == "RecurrentCell(MinimalGatedUnit, 3, 5, bias=False)"
    )
