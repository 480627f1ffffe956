"""The oracles against torch.nn, and against each other where two cells must agree."""

from __future__ import annotations

import pytest
import torch

import oracles

TORCH = {
    "rnn": (torch.nn.RNN, {}, oracles.STEPS["rnn"]),
    "rnn-relu": (torch.nn.RNN, {"nonlinearity": "relu"}, oracles.elman("relu")),
    "gru": (torch.nn.GRU, {}, oracles.STEPS["gru"]),
    "lstm": (torch.nn.LSTM, {}, oracles.STEPS["lstm"]),
}


def distance(a, b):
    return (a - b).norm() / b.norm()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("name", TORCH)
def test_against_torch(name, num_layers, bidirectional, bias):
    """Outputs, final states and every gradient, with sequences of different lengths."""
    kind, options, step = TORCH[name]
    torch.manual_seed(1)
    layer = kind(3, 5, num_layers, bias=bias, bidirectional=bidirectional, dtype=torch.float64, **options)
    lengths = [4, 1, 6]
    x = torch.randn(6, 3, 3, dtype=torch.float64, requires_grad=True)
    count = 2 if name == "lstm" else 1
    state = [
        torch.randn(num_layers * (1 + bidirectional), 3, 5, dtype=torch.float64, requires_grad=True)
        for _ in range(count)
    ]
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    output, final = layer(packed, tuple(state) if count == 2 else state[0])
    expected = [torch.nn.utils.rnn.pad_packed_sequence(output)[0], *(final if count == 2 else [final])]

    output, final = oracles.run(step, dict(layer.named_parameters()), x, state, lengths, bidirectional, num_layers)
    found = [output, *final]
    cotangents = [torch.randn_like(v) for v in expected]
    leaves = [x, *state, *layer.parameters()]
    expected += torch.autograd.grad(expected, leaves, cotangents)
    found += torch.autograd.grad(found, leaves, cotangents)
    for a, b in zip(found, expected, strict=True):
        assert distance(a, b) <= 1e-12


@pytest.mark.parametrize("name", oracles.ACTIVATIONS)
def test_activations_are_torch_s(name):
    own = {"identity": lambda v: v, "hard_sigmoid": torch.nn.functional.hardsigmoid}
    own |= {"hard_tanh": torch.nn.functional.hardtanh, "sin": torch.sin}
    theirs = own[name] if name in own else getattr(torch.nn.functional, name)
    v = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    assert distance(oracles.ACTIVATIONS[name](v), theirs(v)) <= 1e-15


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_peepholes_of_zero_are_no_peepholes():
    p = {
        "weight_ih_l0": random(20, 3),
        "weight_hh_l0": random(20, 5),
        "bias_ih_l0": random(20),
        "bias_hh_l0": random(20),
    }
    x, state = random(4, 2, 3), [random(1, 2, 5), random(1, 2, 5)]
    peepholes = {f"p_{gate}_l0": torch.zeros(5, dtype=torch.float64) for gate in "ifo"}
    output, _ = oracles.run(oracles.lstm_peephole, p | peepholes, x, state)
    assert torch.equal(output, oracles.run(oracles.lstm, p, x, state)[0])


@pytest.mark.parametrize("rounds", [1, 2])
def test_mogrifier_of_zero_is_the_lstm(rounds):
    """2σ(0) = 1: nothing is gated."""
    p = {"weight_ih_l0": random(20, 3), "weight_hh_l0": random(20, 5), "bias_l0": random(20)}
    x, state = random(4, 2, 3), [random(1, 2, 5), random(1, 2, 5)]
    zero = {"weight_q_l0": torch.zeros(3, 5).double()}
    zero["weight_ih_l0"] = torch.cat([torch.zeros(5 * (rounds - 1), 3).double(), p["weight_ih_l0"]])
    output, _ = oracles.run(oracles.lstm_mogrifier(rounds), p | zero, x, state)
    lstm = p | {"bias_ih_l0": p["bias_l0"]}
    assert distance(output, oracles.run(oracles.lstm, lstm, x, state)[0]) <= 1e-15


def test_layer_norm_is_torch_s():
    p = {"weight_ih": random(20, 3), "weight_hh": random(20, 5), "bias": random(20)}
    p |= {f"{kind}_{name}": random(5) for kind in ("gain", "shift") for name in "ifgoc"}
    x, h, c = random(3), random(5), random(5)

    def norm(name, v):
        return torch.nn.functional.layer_norm(v, (5,), p[f"gain_{name}"], p[f"shift_{name}"], eps=1e-5)

    rows = dict(zip("ifgo", (p["weight_ih"] @ x + p["weight_hh"] @ h + p["bias"]).chunk(4), strict=True))
    i, f, o = (torch.sigmoid(norm(gate, rows[gate])) for gate in "ifo")
    expected_c = f * c + i * torch.tanh(norm("g", rows["g"]))
    found_h, found_c = oracles.lstm_layernorm(oracles.Parameters(p, ""), x, h, c)
    assert distance(found_c, expected_c) <= 1e-14
    assert distance(found_h, o * torch.tanh(norm("c", expected_c))) <= 1e-14


def test_reset_before_and_after_agree_where_the_reset_gate_is_open():
    """With r = 1 and no recurrent bias of n, both orders are the same product."""
    p = {
        "weight_ih": random(15, 3),
        "weight_hh": random(15, 5),
        "bias_ih": random(15),
        "bias_hh": torch.zeros(15).double(),
    }
    p["bias_ih"][:5] = 1000.0
    x, h = random(3), random(5)
    after, before = (
        step(oracles.Parameters(p, ""), x, h)[0] for step in (oracles.gru_reset_after, oracles.gru_reset_before)
    )
    assert distance(before, after) <= 1e-14


def test_one_hot_integers_lengths_of_zero_and_padding():
    p = {"weight_ih_l0": random(5, 3), "weight_hh_l0": random(5, 5)}
    words, state = torch.tensor([[2, 0], [1, 0]]), [random(1, 2, 5)]
    x = torch.nn.functional.one_hot(words, 3).double()
    output, [final] = oracles.run(oracles.STEPS["rnn"], p, words, state, [1, 0])
    x[1, 0] = x[:, 1] = torch.nan
    again, [final_again] = oracles.run(oracles.STEPS["rnn"], p, x, state, [1, 0])
    assert torch.equal(output, again)
    assert torch.equal(final, final_again)
    assert torch.equal(final[0, 1], state[0][0, 1])
    assert torch.equal(output[:, 1], torch.zeros(2, 5, dtype=torch.float64))
    assert torch.equal(output[0, 0], torch.tanh(p["weight_ih_l0"][:, 2] + p["weight_hh_l0"] @ state[0][0, 0]))
