"""The layer's front: shapes, word numbers, states, sizes of nothing, and what is refused."""
# ruff: noqa: E501 (a message stays on one line, as its reader sees it)

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch

import throughtime as tt

DROPINS = {"RNN": (tt.RNN, torch.nn.RNN), "GRU": (tt.GRU, torch.nn.GRU), "LSTM": (tt.LSTM, torch.nn.LSTM)}


def flat(state):
    return [state] if isinstance(state, torch.Tensor) else list(state)


def randomise(layer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    return layer


@pytest.mark.parametrize("name", DROPINS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("layers, bidirectional", [(1, False), (2, True)])
def test_the_shapes_and_numbers_of_torch(name, batch_first, layers, bidirectional):
    """Batched and unbatched, with and without a state."""
    ours, theirs = DROPINS[name]
    options = {"batch_first": batch_first, "bidirectional": bidirectional, "dtype": torch.float64}
    layer, expected = ours(3, 5, layers, **options), theirs(3, 5, layers, **options)
    layer.load_state_dict(expected.state_dict())
    assert [n for n, _ in layer.named_parameters()] == [n for n, _ in expected.named_parameters()]
    batched = (2, 4, 3) if batch_first else (4, 2, 3)
    for shape in (batched, (4, 3)):
        x = torch.randn(shape, dtype=torch.float64)
        rows = (2,) if len(shape) == 3 else ()
        count = 2 if name == "LSTM" else 1
        own = [torch.randn(layers * (1 + bidirectional), *rows, 5, dtype=torch.float64) for _ in range(count)]
        for state in (None, tuple(own) if count > 1 else own[0]):
            output, end = layer(x, state)
            expected_output, expected_end = expected(x, state)
            assert type(end) is type(expected_end)
            torch.testing.assert_close(output, expected_output, rtol=1e-12, atol=1e-12)
            for a, b in zip(flat(end), flat(expected_end), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["gru", "lstm-mogrifier"])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
def test_word_numbers_are_one_hot_vectors(name, kind):
    """Output and every gradient, for a vocabulary of 3000 words; the mogrifier also multiplies x itself."""
    layer = tt.Recurrent(
        tt.cells.catalogue[name](), 3000, 4, 2, bidirectional=True, batch_first=True, dtype=torch.float64
    )
    words = torch.randint(3000, (2, 5), generator=torch.Generator().manual_seed(0))
    words[0, 1] = words[1, 3] = 2999
    one_hot = torch.nn.functional.one_hot(words, 3000).double()
    found = []
    for x in (words.to(kind), one_hot):
        output, end = layer(x, lengths=[5, 3])
        error = (output * output).sum() + sum(e.sin().sum() for e in flat(end))
        found.append([output, *flat(end), *torch.autograd.grad(error, list(layer.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_padding_may_hold_any_word():
    layer = tt.GRU(7, 4)
    words = torch.tensor([[1, 2], [3, -100], [6, 999]])
    output, end = layer(words, lengths=[3, 1])
    alone, end_alone = layer(words[:1, 1:])
    assert torch.equal(output[:1, 1:], alone) and torch.equal(end[:, 1:], end_alone)
    assert not output[1:, 1].any()


@pytest.mark.parametrize("words", [[[0, 7]], [[-1, 2]]])
def test_words_outside_the_vocabulary(words):
    with pytest.raises(IndexError, match=r"word numbers must lie in \[0, 7\), the vocabulary, got"):
        tt.GRU(7, 4)(torch.tensor(words))


def test_learned_initial_state():
    layer = tt.Recurrent(tt.cells.LSTM(), 3, 5, 2, bidirectional=True, learn_initial_state=True, dtype=torch.float64)
    assert layer.initial_h.shape == layer.initial_c.shape == (4, 5)
    randomise(layer)
    x = torch.randn(4, 3, 3, dtype=torch.float64)
    given = tuple(s.unsqueeze(1).expand(-1, 3, -1) for s in (layer.initial_h, layer.initial_c))
    gradients = []
    for state in (None, given):
        output, end = layer(x, state, lengths=[4, 0, 2])
        gradients.append(torch.autograd.grad(output.sin().sum() + end[1].sum(), list(layer.parameters())))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
    names = [n for n, _ in layer.named_parameters()]
    assert all(g.any() for n, g in zip(names, gradients[0], strict=True) if n.startswith("initial"))
    assert torch.equal(layer(x, lengths=[4, 0, 2])[1][0][:, 1], layer.initial_h)


def test_dropout_between_layers():
    layer = tt.GRU(3, 50, 2, dropout=0.4)
    x = torch.randn(3, 2, 3)
    torch.manual_seed(1)
    first = layer(x)[0]
    second = layer(x)[0]
    torch.manual_seed(1)
    assert torch.equal(layer(x)[0], first)
    assert not torch.equal(first, second)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last recurrent layer"):
        single = tt.GRU(3, 5, 1, dropout=0.4)
    assert torch.equal(single(x)[0], single(x)[0])


@pytest.mark.parametrize("name", DROPINS)
def test_one_step_and_no_sequences(name):
    ours, theirs = DROPINS[name]
    for steps, rows in ((1, 1), (1, 3), (4, 0)):
        layer, expected = ours(3, 5, bidirectional=True), theirs(3, 5, bidirectional=True)
        layer.load_state_dict(expected.state_dict())
        x = torch.randn(steps, rows, 3, requires_grad=True)
        output, end = layer(x)
        expected_output, expected_end = expected(x)
        torch.testing.assert_close(output, expected_output)
        for a, b in zip(flat(end), flat(expected_end), strict=True):
            torch.testing.assert_close(a, b)
        output.sum().backward()
        assert rows or not any(p.grad.any() for p in layer.parameters())
        assert x.grad.shape == x.shape


def misuses():
    """What is given to a layer of 3 inputs and 5 units, and the sentence that answers it (None: torch's own)."""
    x = torch.zeros(4, 2, 3)
    return {
        "rank 1": ((torch.zeros(3),), {}, "RNN: Expected input to be 2D or 3D, got 1D tensor instead"),
        "rank 4": ((torch.zeros(1, 1, 1, 3),), {}, "RNN: Expected input to be 2D or 3D, got 4D tensor instead"),
        "width": ((torch.zeros(4, 2, 9),), {}, "input.size(-1) must be equal to input_size. Expected 3, got 9"),
        "dtype": ((x.double(),), {}, "RNN input dtype (torch.float64) does not match weight dtype (torch.float32). Convert input: input.to(torch.float32), or convert model: model.to(torch.float64)"),
        "no steps": ((x[:0],), {}, "Expected sequence length to be larger than 0 in RNN"),
        "state rank": ((x, torch.zeros(2, 5)), {}, "For batched 3-D input, hx should also be 3-D but got 2-D tensor"),
        "state width": ((x, torch.zeros(1, 2, 4)), {}, "Expected hidden size (1, 2, 5), got [1, 2, 4]"),
        "state layers": ((x, torch.zeros(2, 2, 5)), {}, "Expected hidden size (1, 2, 5), got [2, 2, 5]"),
    }  # fmt: skip


@pytest.mark.parametrize("what", misuses())
def test_misuse_as_torch_answers_it(what):
    """The same exception as torch.nn's for the same mistake."""
    args, options, message = misuses()[what]
    with pytest.raises(Exception) as theirs:
        torch.nn.RNN(3, 5)(*args)
    with pytest.raises(theirs.type, match=re.escape(message)):
        tt.RNN(3, 5)(*args, **options)


OWN = {
    "a list": (lambda r, x: r([[1.0]]), TypeError, "RNN expects a tensor as input, got list"),
    "a state in a tuple of two": (lambda r, x: r(x, (x, x)), TypeError, "Elman expects its state as one tensor (h)"),
    "bool input": (lambda r, x: r(x > 0), ValueError, "RNN input dtype (torch.bool) does not match weight dtype (torch.float32). Convert input: input.to(torch.float32), or give word numbers: int64 [T, B]"),
    "complex weights": (lambda r, x: tt.RNN(3, 5, dtype=torch.complex64)(x), ValueError, "the layer's weights are torch.complex64: a recurrence is computed in floating-point numbers"),
    "state dtype": (lambda r, x: r(x, torch.zeros(1, 2, 5).double()), RuntimeError, "the state h has dtype torch.float64"),
    "too long": (lambda r, x: r(x, lengths=[5, 1]), ValueError, "lengths must lie in [0, 4], the time steps given, got 1 to 5"),
    "negative": (lambda r, x: r(x, lengths=[-1, 1]), ValueError, "lengths must lie in [0, 4], the time steps given, got -1 to 1"),
    "too few": (lambda r, x: r(x, lengths=[4]), ValueError, "lengths must have one number for each of the 2 sequences"),
    "fractions": (lambda r, x: r(x, lengths=torch.tensor([1.0, 2.0])), TypeError, "lengths must be whole numbers, got torch.float32"),
    "a number": (lambda r, x: r(x, lengths=3), TypeError, "lengths must be a tensor or a list of whole numbers, got int"),
    "state elsewhere": (lambda r, x: r(x, torch.zeros(1, 2, 5, device="meta")), RuntimeError, "the state h is on meta but the layer is on cpu: move one with .to()"),
    "letters": (lambda r, x: r(x, lengths="ab"), TypeError, "lengths must be a tensor or a list of whole numbers, got str"),
    "another device": (lambda r, x: r(x.to("meta")), RuntimeError, "input is on meta but the layer is on cpu: move one with .to()"),
}  # fmt: skip


@pytest.mark.parametrize("what", OWN)
def test_misuse(what):
    call, kind, message = OWN[what]
    with pytest.raises(kind, match=re.escape(message)):
        call(tt.RNN(3, 5), torch.zeros(4, 2, 3))


@pytest.mark.parametrize(
    "options, kind, message",
    [
        ({"hidden_size": 0}, ValueError, "hidden_size must be greater than zero, got 0"),
        ({"hidden_size": 2.0}, TypeError, "hidden_size should be of type int, got: float"),
        ({"num_layers": 0}, ValueError, "num_layers must be greater than zero, got 0"),
        ({"dropout": 1.5}, ValueError, "dropout should be a number in range [0, 1]"),
        ({"recompute": 0}, ValueError, "recompute should be None or a number of steps above 0, got 0"),
        ({"backend": "gpu"}, ValueError, 'backend should be "compiled" or "reference", got \'gpu\''),
    ],
)
def test_misuse_of_options(options, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        tt.Recurrent(tt.cells.GRU(), **({"input_size": 3, "hidden_size": 5} | options))


def test_layout_in_memory_does_not_matter():
    """Transposed, expanded and strided inputs, states and weights."""
    layer = randomise(tt.GRU(3, 5, bidirectional=True, dtype=torch.float64))
    base = torch.randn(4, 2, 3, dtype=torch.float64)
    state = torch.randn(2, 2, 5, dtype=torch.float64)
    expected = layer(base, state)
    strided = torch.randn(4, 4, 6, dtype=torch.float64)[:, ::2, ::2]
    strided.copy_(base)
    states = torch.randn(5, 2, 2, dtype=torch.float64).permute(2, 1, 0)
    states.copy_(state)
    for x in (strided, base.permute(2, 0, 1).contiguous().permute(1, 2, 0)):
        output, end = layer(x, states)
        torch.testing.assert_close(output, expected[0], rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(end, expected[1], rtol=1e-14, atol=1e-14)
    one = base[:, :1].expand(4, 2, 3)
    torch.testing.assert_close(layer(one)[0], layer(one.contiguous())[0], rtol=1e-14, atol=1e-14)
    for name in ("weight_hh_l0", "weight_ih_l0"):
        weight = getattr(layer, name)
        weight.data = weight.data.t().contiguous().t()
    torch.testing.assert_close(layer(base, state)[0], expected[0], rtol=1e-14, atol=1e-14)


def test_changes_of_weights_are_seen():
    layer = tt.GRU(3, 5)
    x = torch.randn(4, 2, 3)
    before = layer(x)[0]
    with torch.no_grad():
        layer.weight_hh_l0.mul_(0.5)
    changed = layer(x)[0]
    assert not torch.equal(before, changed)
    layer.weight_hh_l0.data *= 2
    assert torch.equal(layer(x)[0], before)


def test_copies(tmp_path):
    layer = randomise(tt.Recurrent(tt.cells.MinimalGatedUnit(), 3, 5, 2, bidirectional=True))
    x = torch.randn(4, 2, 3)
    expected = layer(x)[0]
    file = tmp_path / "layer.pt"
    torch.save(layer, file)
    fresh = tt.Recurrent(tt.cells.MinimalGatedUnit(), 3, 5, 2, bidirectional=True)
    fresh.load_state_dict(layer.state_dict())
    copies = [
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
        fresh,
    ]
    for other in copies:
        assert torch.equal(other(x)[0], expected)
        with torch.no_grad():
            other.weight_hh_l0.zero_()
        assert torch.equal(layer(x)[0], expected)


def test_change_of_dtype():
    layer = randomise(tt.LSTM(3, 5))
    x = torch.randn(4, 2, 3)
    expected = layer(x)[0].detach()
    layer.double()
    assert layer(x.double())[0].dtype == torch.float64
    torch.testing.assert_close(layer(x.double())[0].float(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(layer.float()(x)[0], expected)


def test_a_device_without_kernels():
    """A layer on another kind of device, as torch imagines one where there is none."""
    layer = tt.GRU(3, 5)
    with torch._subclasses.FakeTensorMode():
        for name, parameter in list(layer.named_parameters()):
            setattr(layer, name, torch.nn.Parameter(torch.empty(parameter.shape, device="xpu")))
        with pytest.raises(NotImplementedError, match="on NVIDIA GPUs, the input is on xpu:0: use backend="):
            layer(torch.zeros(4, 2, 3, device="xpu"))
