"""Truncated back-propagation through time against a hand-written loop that detaches."""
# ruff: noqa: E501 (a message stays on one line, as its reader sees it)

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import oracles
import throughtime as tt

F64 = torch.float64
CELLS = {"rnn": 1, "gru": 1, "lstm": 2, "lstm-mogrifier": 2, "mgu": 1}


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def make(name, layers=1, **options):
    layer = tt.Recurrent(tt.cells.catalogue[name](), 3, 5, layers, dtype=F64, **options)
    with torch.no_grad():
        for k, p in enumerate(layer.parameters()):
            p.copy_(0.6 * draw(*p.shape, seed=k))
    return layer


def flat(state):
    return [state] if isinstance(state, torch.Tensor) else list(state)


def unflat(state):
    return state[0] if len(state) == 1 else tuple(state)


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("context", [0, 2, 3, 5])
@pytest.mark.parametrize("lengths", [None, [7, 3, 10, 0]])
def test_pieces_are_a_hand_written_loop_with_detach(name, context, lengths):
    """Outputs, states, and the gradients of every piece by itself; 10 steps in pieces of 3, the last of 1 step."""
    layer = make(name, layers=2)
    x, targets = draw(10, 4, 3, seed=1), draw(10, 4, 5, seed=2)
    start = [draw(2, 4, 5, seed=3 + k) for k in range(CELLS[name])]
    exact = {n: p.detach().clone().requires_grad_() for n, p in layer.named_parameters()}
    of_each = [10] * 4 if lengths is None else lengths

    def oracle(first, last, state):
        counts = [min(max(n - first, 0), last - first) for n in of_each]
        return oracles.run(oracles.STEPS[name], exact, x[first:last], state, counts, num_layers=2)

    pieces = tt.truncated(layer, x, 3, unflat(start), lengths=lengths, targets=targets, context=context)
    assert len(pieces) == 4
    seen = 0
    for piece in pieces:
        first, last = piece.start, piece.stop
        assert (first, last) == (seen, min(seen + 3, 10)) and piece.last == (last == 10)
        seen = last
        # The state that the error reaches back to, made without a graph from the very beginning.
        origin = max(0, first - context)
        with torch.no_grad():
            state = oracle(0, origin, start)[1] if origin else start
        output, end = oracle(origin, last, state)
        output = output[first - origin :]
        assert_equal([piece.output, *flat(piece.state)], [output, *end])
        assert torch.equal(piece.targets, targets[first:last])
        if lengths is not None:
            assert piece.mask.tolist() == [[t < n for n in lengths] for t in range(first, last)]
        wanted = torch.autograd.grad(((output - targets[first:last]) ** 2).sum() + end[0].sin().sum(), exact.values())
        error = ((piece.output - piece.targets) ** 2).sum() + flat(piece.state)[0].sin().sum()
        assert_equal(torch.autograd.grad(error, list(layer.parameters())), wanted)
    assert seen == 10
    assert_equal(flat(pieces.state), oracle(0, 10, start)[1])
    assert not any(s.requires_grad for s in flat(pieces.state))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("length, context", [(6, 0), (50, 0), (50, 7)])
def test_a_cut_longer_than_the_sequence_changes_no_bit(name, length, context):
    layer = make(name, layers=2, batch_first=True)
    x = draw(4, 6, 3).requires_grad_()
    start = [draw(2, 4, 5, seed=3 + k).requires_grad_() for k in range(CELLS[name])]
    found = []
    leaves = [x, *start, *layer.parameters()]
    (piece,) = tt.truncated(layer, x, length, unflat(start), lengths=[6, 2, 0, 5], context=context)
    for output, end in ((piece.output, piece.state), layer(x, unflat(start), lengths=[6, 2, 0, 5])):
        error = output.sin().sum() + sum(e.cos().sum() for e in flat(end))
        found.append([output, *flat(end), *torch.autograd.grad(error, leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_error_enters_the_given_state_through_the_first_piece_only():
    """One backward pass per piece, as in training: a graph used twice would raise."""
    layer = make("lstm")
    raw = [draw(1, 2, 5, seed=k).requires_grad_() for k in range(2)]
    for context in (0, 4):
        gradients = []
        for piece in tt.truncated(layer, draw(9, 2, 3), 2, tuple(r * 2 for r in raw), context=context):
            raw[0].grad = raw[1].grad = None
            piece.output.sum().backward()
            gradients.append([r.grad for r in raw])
        assert all(g.any() for g in gradients[0])
        assert gradients[1:] == [[None, None]] * 4


def test_an_optimizer_may_step_between_pieces():
    """Every piece is run with the weights of its time."""
    layer, x, y = make("gru"), draw(7, 2, 3), draw(7, 2, 5, seed=9)
    by_hand = make("gru")
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (layer, by_hand)]
    for piece in tt.truncated(layer, x, 3, targets=y):
        optimizers[0].zero_grad()
        ((piece.output - piece.targets) ** 2).sum().backward()
        optimizers[0].step()
    state = torch.zeros(1, 2, 5, dtype=F64)
    for first in (0, 3, 6):
        output, state = by_hand(x[first : first + 3], state.detach())
        optimizers[1].zero_grad()
        ((output - y[first : first + 3]) ** 2).sum().backward()
        optimizers[1].step()
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), by_hand.parameters(), strict=True))


def test_streams_go_on_only_when_told_to():
    layer, x = make("lstm"), draw(8, 2, 3)
    whole = layer(x)[0]
    first = tt.truncated(layer, x[:5], 2)
    outputs = [p.output for p in first]
    outputs += [p.output for p in tt.truncated(layer, x[5:], 2, first.state)]
    assert_equal([torch.cat(outputs)], [whole])
    again = [p.output for p in first]  # starts from the beginning, not from where it ended
    assert_equal([torch.cat(again)], [whole[:5]])
    assert_equal([torch.cat([p.output for p in tt.truncated(layer, x[5:], 2)])], [layer(x[5:])[0]])


def test_a_learned_initial_state_is_learned_by_the_first_piece():
    layer = make("gru", learn_initial_state=True)
    found = []
    for piece in tt.truncated(layer, draw(5, 2, 3), 2):
        layer.zero_grad()
        piece.output.sum().backward()
        found.append(layer.initial_h.grad is not None and bool(layer.initial_h.grad.any()))
    assert found == [True, False, False]


def test_padding_after_every_sequence_is_not_run():
    layer, x = make("gru"), draw(10, 2, 3)
    x[4:] = torch.nan
    pieces = list(tt.truncated(layer, x, 2, lengths=[4, 1]))
    assert [(p.start, p.stop, p.last) for p in pieces] == [(0, 2, False), (2, 4, True)]
    (only,) = tt.truncated(layer, x, 2, lengths=[0, 0])
    assert not only.output.any() and not only.mask.any()


def test_layouts_and_targets():
    """[B, T] words, [T, I] alone, targets in tuples and dicts."""
    layer = make("gru", batch_first=True)
    words = torch.tensor([[0, 1, 2, 1, 0], [2, 2, 1, 0, 1]])
    given = {"next": words.roll(-1, 1), "both": (words * 2, draw(2, 5, 7))}
    pieces = list(tt.truncated(layer, words, 2, lengths=[5, 3], targets=given))
    assert [p.targets["next"].tolist() for p in pieces] == [given["next"][:, a : a + 2].tolist() for a in (0, 2, 4)]
    assert [p.targets["both"][1].shape[1] for p in pieces] == [2, 2, 1]
    assert [p.mask.tolist() for p in pieces] == [[[True, True]] * 2, [[True, True], [True, False]], [[True], [False]]]
    assert_equal([torch.cat([p.output for p in pieces], 1)], [layer(words, lengths=[5, 3])[0]])
    alone = list(tt.truncated(layer, draw(5, 3), 2, targets=torch.arange(5)))
    assert_equal([torch.cat([p.output for p in alone])], [layer(draw(5, 3))[0]])
    assert [p.targets.tolist() for p in alone] == [[0, 1], [2, 3], [4]]


class Model(nn.Module):
    """A language model as people write it: embedding, torch's own layer, a head; (output, state)."""

    def __init__(self, batch_first=False):
        super().__init__()
        self.embedding = nn.Embedding(7, 3, dtype=F64)
        self.rnn = nn.LSTM(3, 5, 2, batch_first=batch_first, dtype=F64)
        self.head = nn.Linear(5, 7, dtype=F64)

    def forward(self, words, state=None):
        output, state = self.rnn(self.embedding(words), state)
        return self.head(output), state


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_whole_model(batch_first):
    model = Model(batch_first)
    words = torch.randint(7, (6, 2))
    words = words.t() if batch_first else words
    found = torch.cat([p.output for p in tt.truncated(model, words, 4)], int(batch_first))
    assert_equal([found], [model(words)[0]])


class Reset(nn.Module):
    """Begins anew wherever `reset` is 1."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 5, dtype=F64)

    def forward(self, x, state=None, lengths=None, reset=None):
        outputs, state = [], torch.zeros(1, x.shape[1], 5, dtype=F64) if state is None else state
        for t in range(len(x)):
            output, state = self.rnn(x[t : t + 1], state * (1 - reset[t]).unsqueeze(1))
            outputs.append(output)
        return torch.cat(outputs), state


@pytest.mark.parametrize("context", [0, 1, 4])
def test_signals_are_cut_with_the_input(context):
    module, x = Reset(), draw(7, 2, 3)
    reset = torch.tensor([[0, 0], [0, 1], [1, 0], [0, 0], [0, 1], [0, 0], [1, 0]], dtype=F64)
    pieces = tt.truncated(module, x, 2, context=context, reset=reset)
    assert_equal([torch.cat([p.output for p in pieces])], [module(x, reset=reset)[0]])


class Bare(nn.Module):
    """No layer in it tells where the batch is."""

    def forward(self, x, state=None):
        return x, {"seen": x.sum() if state is None else state["seen"] + x.sum()}


def test_a_module_without_recurrent_layers_says_its_layout():
    x = draw(2, 6, 3)
    pieces = tt.truncated(Bare(), x, 4, batch_first=True)
    assert [tuple(p.output.shape) for p in pieces] == [(2, 4, 3), (2, 2, 3)]
    torch.testing.assert_close(pieces.state["seen"], x.sum())


def test_single_steps_do_not_tell_the_layout():
    class Loop(Bare):
        def __init__(self):
            super().__init__()
            self.cell = tt.GRUCell(3, 5)

    with pytest.raises(ValueError, match="for Loop holds no recurrent layer of this package"):
        tt.truncated(Loop(), X, 2)
    assert len(tt.truncated(Loop(), X, 2, batch_first=False)) == 3


class Counting(tt.Cell):
    def step(self, x, h):
        return tt.tanh(tt.affine("net", x, h)) + tt.time()


class Lonely(nn.Module):
    def forward(self, x, state=None):
        return x


X = torch.zeros(6, 2, 3, dtype=F64)


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda: tt.truncated(make("gru", bidirectional=True), X, 2), ValueError, "a Recurrent that reads the sequence backwards cannot be truncated, for it starts at the sequence's end: use bidirectional=False, or run the whole sequence at once"),
        (lambda: tt.truncated(nn.GRU(3, 5, bidirectional=True), X, 2), ValueError, "a GRU that reads the sequence backwards cannot be truncated"),
        (lambda: tt.truncated(tt.Recurrent(Counting(), 3, 5), X, 2), ValueError, "Counting counts the time steps, and each piece would count from 0 again: run the whole sequence at once (recompute= saves memory)"),
        (lambda: tt.truncated(Bare(), X, 2), ValueError, "which axis of the input is time cannot be seen, for Bare holds no recurrent layer of this package or torch.nn: say batch_first=True or batch_first=False"),
        (lambda: tt.truncated(nn.Sequential(nn.GRU(3, 5), nn.GRU(3, 5, batch_first=True)), X, 2), ValueError, "which axis of the input is time cannot be seen, for Sequential holds recurrent layers of both kinds: say batch_first=True or batch_first=False"),
        (lambda: tt.truncated(make("gru"), X, 0), ValueError, "length must be a whole number of time steps, 1 or more, got 0"),
        (lambda: tt.truncated(make("gru"), X, 2.0), ValueError, "length must be a whole number of time steps, 1 or more, got 2.0"),
        (lambda: tt.truncated(make("gru"), X, 2, context=-1), ValueError, "context must be a whole number of time steps, 0 or more, got -1"),
        (lambda: tt.truncated(make("gru"), nn.utils.rnn.pack_sequence([X[:, 0]]), 2), TypeError, "truncated cannot cut a PackedSequence: give the padded tensor and lengths="),
        (lambda: tt.truncated(make("gru"), [1, 2], 2), TypeError, "truncated expects a tensor as input, got list"),
        (lambda: tt.truncated(make("gru"), X[0, 0], 2), ValueError, "input must be [T, B, I] or [T, I] (word numbers [T, B] or [T]), got the shape (3,)"),
        (lambda: tt.truncated(make("gru"), X, 2, lengths=[7, 1]), ValueError, "lengths must lie in [0, 6], the time steps given, got 1 to 7"),
        (lambda: tt.truncated(make("gru"), X, 2, lengths=[1]), ValueError, "lengths must be one whole number for each of the 2 sequences, got the shape (1,) of torch.int64"),
        (lambda: tt.truncated(make("gru"), X, 2, targets=torch.zeros(2, 6)), ValueError, "targets must have the time and batch axes of the input, (6, 2), got the shape (2, 6)"),
        (lambda: tt.truncated(make("gru", batch_first=True), X, 2, targets={"y": torch.zeros(6, 3)}), ValueError, "targets must have the batch and time axes of the input, (6, 2), got the shape (6, 3)"),
        (lambda: tt.truncated(make("gru"), X, 2, reset=torch.zeros(2, 6)), ValueError, "reset must have the time and batch axes of the input, (6, 2), got the shape (2, 6)"),
        (lambda: tt.truncated(make("gru"), X, 2, targets=3), TypeError, "targets must be a tensor, or a tuple or dict of tensors, got int"),
        (lambda: tt.truncated(make("gru"), X, 2, state="zero"), TypeError, "a state must be a tensor, or a tuple, list or dict of tensors, got str"),
        (lambda: list(tt.truncated(Lonely(), X, 2, batch_first=False)), TypeError, "Lonely returned Tensor, but a module whose sequences are cut must return its output and its state: (output, state)"),
        (lambda: list(tt.truncated(make("gru"), X[:0], 2)), RuntimeError, "Expected sequence length to be larger than 0 in RNN"),
    ],
)  # fmt: skip
def test_refusals(call, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        call()
