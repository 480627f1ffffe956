"""The short way of a call gives the same bits as the long way, and is taken exactly where it may be."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import throughtime as tt
from gradient_check import randomise
from throughtime.nn import recurrent
from throughtime.nn.short import short_call

T, B, INPUTS, H = 5, 3, 4, 6
LAYERS = {
    "rnn": lambda **o: tt.RNN(INPUTS, H, **o),
    "gru": lambda **o: tt.GRU(INPUTS, H, **o),
    "lstm": lambda **o: tt.LSTM(INPUTS, H, **o),
    "projected": lambda **o: tt.LSTM(INPUTS, H, proj_size=2, **o),
    "peephole": lambda **o: tt.Recurrent(tt.cells.catalogue["lstm-peephole"](), INPUTS, H, **o),
    "layer-normalised": lambda **o: tt.Recurrent(tt.cells.catalogue["mgu"](), INPUTS, H, layer_norm=True, **o),
    "heads": lambda **o: tt.Recurrent(tt.cells.GRU(), INPUTS, H, heads=2, **o),
    "reverse": lambda **o: tt.Recurrent(tt.cells.catalogue["mgu"](), INPUTS, H, reverse=True, **o),
}
STACKS = [{}, {"batch_first": True}, {"num_layers": 3}, {"bidirectional": True, "num_layers": 2}, {"bias": False}]


def states_of(layer, kind):
    sizes, count = layer.state_sizes, layer.num_layers * layer.directions
    made = [torch.randn(count, B, size, dtype=kind, requires_grad=True) for size in sizes]
    return tuple(made) if len(made) > 1 else made[0]


def flat(results):
    output, states = results
    return [output, *(states if isinstance(states, tuple) else (states,))]


def long_way(layer, *given, **more):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrent, "short_call", lambda *_: None)
        return layer(*given, **more)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", STACKS, ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", ["no state", "state", "lengths"])
def test_the_same_bits(name, options, kind, given):
    if name == "reverse" and "bidirectional" in options:
        pytest.skip("a layer has one or the other")
    layer = LAYERS[name](dtype=kind, **options)
    randomise(layer, 1)
    x = torch.randn(*((B, T) if layer.batch_first else (T, B)), INPUTS, dtype=kind, requires_grad=True)
    state = None if given == "no state" else states_of(layer, kind)
    lengths = torch.tensor([T, *torch.randint(T + 1, (B - 1,)).tolist()]) if given == "lengths" else None
    assert short_call(layer, x, state, lengths) is not None
    wanted = [x, *layer.parameters(), *(flat((x, state))[1:] if state is not None else ())]
    short, long = flat(layer(x, state, lengths=lengths)), flat(long_way(layer, x, state, lengths=lengths))
    errors = [torch.randn_like(v) for v in short]
    for a, b in zip(short, long, strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride() and a.requires_grad
    for a, b in zip(*(torch.autograd.grad(r, wanted, errors) for r in (short, long)), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        for a, b in zip(flat(layer(x, state, lengths=lengths)), long, strict=True):
            assert torch.equal(a, b) and not a.requires_grad


@pytest.mark.parametrize("options", STACKS, ids=str)
def test_word_numbers(options):
    layer = tt.GRU(INPUTS, H, **options)
    words = torch.randint(INPUTS, (B, T) if layer.batch_first else (T, B))
    assert short_call(layer, words, None) is not None
    short, long = layer(words)[0], long_way(layer, words)[0]
    assert torch.equal(short, long)
    errors = torch.randn_like(short)
    for a, b in zip(*(torch.autograd.grad(o, list(layer.parameters()), errors) for o in (short, long)), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(IndexError, match=f"got 0 to {INPUTS}"):
        layer(torch.arange(INPUTS + 1)[:, None].expand(-1, 2))
    if not layer.batch_first:
        assert short_call(layer, words[:, 0], None) is None


def test_what_changes_between_calls_is_seen():
    torch.manual_seed(0)
    layer = tt.LSTM(INPUTS, H, 2)
    x = torch.randn(T, B, INPUTS)

    def same():
        return all(torch.equal(a, b) for a, b in zip(flat(layer(x)), flat(long_way(layer, x)), strict=True))

    first = layer(x)[0]
    assert same()
    with torch.no_grad():
        layer.weight_hh_l0 *= 2
    assert same() and not torch.equal(layer(x)[0], first)
    layer.weight_ih_l1 = torch.nn.Parameter(torch.randn(H, 4 * H).t())  # lies otherwise
    assert same()
    layer.bias_hh_l0.requires_grad_(False)
    assert same()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x)[0], layer(x)[0])
        twin.double()
        assert twin(x.double())[0].dtype == torch.float64
    layer.weight_ih_l0.data = torch.randn(4 * H, INPUTS)
    assert same()


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: setattr(layer, "recompute", 2),
        lambda layer: setattr(layer, "backend", "reference"),
        lambda layer: setattr(layer, "weight_drop", 0.5),
        lambda layer: setattr(layer, "dropout", 0.5),
        lambda layer: layer.double(),
        lambda layer: layer.bfloat16(),
        lambda layer: torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0"),
    ],
)
def test_what_only_the_long_way_knows(change):
    layer = tt.GRU(INPUTS, H, 2)
    x = torch.randn(T, B, INPUTS)
    assert short_call(layer, x, None) is not None
    change(layer)
    assert short_call(layer, x, None) is None


def test_other_inputs_go_the_long_way():
    layer = tt.GRU(INPUTS, H)
    x = torch.randn(T, B, INPUTS)
    state = torch.zeros(1, B, H)

    class Own(torch.Tensor):
        pass

    for other in (x[0], x[:0], x[..., :2], x.double(), x.to("meta"), torch.zeros(T, B, dtype=torch.int32), [x],
                  x.as_subclass(Own)):  # fmt: skip
        assert short_call(layer, other, None) is None
    for other in (state[0], state[:, :1], state.double(), (state, state), [state], "zeros"):
        assert short_call(layer, x, other) is None
    with torch.autocast("cpu"):
        assert short_call(layer, x, None) is None
    assert torch.func.vmap(lambda v: torch.tensor(short_call(layer, v, None) is None))(x[:, :, None]).all()
    gru = tt.cells.GRU()
    noisy = tt.Recurrent(gru, INPUTS, H, zoneout=0.1)
    learned = tt.Recurrent(gru, INPUTS, H, learn_initial_state=True)
    residual = tt.Recurrent(gru, INPUTS, INPUTS, 2, connections="residual")
    assert [short_call(layer, x, None) for layer in (noisy, learned, residual)] == [None] * 3
    assert short_call(noisy.eval(), x, None) is not None
