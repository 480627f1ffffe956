"""Sessions: one step at a time gives the numbers of the whole sequence."""

import gc
import time
import weakref

import pytest
import torch

import throughtime as tt

CATALOGUE = list(tt.cells.catalogue)
T, WORDS, H = 6, 5, 9


def layer_of(name, layers=1, **options):
    torch.manual_seed(1)
    return tt.Recurrent(tt.cells.catalogue[name](), WORDS, H, layers, **options).eval()


def layers_for(name):
    return 1 if "mogrifier" in name else 2


def run(session, x):
    return torch.stack([session.step(each).clone() for each in x])


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("batch", [1, 7])
def test_steps_are_the_sequence(name, batch):
    layer = layer_of(name, layers_for(name), dtype=torch.float64)
    x = torch.randn(2 * T, batch, WORDS, dtype=torch.float64)
    with torch.no_grad():
        first, state = layer(x[:T])
        second, last = layer(x[T:], state)
    session = layer.session(batch)
    torch.testing.assert_close(run(session, x), torch.cat([first, second]), rtol=0, atol=1e-12)
    for ours, theirs in zip(as_tuple(session.state), as_tuple(last), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    session.reset(state)
    torch.testing.assert_close(run(session, x[T:]), second, rtol=0, atol=1e-12)
    session.reset()
    torch.testing.assert_close(run(session, x[:T]), first, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("batch", [1, 3])
def test_word_numbers(name, batch):
    layer = layer_of(name, layers_for(name))
    words = torch.randint(WORDS, (T, batch))
    with torch.no_grad():
        expected, _ = layer(words)
    torch.testing.assert_close(run(layer.session(batch), words), expected, rtol=0, atol=1e-6)
    if batch == 1:
        session = layer.session()
        numbers = torch.stack([session.step(int(w)).clone() for w in words])
        torch.testing.assert_close(numbers, expected, rtol=0, atol=1e-6)


def test_the_drop_ins_learned_states_and_narrow_dtypes():
    rival = torch.nn.LSTM(WORDS, H, 2)
    layer = tt.LSTM(WORDS, H, 2)
    layer.load_state_dict(rival.state_dict())
    x = torch.randn(T, 3, WORDS)
    with torch.no_grad():
        expected, _ = rival(x)
    torch.testing.assert_close(run(layer.session(3), x), expected, rtol=1e-5, atol=1e-6)
    learned = tt.Recurrent(tt.cells.GRU(), WORDS, H, learn_initial_state=True)
    torch.nn.init.normal_(learned.initial_h)
    with torch.no_grad():
        expected, _ = learned(x)
    torch.testing.assert_close(run(learned.session(3), x), expected, rtol=0, atol=1e-6)
    narrow = tt.GRU(WORDS, H).bfloat16()
    with torch.no_grad():
        expected, state = narrow(x.bfloat16())
    session = narrow.session(3)
    torch.testing.assert_close(run(session, x.bfloat16()).bfloat16(), expected, rtol=0, atol=2e-2)
    assert session.state.dtype == state.dtype == torch.bfloat16


@pytest.mark.parametrize("cell, hidden, batch", [("RNN", 600, 1), ("GRU", 400, 2), ("LSTM", 300, 9), ("LSTM", 20, 9)])
@pytest.mark.parametrize("layers", [1, 2])
def test_threads_leave_the_bits_alone(cell, hidden, batch, layers, monkeypatch):
    """Teams that share a step, slices of the batch, and steps that one thread makes alone between them."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    layer = getattr(tt, cell)(hidden, hidden, layers)
    x = torch.randn(40, batch, hidden)
    with torch.no_grad():
        expected, last = layer(x)
    session = layer.session(batch)
    assert torch.equal(session.run(x), expected)
    assert all(torch.equal(ours, its) for ours, its in zip(as_tuple(session.state), as_tuple(last), strict=True))
    session.reset()
    assert torch.equal(run(session, x), expected)
    session.reset()
    pieces = [session.step(x[0])[None].clone(), session.run(x[1:8])]
    time.sleep(0.002)  # the pool's threads fall asleep, a step is not worth waking them
    pieces += [session.step(x[8])[None].clone(), session.run(x[9:9]), session.step(x[9])[None].clone()]
    middle = session.state
    pieces.append(session.run(x[10:]))
    assert torch.equal(torch.cat(pieces), expected)
    session.reset(middle)
    assert torch.equal(session.run(x[10:]), expected[10:])


@pytest.mark.parametrize("name", CATALOGUE)
def test_runs_are_the_sequence(name):
    layer = layer_of(name, layers_for(name), dtype=torch.float64)
    x = torch.randn(T, 3, WORDS, dtype=torch.float64)
    session, words = layer.session(3), torch.randint(WORDS, (T, 3))
    with torch.no_grad():
        torch.testing.assert_close(session.run(x.transpose(0, 1).contiguous().transpose(0, 1)), layer(x)[0])
        session.reset()
        torch.testing.assert_close(session.run(words), layer(words)[0])
        batch_first = layer_of(name, layers_for(name), dtype=torch.float64, batch_first=True)
        of_rows = batch_first.session(3)
        torch.testing.assert_close(of_rows.run(x.transpose(0, 1)), layer(x)[0].transpose(0, 1))
        of_rows.reset()
        torch.testing.assert_close(of_rows.run(words.t()), layer(words)[0].transpose(0, 1))


def test_both_ways_take_new_weights():
    layer, x = layer_of("lstm", 2), torch.randn(T, 2, WORDS)
    session = layer.session(2)
    session.run(x)
    session.step(x[0])
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.5)
        expected, _ = layer(x)
    session.refresh()
    session.reset()
    assert torch.equal(session.run(x), expected)
    session.reset()
    assert torch.equal(run(session, x), expected)


def test_weights_are_taken_when_it_is_opened_and_by_refresh():
    layer, x = layer_of("gru"), torch.randn(1, WORDS)
    session = layer.session()
    before = session.step(x).clone()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.5)
        expected, _ = layer(x[None])
    session.reset()
    assert torch.equal(session.step(x), before)
    session.refresh()
    session.reset()
    torch.testing.assert_close(session.step(x), expected[0], rtol=0, atol=1e-6)
    words = layer.session()
    words.step(2)
    with torch.no_grad():
        layer.weight_ih_l0.mul_(2)
        expected, _ = layer(torch.tensor([[2]]))
    words.refresh()
    words.reset()
    torch.testing.assert_close(words.step(2), expected[0], rtol=0, atol=1e-6)


def test_a_step_makes_no_tensor_and_a_session_ends_with_its_last_name():
    session = layer_of("lstm").session(2)
    output = session.step(torch.randn(2, WORDS))
    assert session.step(torch.randn(2, WORDS)) is output is session.output
    session.step(torch.randn(2, WORDS, dtype=torch.float64, requires_grad=True))  # copied, without its graph
    assert not output.requires_grad and not session._x.requires_grad
    ended = weakref.ref(session)
    del session
    gc.collect()
    assert ended() is None


@pytest.mark.parametrize(
    "make, error, text",
    [
        (lambda: tt.GRU(WORDS, H, bidirectional=True).session(), NotImplementedError, "no place for both directions"),
        (
            lambda: tt.GRU(WORDS, H, backend="reference").session(),
            NotImplementedError,
            'no place for backend="reference"',
        ),
        (lambda: tt.GRU(WORDS, H, heads=3).session(), NotImplementedError, "no place for heads"),
        (
            lambda: tt.GRU(WORDS, H).session().step(torch.zeros(1, WORDS, device="meta")),
            RuntimeError,
            "works on the CPU, the input is on meta: move it",
        ),
        (lambda: tt.GRU(WORDS, H).session(0), ValueError, "batch should be a number of sequences above 0, got 0"),
        (
            lambda: tt.GRU(WORDS, H).session().step(torch.zeros(2, WORDS)),
            ValueError,
            r"expects x as \(1, 5\), got \(2, 5\)",
        ),
        (
            lambda: tt.GRU(WORDS, H).session(2).run(torch.zeros(7, 3, WORDS)),
            ValueError,
            r"expects x as \(T, 2, 5\), got \(7, 3, 5\)",
        ),
        (
            lambda: tt.GRU(WORDS, H, batch_first=True).session(2).run(torch.zeros(7, dtype=torch.int64)),
            ValueError,
            r"expects word numbers as \(2, T\), got \(7,\)",
        ),
        (lambda: tt.GRU(WORDS, H).session().run([1]), TypeError, "run expects a tensor, got list"),
        (
            lambda: tt.GRU(WORDS, H).session().run(torch.zeros(7, 1, WORDS, device="meta")),
            RuntimeError,
            "works on the CPU, the input is on meta: move it",
        ),
        (
            lambda: tt.GRU(WORDS, H).session().run(torch.tensor([[5]])),
            IndexError,
            r"must lie in \[0, 5\), the vocabulary, got 5 to 5",
        ),
        (lambda: tt.GRU(WORDS, H).session().step("a"), TypeError, "expects a tensor or a word number, got str"),
        (lambda: tt.GRU(WORDS, H).session().step(5), IndexError, r"must lie in \[0, 5\), the vocabulary, got 5 to 5"),
        (lambda: tt.GRU(WORDS, H).session(2).step(1), ValueError, "a step of 2 sequences expects as many word numbers"),
        (
            lambda: tt.GRU(WORDS, H).session(2).step(torch.tensor([1])),
            ValueError,
            r"expects word numbers as \(2,\), got \(1,\)",
        ),
    ],
)
def test_mistakes(make, error, text):
    with pytest.raises(error, match=text):
        make()
