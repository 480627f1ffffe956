"""float16, bfloat16 and autocast: dtypes as torch.nn's, numbers those of float32 arithmetic, rounded once."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._pytree import tree_leaves

import throughtime as tt

NAMES = ("RNN", "GRU", "LSTM")
NARROW = [torch.float16, torch.bfloat16]


def dtypes(value):
    return [t.dtype for t in tree_leaves(value) if t is not None and t.is_floating_point()]


def state_of(name, *shape, dtype):
    generator = torch.Generator().manual_seed(4)
    made = [torch.randn(shape, generator=generator).to(dtype) for _ in range(2)]
    return tuple(made) if name.startswith("LSTM") else made[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_narrow_layers(name, dtype, backend):
    """Results and gradients are those of the same weights and inputs in float32, each rounded to the layer's dtype."""
    narrow = getattr(tt, name)(3, 5, 2, bidirectional=True, backend=backend, dtype=dtype)
    wide = getattr(tt, name)(3, 5, 2, bidirectional=True)
    wide.load_state_dict(narrow.state_dict())
    x, state = torch.randn(4, 2, 3).to(dtype), state_of(name, 4, 2, 5, dtype=dtype)
    found = []
    for layer, kind in ((narrow, dtype), (wide, torch.float32)):
        leaves = [t.to(kind).requires_grad_() for t in tree_leaves((x, state))]
        hx = tuple(leaves[1:]) if name == "LSTM" else leaves[1]
        values = tree_leaves(layer(leaves[0], hx))
        errors = [torch.ones_like(v) for v in values]
        found.append([*values, *torch.autograd.grad(values, [*leaves, *layer.parameters()], errors)])
    for a, b in zip(*found, strict=True):
        assert a.dtype == dtype
        # float32's last bits may differ between the backends, and so may the rounding of a tie.
        torch.testing.assert_close(a.float(), b.to(dtype).float(), rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_layers_near_torchs(name, dtype):
    """torch.nn computes in the dtype itself, so only about as near as that rounds."""
    theirs = getattr(nn, name)(3, 5, 2, dtype=dtype)
    ours = getattr(tt, name)(3, 5, 2, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 2, 3).to(dtype)
    for given in (x, x[:, 0], pack_padded_sequence(x, [2, 4], enforce_sorted=False)):
        a, b = ours(given), theirs(given)
        assert dtypes(a) == dtypes(b)
        for own, other in zip(tree_leaves(a), tree_leaves(b), strict=True):
            if own is None:
                continue
            torch.testing.assert_close(own.float(), other.float(), rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_narrow_words_noise_and_initial_states():
    layer = tt.Recurrent(tt.cells.LSTM(), 7, 4, learn_initial_state=True, dtype=torch.bfloat16)
    output, state = layer(torch.randint(7, (3, 2)), lengths=[3, 1])
    assert dtypes((output, state)) == [torch.bfloat16] * 3
    output.sum().backward()
    assert all(p.grad.dtype == torch.bfloat16 and p.grad.any() for n, p in layer.named_parameters() if "c" not in n)
    mogrifier = tt.Recurrent(tt.cells.MogrifierLSTM(), 7, 4, dtype=torch.float16)
    assert mogrifier(torch.randint(7, (3, 2)))[0].dtype == torch.float16


one_dnn = torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.parametrize("name", [*NAMES, "RNNCell", "GRUCell", "LSTMCell"])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("inputs", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("states", [None, torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["padded", "packed"])
def test_dtypes_under_autocast(name, weights, inputs, states, kind):
    """The same dtypes as torch.nn's, and an error where it has one."""
    single = name.endswith("Cell")
    if single and kind == "packed":
        kind = "unbatched"
    x = torch.randn(2, 3) if single else torch.randn(4, 2, 3)
    hx = None if states is None else state_of(name, *(() if single else (1,)), 2, 5, dtype=states)
    x = x.to(inputs)
    if kind == "packed":
        x = pack_padded_sequence(x, [4, 2])
    if kind == "unbatched":
        x, hx = x[0], None if hx is None else tuple(s[0] for s in hx) if name == "LSTMCell" else hx[0]
    if name == "LSTM" and kind == "padded" and not one_dnn:
        pytest.skip("torch.nn's LSTM is made by oneDNN where the processor has bfloat16, with dtypes of its own")
    answers = []
    for module in (tt, nn):
        layer = getattr(module, name)(3, 5, dtype=weights)
        with torch.autocast("cpu", torch.bfloat16):
            try:
                answers.append(dtypes(layer(x, hx)))
            except RuntimeError:
                answers.append(RuntimeError)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("name, options", [("RNN", {}), ("GRU", {}), ("LSTM", {}), ("LSTM", {"proj_size": 2})])
@pytest.mark.parametrize("inside", [True, False])
def test_numbers_under_autocast(name, options, inside):
    """Those of float32 without it, rounded to its dtype; also where the backward pass runs under it."""
    layer = getattr(tt, name)(3, 5, 2, bidirectional=True, **options)
    x = torch.randn(4, 2, 3)
    expected = layer(x)
    gradients = torch.autograd.grad(expected[0].sum(), list(layer.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
        if inside:
            own = torch.autograd.grad(found[0].sum().float(), list(layer.parameters()))
    if not inside:
        own = torch.autograd.grad(found[0].sum().float(), list(layer.parameters()))
    for a, b in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        assert torch.equal(a, b.to(a.dtype))
    for a, b in zip(own, gradients, strict=True):
        assert a.dtype == torch.float32
        # Under autocast torch rounds its own products in the backward pass, as it does for torch.nn.
        torch.testing.assert_close(a, b, rtol=0.02 if inside else 1e-5, atol=0.02 if inside else 1e-5)


def test_any_cell_under_autocast():
    layer = tt.Recurrent(tt.cells.MinimalGatedUnit(), 7, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(3, 2, 7))[0].dtype == torch.float32
        assert layer(torch.randn(3, 2, 7).bfloat16())[0].dtype == torch.bfloat16
        assert layer(torch.randint(7, (3, 2)))[0].dtype == torch.float32
        with pytest.raises(RuntimeError, match=r"the layer's weights are torch.float32, but it was given float64"):
            layer(torch.randn(3, 2, 7).double())
        with pytest.raises(RuntimeError, match=r"the layer's weights are float64, but it was given float32, float64"):
            layer.double()(torch.randn(3, 2, 7).double(), torch.zeros(1, 2, 4))
