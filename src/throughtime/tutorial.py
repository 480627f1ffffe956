"""One simple recurrent layer in plain NumPy, a step at a time, with every state and error term visible.

Letters: x input, s state, U input matrix, W recurrent matrix, f activation, net = U x + W s, E the error,
δ = ∂E/∂net the error term. `throughtime.RNN` computes the same numbers, fast.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Activator(Protocol):
    """f, and its derivative f′(net) written in terms of s = f(net), which is what the layer keeps."""

    def forward(self, net: Array) -> Array: ...
    def backward(self, state: Array) -> Array: ...


class TanhActivator:
    def forward(self, net: Array) -> Array:
        return np.tanh(net)

    def backward(self, state: Array) -> Array:
        return 1 - state * state


class ReluActivator:
    def forward(self, net: Array) -> Array:
        return np.maximum(net, 0.0)

    def backward(self, state: Array) -> Array:
        return np.where(state > 0, 1.0, 0.0)


class IdentityActivator:
    def forward(self, net: Array) -> Array:
        return net

    def backward(self, state: Array) -> Array:
        return np.ones_like(state)


class RNNLayer:
    """s_t = f(U x_t + W s_{t-1}), with U [state_width, input_width] and W [state_width, state_width]."""

    def __init__(
        self, input_width: int, state_width: int, learning_rate: float, activator: Activator, seed: Any = None
    ) -> None:
        if input_width < 1 or state_width < 1:
            raise ValueError(f"input_width {input_width} and state_width {state_width} must be 1 or more")
        self.input_width, self.state_width = input_width, state_width
        self.learning_rate, self.activator = learning_rate, activator
        random = np.random.default_rng(seed)
        self.U = random.uniform(-1e-4, 1e-4, (state_width, input_width))
        self.W = random.uniform(-1e-4, 1e-4, (state_width, state_width))
        self.reset_state()

    def reset_state(self, state: ArrayLike | None = None) -> None:
        """Forgets the sequence and begins at s_0 = `state`, by default zeros; U and W stay."""
        start = np.zeros(self.state_width) if state is None else state
        self.state_list = [_array("the state", start, (self.state_width,))]  # s_0, s_1, …, s_times
        self.input_list: list[Any] = []  # x_1, …, x_times
        self.delta_list: list[Array] = []  # δ_1, …, δ_times, after backward()
        self.times = 0

    def forward(self, x: ArrayLike) -> Array:
        """Takes x_t, a vector or the place of the 1 in a one-hot vector, and returns s_t."""
        if not isinstance(x, (int, np.integer)):
            x = _array("the input", x, (self.input_width,))
        elif not 0 <= x < self.input_width:
            raise ValueError(f"the input {x} is no place in a one-hot vector of width {self.input_width}")
        self.input_list.append(x)
        self.state_list.append(self._step(x, self.state_list[-1]))
        self.delta_list = []
        self.times += 1
        return self.state_list[-1]

    def backward(self, sensitivity: ArrayLike) -> None:
        """Back-propagation through time, from ∂E/∂s of the last step or a list with ∂E/∂s of every step.

        Leaves `delta_list`; `gradient_list`, ∂E/∂W of each step, and its sum `gradient_W`; `gradient_U`;
        `gradient_state`, ∂E/∂s_0; `input_sensitivity`, ∂E/∂x of each step, which the layer below takes.
        """
        if self.times == 0:
            raise RuntimeError("there is no sequence to go back through: call forward() first")
        n = self.state_width
        given = _array("the sensitivity", sensitivity, (n,), (self.times, n))
        self.error_list = given if given.ndim == 2 else np.vstack([np.zeros((self.times - 1, n)), given])
        self.delta_list = []
        horizontal = np.zeros(n)  # Wᵀ δ_{t+1}; nothing comes after the last step
        for state, error in zip(self.state_list[:0:-1], self.error_list[::-1], strict=True):
            delta = self.activator.backward(state) * (horizontal + error)
            self.delta_list.insert(0, delta)
            horizontal = self.W.T @ delta
        self.gradient_state = horizontal
        self.input_sensitivity = [self.U.T @ delta for delta in self.delta_list]
        before = self.state_list[:-1]  # s_{t-1} beside δ_t
        self.gradient_list = [np.outer(delta, s) for delta, s in zip(self.delta_list, before, strict=True)]
        self.gradient_W = np.sum(self.gradient_list, axis=0)
        self.gradient_U = np.zeros_like(self.U)
        for delta, x in zip(self.delta_list, self.input_list, strict=True):
            if isinstance(x, np.ndarray):
                self.gradient_U += np.outer(delta, x)
            else:
                self.gradient_U[:, x] += delta

    def update(self) -> None:
        """W ← W - η ∂E/∂W, U ← U - η ∂E/∂U; forgets the sequence, whose states are the old weights'."""
        self._check_gradients()
        self.W -= self.learning_rate * self.gradient_W
        self.U -= self.learning_rate * self.gradient_U
        self.reset_state()

    def gradient_check(self, step: float = 1e-4) -> float:
        """Largest difference of ∂E/∂W and ∂E/∂U to central differences, relative to their largest entry.

        E is Σ sensitivity · s over the steps, with what backward() was given. Expect below 1e-6.
        """
        self._check_gradients()
        worst = 0.0
        for weights, gradient in ((self.W, self.gradient_W), (self.U, self.gradient_U)):
            numeric = np.zeros_like(weights)
            for place in np.ndindex(weights.shape):
                kept = weights[place]
                for change in (step, -step):
                    weights[place] = kept + change
                    numeric[place] += self._error() / (2 * change)
                weights[place] = kept
            if gradient.any() or numeric.any():
                largest = max(np.abs(gradient).max(), np.abs(numeric).max())
                worst = max(worst, float(np.abs(gradient - numeric).max() / largest))
        return worst

    def _step(self, x: Any, state: Array) -> Array:
        column = self.U @ x if isinstance(x, np.ndarray) else self.U[:, x]
        return self.activator.forward(column + self.W @ state)

    def _error(self) -> float:
        state, total = self.state_list[0], 0.0
        for x, error in zip(self.input_list, self.error_list, strict=True):
            state = self._step(x, state)
            total += float(error @ state)
        return total

    def _check_gradients(self) -> None:
        if not self.delta_list:
            raise RuntimeError("there are no gradients of this sequence: call forward(), then backward()")


def _array(name: str, value: ArrayLike, *shapes: tuple[int, ...]) -> Array:
    """A copy of the value, an array of one of the shapes."""
    array = np.array(value, dtype=np.float64)
    if array.shape not in shapes:
        raise ValueError(f"{name} has shape {array.shape}, where {' or '.join(map(str, shapes))} is expected")
    return array
