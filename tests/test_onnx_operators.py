"""`tt.from_onnx` against the text of the ONNX operators, written down in NumPy and float64.

https://onnx.ai/onnx/operators/onnx__RNN.html, onnx__GRU.html and onnx__LSTM.html, operator set 22.
"""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import torch

import throughtime as tt


def activation(name, alpha, beta, clip):
    """The function lists of the operators' texts; clip bounds "the input of activations"."""
    table = {
        "Relu": lambda x: np.maximum(0, x),
        "Tanh": np.tanh,
        "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "Affine": lambda x: alpha * x + beta,
        "LeakyRelu": lambda x: np.where(x >= 0, x, alpha * x),
        "ThresholdedRelu": lambda x: np.where(x >= alpha, x, 0),
        "ScaledTanh": lambda x: alpha * np.tanh(beta * x),
        "HardSigmoid": lambda x: np.minimum(np.maximum(alpha * x + beta, 0), 1),
        "Elu": lambda x: np.where(x >= 0, x, alpha * (np.exp(x) - 1)),
        "Softsign": lambda x: x / (1 + np.abs(x)),
        "Softplus": lambda x: np.log(1 + np.exp(x)),
    }
    return lambda x: table[name](x if clip is None else np.clip(x, -clip, clip))


def step_of(operator, W, R, Wb, Rb, P, f, linear_before_reset, input_forget):
    """One step of one sequence: x, H (and C) to the new ones."""
    if operator == "RNN":
        return lambda x, H: (f[0](W @ x + R @ H + Wb + Rb),)
    if operator == "GRU":
        (Wz, Wr, Wh), (Rz, Rr, Rh), (Wbz, Wbr, Wbh), (Rbz, Rbr, Rbh) = (np.split(v, 3) for v in (W, R, Wb, Rb))

        def gru(x, H):
            z = f[0](Wz @ x + Rz @ H + Wbz + Rbz)
            r = f[0](Wr @ x + Rr @ H + Wbr + Rbr)
            if linear_before_reset:
                h = f[1](Wh @ x + r * (Rh @ H + Rbh) + Wbh)
            else:
                h = f[1](Wh @ x + Rh @ (r * H) + Rbh + Wbh)
            return ((1 - z) * h + z * H,)

        return gru
    Wi, Wo, Wf, Wc = np.split(W, 4)
    Ri, Ro, Rf, Rc = np.split(R, 4)
    Wbi, Wbo, Wbf, Wbc = np.split(Wb, 4)
    Rbi, Rbo, Rbf, Rbc = np.split(Rb, 4)
    Pi, Po, Pf = np.split(P, 3)

    def lstm(x, H, C):
        i = f[0](Wi @ x + Ri @ H + Pi * C + Wbi + Rbi)
        forget = 1 - i if input_forget else f[0](Wf @ x + Rf @ H + Pf * C + Wbf + Rbf)
        c = f[1](Wc @ x + Rc @ H + Wbc + Rbc)
        C = forget * C + i * c
        o = f[0](Wo @ x + Ro @ H + Po * C + Wbo + Rbo)
        return o * f[2](C), C

    return lstm


def operator(name, X, W, R, B, lengths, states, P, f, reverse, linear_before_reset, input_forget):
    """Y [T, D, B, H] and the last states [D, B, H], for layout 0."""
    T, batch, _ = X.shape
    D, hidden = R.shape[0], R.shape[2]
    Y = np.zeros((T, D, batch, hidden))
    ends = [np.zeros((D, batch, hidden)) for _ in states]
    for d in range(D):
        Wb, Rb = np.split(B[d], 2)
        step = step_of(name, W[d], R[d], Wb, Rb, P[d], f[d], linear_before_reset, input_forget)
        for b in range(batch):
            now = tuple(s[d, b] for s in states)
            times = range(lengths[b])
            for t in reversed(times) if reverse[d] else times:
                now = step(X[t, b], *now)
                Y[t, d, b] = now[0]
            for end, value in zip(ends, now, strict=True):
                end[d, b] = value
    return Y, *ends


REVERSE = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FUNCTIONS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
T, BATCH, I, H = 5, 3, 3, 4  # noqa: E741
SOME = [4, 0, 5]


def compare(
    name,
    direction="forward",
    *,
    lengths=None,
    states=True,
    bias=True,
    peepholes=False,
    functions=None,
    clip=None,
    layout=0,
    linear_before_reset=0,
    input_forget=0,
    **numbers,
):
    """Random weights, input and states through both. `functions`: (name, alpha, beta) of each, in order."""
    generator = np.random.default_rng(0)
    draw = lambda *shape: generator.standard_normal(shape)  # noqa: E731
    D, G = len(REVERSE[direction]), GATES[name]
    X, W, R = draw(T, BATCH, I), draw(D, G * H, I), draw(D, G * H, H)
    B = draw(D, 2 * G * H) if bias else None
    P = draw(D, 3 * H) if peepholes else None
    given = [draw(D, BATCH, H) if states else None for _ in range(2 if name == "LSTM" else 1)]
    chosen = functions or [(n, 0, 0) for n in FUNCTIONS[name]] * D
    each = len(FUNCTIONS[name])
    f = [[activation(*chosen[d * each + k], clip) for k in range(each)] for d in range(D)]
    expected = operator(
        name,
        X,
        W,
        R,
        np.zeros((D, 2 * G * H)) if B is None else B,
        lengths or [T] * BATCH,
        [np.zeros((D, BATCH, H)) if s is None else s for s in given],
        np.zeros((D, 3 * H)) if P is None else P,
        f,
        REVERSE[direction],
        linear_before_reset,
        input_forget,
    )
    options = {"linear_before_reset": linear_before_reset} if name == "GRU" else {}
    options |= {"input_forget": input_forget} if name == "LSTM" else {}
    if functions:
        options["activations"] = [n for n, _, _ in functions]
    module = tt.from_onnx(name, W, R, B, P, direction=direction, clip=clip, layout=layout, **options, **numbers)
    x = torch.from_numpy(X)
    own = [s if s is None else torch.from_numpy(s) for s in given]
    if layout:
        x, own = x.transpose(0, 1), [s if s is None else s.transpose(0, 1) for s in own]
    if lengths is not None:  # what lies behind the end of a sequence is never read
        for b, length in enumerate(lengths):
            x[(slice(length, None), b) if not layout else (b, slice(length, None))] = torch.nan
    with torch.no_grad():
        found = module(x, None if lengths is None else torch.tensor(lengths, dtype=torch.int32), *own)
    if layout:
        expected = [expected[0].transpose(2, 0, 1, 3), *(e.transpose(1, 0, 2) for e in expected[1:])]
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.detach(), b, rtol=1e-11, atol=1e-12)
    return module


VARIANTS = [
    ("RNN", {}),
    ("GRU", {"linear_before_reset": 0}),
    ("GRU", {"linear_before_reset": 1}),
    ("LSTM", {}),
    ("LSTM", {"peepholes": True}),
    ("LSTM", {"input_forget": 1}),
    ("LSTM", {"input_forget": 1, "peepholes": True}),
]


@pytest.mark.parametrize("direction", REVERSE)
@pytest.mark.parametrize("lengths", [None, SOME])
@pytest.mark.parametrize("name, options", VARIANTS)
def test_directions_lengths_and_initial_states(name, options, direction, lengths):
    compare(name, direction, lengths=lengths, **options)


@pytest.mark.parametrize("name, options", VARIANTS)
def test_batch_first_layout(name, options):
    compare(name, "bidirectional", lengths=SOME, layout=1, **options)


@pytest.mark.parametrize("name, options", VARIANTS)
def test_without_bias_and_states(name, options):
    compare(name, "bidirectional", bias=False, states=False, **options)


@pytest.mark.parametrize("name, options", VARIANTS)
def test_clip_bounds_the_input_of_every_activation(name, options):
    compare(name, "bidirectional", lengths=SOME, clip=0.4, **options)


KINDS = [
    ("Relu", 0, 0),
    ("Affine", 0.7, -0.2),
    ("LeakyRelu", 0.3, 0),
    ("ThresholdedRelu", 0.4, 0),
    ("ScaledTanh", 1.3, 0.6),
    ("HardSigmoid", 0.3, 0.4),
    ("Elu", 0.8, 0),
    ("Softsign", 0, 0),
    ("Softplus", 0, 0),
    ("Sigmoid", 0, 0),
    ("Tanh", 0, 0),
]
USES_ALPHA = {"Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"}
USES_BETA = {"Affine", "ScaledTanh", "HardSigmoid"}


def consumed(functions):
    """The attributes' lists: only functions that use a number have one in them."""
    alphas = [a for n, a, _ in functions if n in USES_ALPHA]
    return {"activation_alpha": alphas, "activation_beta": [b for n, _, b in functions if n in USES_BETA]}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0])
def test_every_activation(kind):
    compare("RNN", functions=[kind], **consumed([kind]))


@pytest.mark.parametrize("name, options", VARIANTS)
@pytest.mark.parametrize("shift", [0, 6])
def test_activations_of_each_direction(name, options, shift):
    """Every place of every direction has another one, with its own alpha and beta."""
    count = 2 * len(FUNCTIONS[name])
    functions = [KINDS[(shift + k) % len(KINDS)] for k in range(count)]
    compare(name, "bidirectional", functions=functions, clip=2.0, **consumed(functions), **options)


DEFAULTS = [("LeakyRelu", 0.01, 0), ("HardSigmoid", 0.2, 0.5), ("Elu", 1.0, 0), ("ThresholdedRelu", 1.0, 0)]


@pytest.mark.parametrize("kind", [*DEFAULTS, ("Affine", 1.0, 0.0)], ids=lambda kind: kind[0])
def test_defaults_of_alpha_and_beta(kind):
    """ "Default values are the same as of corresponding ONNX operators"."""
    compare("RNN", functions=[kind])


@pytest.mark.parametrize("name, options", VARIANTS)
def test_gradients(name, options):
    module = compare(name, "bidirectional", lengths=SOME, clip=0.4, **options)
    shapes = [(T, BATCH, I), (2, BATCH, H), (2, BATCH, H)][: 3 if name == "LSTM" else 2]
    generator = torch.Generator().manual_seed(1)
    given = [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]

    def call(x, *rest):
        return module(x, torch.tensor(SOME), *rest[: len(shapes) - 1])

    assert torch.autograd.gradcheck(call, (*given, *module.parameters()), fast_mode=True)


def test_the_module_travels():
    module = compare("LSTM", "bidirectional", peepholes=True, clip=1.0)
    x = torch.randn(T, BATCH, I, dtype=torch.float64)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert all(torch.equal(a, b) for a, b in zip(twin(x), module(x), strict=True))
    assert sorted(module.state_dict()) == sorted(twin.state_dict())


W, R = np.zeros((1, 16, 3)), np.zeros((1, 16, 4))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tt.from_onnx("Conv", W, R), "the recurrent operators of ONNX are RNN, GRU and LSTM, got 'Conv'"),
        (lambda: tt.from_onnx("LSTM", W, R, direction="up"), 'direction should be "forward", "reverse" or "bidirec'),
        (lambda: tt.from_onnx("LSTM", W[0], R), "W and R of an ONNX LSTM have three axes: [D, 4·H, I] and [D, 4·H, H]"),
        (lambda: tt.from_onnx("GRU", W, R), "W of this GRU should have the shape (1, 12, 3), got (1, 16, 3)"),
        (lambda: tt.from_onnx("LSTM", W, R, np.zeros((1, 16))), "B of this LSTM should have the shape (1, 32), got (1"),
        (lambda: tt.from_onnx("GRU", W, R, P=np.zeros((1, 12))), "an ONNX GRU has no peepholes P"),
        (lambda: tt.from_onnx("LSTM", W, R, hidden_size=5), "hidden_size is 5, but R is made for 4"),
        (
            lambda: tt.from_onnx("LSTM", W, R, activations=["Tanh"]),
            "an ONNX LSTM of 1 directions has 3 activations, got ['Tanh']",
        ),
        (
            lambda: tt.from_onnx("LSTM", W, R, activations=["Tanh", "Tanh", "Gelu"]),
            "the activation 'Gelu' is none of ONNX's: Relu, Tanh, Sigmoid, Affine",
        ),
        (
            lambda: tt.from_onnx("LSTM", W, R, activations=["Tanh", "Tanh", "ScaledTanh"], activation_alpha=[1.0]),
            "the activation ScaledTanh has no defaults: give activation_alpha and activation_beta",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
