"""PackedSequence in and out, for torch.nn's cells and any other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

import throughtime as tt

LENGTHS = [([5, 3, 3, 1], True), ([5, 3, 3, 1], False), ([3, 1, 5, 3], False), ([4], True), ([2, 2], True)]


@pytest.mark.parametrize("name, proj_size", [("RNN", 0), ("GRU", 0), ("LSTM", 0), ("LSTM", 2)])
@pytest.mark.parametrize("lengths, enforce_sorted", LENGTHS)
@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("layers, bidirectional, batch_first", [(1, False, False), (2, True, True)])
def test_as_torch(name, proj_size, lengths, enforce_sorted, with_state, layers, bidirectional, batch_first):
    """Data, batch sizes, order, states in the user's order, and all gradients, of the rows and of the states."""
    options = {"bidirectional": bidirectional, "batch_first": batch_first, "dtype": torch.float64}
    options |= {"proj_size": proj_size} if proj_size else {}
    theirs = getattr(nn, name)(3, 6, layers, **options)
    ours = getattr(tt, name)(3, 6, layers, **options)
    ours.load_state_dict(theirs.state_dict())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(max(lengths), len(lengths), 3, dtype=torch.float64, generator=generator)
    rows = layers * (1 + bidirectional), len(lengths)
    widths = [proj_size or 6, 6][: 1 + (name == "LSTM")]
    state = [torch.randn(*rows, width, dtype=torch.float64, generator=generator) for width in widths]
    found = []
    for layer in (ours, theirs):
        own_x, own = x.clone().requires_grad_(), [s.clone().requires_grad_() for s in state]
        packed = pack_padded_sequence(own_x, lengths, enforce_sorted=enforce_sorted)
        given = (tuple(own) if name == "LSTM" else own[0]) if with_state else None
        output, end = layer(packed, given)
        assert type(output) is PackedSequence
        values = [output.data, *tree_leaves(end)]
        generator.manual_seed(1)
        errors = [torch.randn(v.shape, dtype=torch.float64, generator=generator) for v in values]
        leaves = [own_x, *layer.parameters(), *(own if with_state else [])]
        found.append([*values, *torch.autograd.grad(values, leaves, errors), *output[1:]])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["mgu", "lstm-layernorm", "lstm-mogrifier"])
@pytest.mark.parametrize("words", [False, True])
def test_any_cell_as_with_lengths(name, words):
    layer = tt.Recurrent(tt.cells.catalogue[name](), 3, 4, 2, bidirectional=True, dropout=0.0, dtype=torch.float64)
    lengths = [2, 4, 1]
    x = torch.randint(3, (4, 3)) if words else torch.randn(4, 3, 3, dtype=torch.float64)
    output, end = layer(x, lengths=lengths)
    packed, packed_end = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
    padded, found = pad_packed_sequence(packed)
    assert found.tolist() == lengths
    assert all(
        torch.equal(a, b) for a, b in zip([output, *tree_leaves(end)], [padded, *tree_leaves(packed_end)], strict=True)
    )


def test_the_noise_of_a_sequence_is_that_of_the_padded_call():
    """A sequence draws the numbers of its place in the user's order, packed or not."""

    class Dropped(tt.Cell):
        def step(self, x, h):
            return tt.tanh(tt.affine("net", tt.dropout("x", x, 0.5), h))

    layer = tt.Recurrent(Dropped(), 3, 4)
    x, lengths = torch.randn(4, 3, 3), [2, 4, 1]
    torch.manual_seed(0)
    expected, _ = layer(x, lengths=lengths)
    torch.manual_seed(0)
    packed, _ = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
    assert torch.equal(pad_packed_sequence(packed)[0], expected)


def test_misuse():
    layer, theirs = tt.GRU(3, 5), nn.GRU(3, 5)
    x = torch.zeros(4, 2, 3)
    for bad in (pack_padded_sequence(x[..., None], [4, 2]), pack_padded_sequence(x.repeat(1, 1, 2), [4, 2])):
        answers = []
        for module in (layer, theirs):
            with pytest.raises(RuntimeError) as raised:
                module(bad)
            answers.append(str(raised.value))
        assert answers[0] == answers[1]
    with pytest.raises(RuntimeError, match=r"Expected hidden size \(1, 2, 5\), got \[1, 3, 5\]"):
        layer(pack_sequence([x[:, 0], x[:2, 1]]), torch.zeros(1, 3, 5))
    with pytest.raises(ValueError, match="RNN input dtype"):
        layer(pack_padded_sequence(x.double(), [4, 2]))
