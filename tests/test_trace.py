"""`return_all=True`: every state, gate, pre-activation and error term, against steps written by hand."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import sigmoid, tanh

import throughtime as tt
from gradient_check import flat, randomise

CATALOGUE = tt.cells.catalogue
T, B, H = 5, 4, 6
INPUTS = 3
LENGTHS = [5, 0, 3, 1]


def rnn(p, x, h):
    net = x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
    new = tanh(net)
    return {"h": new, "net.net": net}, (new,)


def gru(p, x, h):
    xs = (x @ p["weight_ih"].T + p["bias_ih"]).chunk(3, -1)
    hs = (h @ p["weight_hh"].T + p["bias_hh"]).chunk(3, -1)
    net_r, net_z, net_n, net_m = xs[0] + hs[0], xs[1] + hs[1], xs[2] * 1, hs[2] * 1
    r, z = sigmoid(net_r), sigmoid(net_z)
    n = tanh(net_n + r * net_m)
    new = (1 - z) * n + z * h
    nets = {"net.r": net_r, "net.z": net_z, "net.n": net_n, "net.m": net_m}
    return {"h": new, "r": r, "z": z, "n": n, **nets}, (new,)


def lstm(p, x, h, c):
    nets = (x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]).chunk(4, -1)
    nets = [n * 1 for n in nets]
    i, f, g, o = sigmoid(nets[0]), sigmoid(nets[1]), tanh(nets[2]), sigmoid(nets[3])
    c = f * c + i * g
    h = o * tanh(c)
    named = {"h": h, "c": c, "i": i, "f": f, "g": g, "o": o}
    return named | {f"net.{k}": n for k, n in zip("ifgo", nets, strict=True)}, (h, c)


def mgu(p, x, h):
    (wf, wh), (rf, rh), (bf, bh) = (p[n].chunk(2) for n in ("weight_ih", "weight_hh", "bias"))
    net_f = x @ wf.T + h @ rf.T + bf
    f = sigmoid(net_f)
    net_h = x @ wh.T + (f * h) @ rh.T + bh
    candidate = tanh(net_h)
    new = (1 - f) * h + f * candidate
    return {"h": new, "f": f, "candidate": candidate, "net.f": net_f, "net.h": net_h}, (new,)


STEPS = {"rnn": rnn, "gru": gru, "lstm": lstm, "mgu": mgu}


def by_hand(layer, step, x, states, lengths):
    """Output, final states, and for each layer and direction a list over (t, b) of named values that keep their
    gradients; one sequence at a time."""
    directions = ["", "_reverse"]
    kept = []
    below = [[x[t, b] for t in range(lengths[b])] for b in range(B)]
    ends = []
    for level in range(layer.num_layers):
        outputs = []
        for d, suffix in enumerate(directions):
            names = [n for n in dict(layer.named_parameters()) if n.endswith(f"_l{level}{suffix}")]
            p = {n.removesuffix(f"_l{level}{suffix}"): getattr(layer, n) for n in names}
            named: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
            of_direction, last = [], []
            for b in range(B):
                state = tuple(s[2 * level + d, b] for s in states)
                made = {}
                times = range(lengths[b])
                for t in reversed(times) if d else times:
                    named[t, b], state = step(p, below[b][t], *state)
                    for value in named[t, b].values():
                        value.retain_grad()
                    made[t] = state[0]
                of_direction.append([made[t] for t in times])
                last.append(state)
            kept.append(named)
            outputs.append(of_direction)
            ends.append([torch.stack([state[k] for state in last]) for k in range(len(states))])
        below = [[torch.cat([outputs[d][b][t] for d in (0, 1)]) for t in range(lengths[b])] for b in range(B)]
    nothing = torch.zeros(2 * H, dtype=x.dtype)
    output = torch.stack(
        [torch.stack([below[b][t] if t < lengths[b] else nothing for b in range(B)]) for t in range(T)]
    )
    return output, [torch.stack([e[k] for e in ends]) for k in range(len(states))], kept


def layer_of(name, **options):
    layer = tt.Recurrent(CATALOGUE[name](), INPUTS, H, num_layers=2, bidirectional=True, dtype=torch.float64, **options)
    randomise(layer, 0)
    return layer


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("lengths", [[T] * B, LENGTHS], ids=["whole", "ragged"])
def test_every_value_and_every_error_term(name, lengths):
    layer = layer_of(name)
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, states = random(T, B, INPUTS), [random(4, B, H) for _ in layer.state_names]
    errors = [random(T, B, 2 * H), *(random(4, B, H) for _ in states)]
    expected, expected_ends, kept = by_hand(layer, STEPS[name], x, states, lengths)
    torch.autograd.backward([expected, *expected_ends], errors)
    output, end, trace = layer(x, states[0] if len(states) == 1 else tuple(states), lengths, return_all=True)
    assert all(not t.errors for t in trace)  # nothing has flowed back yet
    torch.autograd.backward([output, *flat(end)], errors)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    assert len(trace) == 4
    for found, named in zip(trace, kept, strict=True):
        assert set(found.values) == set(found.errors) == set(next(iter(named.values())))
        for what in found.values:
            value, error = torch.zeros(T, B, H, dtype=torch.float64), torch.zeros(T, B, H, dtype=torch.float64)
            for (t, b), step in named.items():
                value[t, b] = step[what].detach()
                error[t, b] = 0 if step[what].grad is None else step[what].grad
            torch.testing.assert_close(found.values[what].detach(), value, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(found.errors[what], error, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tracing_changes_no_bit(name, dtype):
    layer = layer_of(name).to(dtype)
    x = torch.randn(T, B, INPUTS, dtype=dtype, requires_grad=True)
    results = []
    for traced in (False, True):
        output, end = layer(x, None, LENGTHS, return_all=traced)[:2]
        generator = torch.Generator().manual_seed(2)
        values = [output, *flat(end)]
        error = sum((v * torch.randn(v.shape, generator=generator, dtype=dtype)).sum() for v in values)
        results.append([*values, *torch.autograd.grad(error, [x, *layer.parameters()])])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_error_may_enter_through_the_trace():
    """A loss on the cell state, as in activation regularisation."""
    layer = layer_of("lstm")
    x = torch.randn(T, B, INPUTS, dtype=torch.float64)
    _, _, trace = layer(x, return_all=True)
    trace[0].values["c"].square().sum().backward()
    _, _, kept = by_hand(layer, lstm, x, [torch.zeros(4, B, H, dtype=torch.float64)] * 2, [T] * B)
    found = {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    layer.zero_grad()
    sum(step["c"].square().sum() for step in kept[0].values()).backward()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, getattr(layer, name).grad, rtol=1e-10, atol=1e-12)
    assert set(found) == {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}


def test_a_value_of_two_names_has_both():
    """Without activation an Elman cell's state is its pre-activation."""
    layer = tt.RNN(INPUTS, H, nonlinearity="identity", dtype=torch.float64)
    x, error, more, most = (torch.randn(T, B, n, dtype=torch.float64) for n in (INPUTS, H, H, H))
    output, _, (trace,) = layer(x, return_all=True)
    assert torch.equal(trace.values["net.net"], output) and torch.equal(trace.values["h"], output)
    torch.autograd.backward([output, trace.values["h"], trace.values["net.net"]], [error, more, most])
    delta = torch.zeros(B, H, dtype=torch.float64)
    for t in reversed(range(T)):
        delta = error[t] + more[t] + most[t] + delta @ layer.weight_hh_l0.detach()
        for name in ("h", "net.net"):
            torch.testing.assert_close(trace.errors[name][t], delta, rtol=1e-10, atol=1e-12)


def test_shapes_follow_the_input():
    for batch_first in (False, True):
        layer = layer_of("gru", batch_first=batch_first)
        shape = (B, T, INPUTS) if batch_first else (T, B, INPUTS)
        output, _, trace = layer(torch.randn(shape, dtype=torch.float64), return_all=True)
        output.sum().backward()
        for found in trace:
            assert {v.shape for v in [*found.values.values(), *found.errors.values()]} == {(*shape[:2], H)}
        _, _, trace = layer(torch.randn(T, INPUTS, dtype=torch.float64), return_all=True)
        assert trace[3].values["z"].shape == (T, H)


def test_errors_of_several_backward_passes_add_up_as_gradients_do():
    layer = layer_of("gru")
    output, _, trace = layer(torch.randn(T, B, INPUTS, dtype=torch.float64), return_all=True)
    output.sum().backward(retain_graph=True)
    once = trace[0].errors["net.r"].clone()
    output.sum().backward()
    torch.testing.assert_close(trace[0].errors["net.r"], 2 * once)


def test_the_sum_of_the_error_terms_is_the_gradient_of_the_bias():
    """∂E/∂b = Σ_t δ_t, the tutorial's last equation."""
    layer = layer_of("lstm")
    output, _, trace = layer(torch.randn(T, B, INPUTS, dtype=torch.float64), return_all=True)
    output.sin().sum().backward()
    deltas = torch.cat([trace[2].errors[f"net.{k}"] for k in "ifgo"], -1)
    torch.testing.assert_close(deltas.sum((0, 1)), layer.bias_ih_l1.grad, rtol=1e-12, atol=1e-13)


def test_horizontal_and_vertical_error():
    """In the top layer the error that comes from above is the loss's; below, it is what the layer above sends down."""
    layer = layer_of("gru")
    x = torch.randn(T, B, INPUTS, dtype=torch.float64)
    output, _, trace = layer(x, None, LENGTHS, return_all=True)
    errors = torch.randn(T, B, 2 * H, dtype=torch.float64)
    output.backward(errors)
    real = (torch.arange(T).unsqueeze(1) < torch.tensor(LENGTHS)).unsqueeze(2)
    for d in (0, 1):
        assert torch.equal(trace[2 + d].vertical["h"] * real, errors[..., d * H : (d + 1) * H] * real)
        down = 0
        for above, own in ((trace[2], ""), (trace[3], "_reverse")):
            weight = getattr(layer, f"weight_ih_l1{own}")[:, d * H : (d + 1) * H]
            down = down + torch.cat([above.errors[f"net.{k}"] for k in "rzn"], -1) @ weight
        torch.testing.assert_close(trace[d].vertical["h"] * real, down * real, rtol=1e-10, atol=1e-12)
        # The error at a sequence's last step has come from above only, and from no later step.
        last = [(0 if d else n - 1, b) for b, n in enumerate(LENGTHS) if n]
        for t, b in last:
            torch.testing.assert_close(trace[d].errors["h"][t, b], trace[d].vertical["h"][t, b])


def test_without_gradients_there_are_values_and_no_errors():
    layer = layer_of("mgu").eval()
    with torch.no_grad():
        trace = layer(torch.randn(T, B, INPUTS, dtype=torch.float64), return_all=True)[2]
    assert trace[0].values["candidate"].abs().max() > 0
    assert not trace[0].errors
    assert repr(trace) == "Trace of 4 layers and directions: h, net.f, f, net.h, candidate"


@pytest.mark.parametrize("options", [{"backend": "reference"}, {"recompute": 2}])
def test_where_nothing_is_kept_nothing_can_be_shown(options):
    with pytest.raises(ValueError, match="return_all=True needs"):
        layer_of("gru", **options)(torch.randn(T, B, INPUTS, dtype=torch.float64), return_all=True)


def test_a_trace_ends_with_its_last_name():
    """What the graph holds of a trace must not hold the graph: a training loop would fill the memory."""
    layer = layer_of("gru")
    x = torch.randn(T, B, INPUTS, dtype=torch.float64, requires_grad=True)
    output, _, trace = layer(x, return_all=True)
    values = [weakref.ref(v) for each in trace for v in each.values.values()]
    torch.autograd.grad(output.sum(), x)
    assert trace[0].errors
    del output, trace
    gc.collect()
    assert not any(value() is not None for value in values)
