"""The tutorial's layer: the fast layer's numbers, its own gradient check, and its errors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import throughtime as tt
from throughtime import tutorial
from throughtime.tutorial import IdentityActivator, ReluActivator, RNNLayer, TanhActivator

ACTIVATORS = {"tanh": TanhActivator(), "relu": ReluActivator(), "identity": IdentityActivator()}
m, n, TIMES = 3, 5, 6


def layer_with_large_weights(activator, input_width=m, seed=0):
    layer = RNNLayer(input_width, n, 0.1, activator, seed=seed)
    layer.U *= 5e3
    layer.W *= 5e3
    return layer


def fast(layer, nonlinearity):
    """tt.RNN with the same weights and no bias."""
    rnn = tt.RNN(layer.input_width, n, nonlinearity=nonlinearity, bias=False, dtype=torch.float64)
    rnn.load_state_dict({"weight_ih_l0": torch.tensor(layer.U), "weight_hh_l0": torch.tensor(layer.W)})
    return rnn


def distance(found, expected):
    found, expected = np.asarray(found), expected.detach().numpy()
    assert found.shape == expected.shape
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("one_hot", [False, True], ids=["vectors", "one-hot"])
@pytest.mark.parametrize("every_step", [False, True], ids=["last step's error", "every step's error"])
@pytest.mark.parametrize("name", ACTIVATORS)
def test_the_fast_layer_s_numbers(name, every_step, one_hot):
    random = np.random.default_rng(1)
    layer = layer_with_large_weights(ACTIVATORS[name])
    rnn = fast(layer, name)
    x = random.integers(m, size=TIMES) if one_hot else random.normal(size=(TIMES, m))
    start, sensitivity = random.normal(size=n), random.normal(size=(TIMES, n))
    layer.reset_state(start)
    returned = [layer.forward(step) for step in x]
    layer.backward(sensitivity if every_step else sensitivity[-1])

    vectors = torch.tensor(np.eye(m)[x] if one_hot else x).requires_grad_()
    state = torch.tensor(start).requires_grad_()
    output, final = rnn((torch.tensor(x) if one_hot else vectors)[:, None], state[None, None])
    error = torch.tensor(sensitivity)
    if not every_step:
        error[:-1] = 0
    (output[:, 0] * error).sum().backward()

    assert layer.times == TIMES
    assert distance(layer.state_list, torch.cat([state[None], output[:, 0]])) <= 1e-12
    assert distance(returned[-1], final[0, 0]) <= 1e-12
    assert distance(layer.gradient_W, rnn.weight_hh_l0.grad) <= 1e-12
    assert distance(layer.gradient_U, rnn.weight_ih_l0.grad) <= 1e-12
    assert distance(layer.gradient_state, state.grad) <= 1e-12
    if not one_hot:
        assert distance(layer.input_sensitivity, vectors.grad) <= 1e-12


@pytest.mark.parametrize("name", ACTIVATORS)
def test_error_terms_one_by_one(name):
    """δ_t = ∂E/∂net_t, by adding a vector to net_t and asking autograd; ∇_{W_t} E = δ_t s_{t-1}ᵀ."""
    random = np.random.default_rng(2)
    layer = layer_with_large_weights(ACTIVATORS[name])
    x, sensitivity = random.normal(size=(TIMES, m)), random.normal(size=(TIMES, n))
    for step in x:
        layer.forward(step)
    layer.backward(list(sensitivity))

    f = {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda v: v}[name]
    added = torch.zeros(TIMES, n, dtype=torch.float64, requires_grad=True)
    state, total = torch.zeros(n, dtype=torch.float64), 0
    for t in range(TIMES):
        state = f(torch.tensor(layer.U) @ torch.tensor(x[t]) + torch.tensor(layer.W) @ state + added[t])
        total = total + state @ torch.tensor(sensitivity[t])
    total.backward()
    assert distance(layer.delta_list, added.grad) <= 1e-12
    for t in range(TIMES):
        assert np.array_equal(layer.gradient_list[t], np.outer(layer.delta_list[t], layer.state_list[t]))


def test_two_layers_by_the_vertical_path():
    """The sensitivity of the layer below is what the layer above leaves for each step."""
    random = np.random.default_rng(3)
    below = layer_with_large_weights(TanhActivator())
    above = layer_with_large_weights(TanhActivator(), input_width=n, seed=1)
    stack = tt.RNN(m, n, num_layers=2, bias=False, dtype=torch.float64)
    weights = {
        "weight_ih_l0": below.U,
        "weight_hh_l0": below.W,
        "weight_ih_l1": above.U,
        "weight_hh_l1": above.W,
    }
    stack.load_state_dict({name: torch.tensor(weight) for name, weight in weights.items()})
    x, sensitivity = random.normal(size=(TIMES, m)), random.normal(size=(TIMES, n))
    for step in x:
        above.forward(below.forward(step))
    above.backward(sensitivity)
    below.backward(above.input_sensitivity)

    output, _ = stack(torch.tensor(x)[:, None])
    (output[:, 0] * torch.tensor(sensitivity)).sum().backward()
    assert distance(below.gradient_W, stack.weight_hh_l0.grad) <= 1e-12
    assert distance(below.gradient_U, stack.weight_ih_l0.grad) <= 1e-12


def seen(layer):
    """The layer after a sequence of vectors and one-hot indices and back."""
    for x in (np.array([0.3, -1.0, 0.5]), 2, np.array([1.0, 0.2, 0.4]), np.int64(0)):
        layer.forward(x)
    layer.backward(np.ones(n))
    return layer


@pytest.mark.parametrize("name", ACTIVATORS)
def test_gradient_check_passes(name):
    layer = seen(layer_with_large_weights(ACTIVATORS[name]))
    U, W = layer.U.copy(), layer.W.copy()
    assert layer.gradient_check() < 1e-7
    assert np.array_equal(layer.U, U)
    assert np.array_equal(layer.W, W)


def test_gradient_check_passes_with_the_first_weights():
    assert seen(RNNLayer(m, n, 0.1, TanhActivator(), seed=0)).gradient_check() < 1e-6


class WrongDerivative(TanhActivator):
    def backward(self, state):
        return 1.001 * (1 - state * state)


class InPlaceDerivative(TanhActivator):
    """The article's slip: the stored state is destroyed."""

    def backward(self, state):
        state[:] = 1 - state * state
        return state


@pytest.mark.parametrize("activator", [WrongDerivative(), InPlaceDerivative()], ids=lambda a: type(a).__name__)
def test_gradient_check_fails_with_a_wrong_derivative(activator):
    assert seen(layer_with_large_weights(activator)).gradient_check() > 1e-4


@pytest.mark.parametrize("which", ["gradient_W", "gradient_U"])
def test_gradient_check_fails_with_one_wrong_entry(which):
    layer = seen(layer_with_large_weights(TanhActivator()))
    getattr(layer, which)[1, 2] += 1e-3
    assert layer.gradient_check() > 1e-4


def test_first_weights_are_small_and_follow_the_seed():
    layer, same, other = (RNNLayer(300, 15, 0.1, TanhActivator(), seed=s) for s in (5, 5, 6))
    assert layer.U.shape == (15, 300)
    assert layer.W.shape == (15, 15)
    for weights in (layer.U, layer.W):
        assert 0.9e-4 < np.abs(weights).max() <= 1e-4
        assert abs(weights.mean()) < 1e-5
    assert np.array_equal(layer.U, same.U)
    assert not np.array_equal(layer.U, other.U)


def test_update_goes_downhill_and_forgets_the_sequence():
    layer = seen(layer_with_large_weights(TanhActivator()))
    W, U = layer.W - 0.1 * layer.gradient_W, layer.U - 0.1 * layer.gradient_U
    before = layer.state_list[-1].sum()
    layer.update()
    assert np.array_equal(layer.W, W)
    assert np.array_equal(layer.U, U)
    assert (layer.times, len(layer.state_list), layer.delta_list) == (0, 1, [])
    assert seen(layer).state_list[-1].sum() < before


def test_an_input_changed_afterwards_changes_nothing():
    layer = layer_with_large_weights(TanhActivator())
    x = np.ones(m)
    layer.forward(x)
    x[:] = 100
    layer.backward(np.ones(n))
    assert np.array_equal(layer.gradient_U, np.outer(layer.delta_list[0], np.ones(m)))


NEW = "there are no gradients of this sequence: call forward(), then backward()"
BAD_USE = {
    "the input has shape (4,), where (3,) is expected": lambda layer: layer.forward(np.ones(4)),
    "the input has shape (3, 1), where (3,) is expected": lambda layer: layer.forward(np.ones((3, 1))),
    "the input 3 is no place in a one-hot vector of width 3": lambda layer: layer.forward(3),
    "the input -1 is no place in a one-hot vector of width 3": lambda layer: layer.forward(-1),
    "the state has shape (4,), where (5,) is expected": lambda layer: layer.reset_state(np.ones(4)),
    "the sensitivity has shape (4,), where (5,) or (4, 5) is expected": lambda layer: seen(layer).backward(np.ones(4)),
    "the sensitivity has shape (3, 5), where (5,) or (4, 5) is expected": lambda layer: seen(layer).backward(
        np.ones((3, 5))
    ),
    "there is no sequence to go back through: call forward() first": lambda layer: layer.backward(np.ones(n)),
    NEW: lambda layer: layer.update(),
    f"{NEW} ": lambda layer: (layer.forward(0), layer.gradient_check()),
    f"{NEW}  ": lambda layer: (seen(layer).update(), layer.update()),
    f"{NEW}   ": lambda layer: (seen(layer).forward(0), layer.update()),
    "input_width 0 and state_width 5 must be 1 or more": lambda _: RNNLayer(0, 5, 0.1, TanhActivator()),
}


@pytest.mark.parametrize("message", BAD_USE)
def test_bad_use(message):
    with pytest.raises((ValueError, RuntimeError)) as caught:
        BAD_USE[message](layer_with_large_weights(TanhActivator()))
    assert str(caught.value) == message.strip()


def test_needs_numpy_only():
    code = f"import runpy, sys; runpy.run_path({tutorial.__file__!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
