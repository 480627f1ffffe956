"""The tutorial's own layer object: one simple recurrent layer in NumPy, step by step, everything visible.

Letters: x input, s state, U input matrix, W recurrent matrix, f activation, net = U x + W s the pre-activation,
E the error, δ = ∂E/∂net the error term. The layers of `throughtime` compute the same numbers, fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]


class Activator(Protocol):
    """f, and its derivative written in terms of the state s = f(net), which is what the layer keeps."""

    def forward(self, net: Vector) -> Vector: ...
    def backward(self, state: Vector) -> Vector: ...


class TanhActivator:
    def forward(self, net: Vector) -> Vector:
        return np.tanh(net)

    def backward(self, state: Vector) -> Vector:
        return 1 - state * state


class ReluActivator:
    def forward(self, net: Vector) -> Vector:
        return np.maximum(net, 0.0)

    def backward(self, state: Vector) -> Vector:
        return (state > 0).astype(np.float64)


class IdentityActivator:
    def forward(self, net: Vector) -> Vector:
        return net

    def backward(self, state: Vector) -> Vector:
        return np.ones_like(state)


class RNNLayer:
    """s_t = f(U x_t + W s_{t-1}).

    U is state_width × input_width, W state_width × state_width. `state_list` holds s_0, s_1, …, s_times, and after
    `backward` `delta_list` holds δ_1, …, δ_times, `gradient_list` the gradient of W of each step.
    """

    def __init__(
        self,
        input_width: int,
        state_width: int,
        learning_rate: float,
        activator: Activator,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        if input_width < 1 or state_width < 1:
            raise ValueError(f"the widths must be at least 1, but are {input_width} (input) and {state_width} (state)")
        if isinstance(activator, type):
            raise TypeError(f"activator is the class {activator.__name__}: give an object, {activator.__name__}()")
        self.input_width, self.state_width = input_width, state_width
        self.learning_rate, self.activator = learning_rate, activator
        random = np.random.default_rng(seed)
        self.U = random.uniform(-1e-4, 1e-4, (state_width, input_width))
        self.W = random.uniform(-1e-4, 1e-4, (state_width, state_width))
        self.reset_state()

    def reset_state(self, state: ArrayLike | None = None) -> None:
        """Forgets the sequence and starts again from `state` (zeros by default)."""
        start = np.zeros(self.state_width) if state is None else np.array(state, dtype=np.float64)
        _check_width("the state", start, self.state_width)
        self.times = 0
        self.state_list = [start]
        self.input_list: list[int | Vector] = []
        self.error_list: list[Vector] = []
        self.delta_list: list[Vector] = []

    def forward(self, x: ArrayLike) -> Vector:
        """One time step: takes x_t, a vector or the index of the 1 in a one-hot vector, and returns s_t."""
        x = self._input(x)
        state = self.activator.forward(self._net(x, self.state_list[-1]))
        self.times += 1
        self.input_list.append(x)
        self.state_list.append(state)
        return state

    def backward(self, sensitivity: ArrayLike | Sequence[ArrayLike]) -> None:
        """Back-propagation through time.

        `sensitivity` is ∂E/∂s of the last step's state, a vector, or a list with one such vector for every step.
        Leaves `delta_list`, `gradient_list`, `gradient_W`, `gradient_U`, `gradient_state` (of s_0) and
        `gradient_input_list` (of each x_t: the sensitivity of the layer below).
        """
        self.error_list = self._errors(sensitivity)
        self.delta_list = []
        horizontal = np.zeros(self.state_width)  # Wᵀ δ_{t+1}: nothing comes after the last step
        for state, error in zip(self.state_list[:0:-1], self.error_list[::-1], strict=True):
            delta = self.activator.backward(state) * (horizontal + error)
            self.delta_list.insert(0, delta)
            horizontal = self.W.T @ delta
        self.gradient_state = horizontal
        self.gradient_input_list = [self.U.T @ delta for delta in self.delta_list]
        # State by state from s_0 on: δ_t stands beside s_{t-1}.
        pairs = zip(self.delta_list, self.state_list, strict=False)
        self.gradient_list = [np.outer(delta, previous) for delta, previous in pairs]
        self.gradient_W = sum(self.gradient_list, np.zeros_like(self.W))
        self.gradient_U = np.zeros_like(self.U)
        for delta, x in zip(self.delta_list, self.input_list, strict=True):
            if isinstance(x, int):
                self.gradient_U[:, x] += delta
            else:
                self.gradient_U += np.outer(delta, x)

    def update(self) -> None:
        """One step of gradient descent: U and W move against their gradients."""
        self._check_gradients("update")
        self.U -= self.learning_rate * self.gradient_U
        self.W -= self.learning_rate * self.gradient_W

    def gradient_check(self, step: float = 1e-4) -> float:
        """Largest difference of gradient_W and gradient_U to central differences, relative to the largest entry.

        E is Σ_t sensitivity_t · s_t with the sensitivities last given to `backward`. Runs the sequence twice for
        every weight, so use a small layer; 1e-7 and less is right.
        """
        self._check_gradients("gradient_check")
        worst = 0.0
        for weights, gradient in ((self.W, self.gradient_W), (self.U, self.gradient_U)):
            numeric = np.zeros_like(weights)
            for place in np.ndindex(weights.shape):
                kept = weights[place]
                weights[place] = kept + step
                above = self._error()
                weights[place] = kept - step
                numeric[place] = (above - self._error()) / (2 * step)
                weights[place] = kept
            scale = max(np.abs(numeric).max(), np.abs(gradient).max())
            if scale > 0:
                worst = max(worst, float(np.abs(gradient - numeric).max() / scale))
        return worst

    def _error(self) -> float:
        """E with the weights as they are now, over the sequence that was seen."""
        state, total = self.state_list[0], 0.0
        for x, error in zip(self.input_list, self.error_list, strict=True):
            state = self.activator.forward(self._net(x, state))
            total += float(error @ state)
        return total

    def _net(self, x: int | Vector, state: Vector) -> Vector:
        return (self.U[:, x] if isinstance(x, int) else self.U @ x) + self.W @ state

    def _input(self, x: ArrayLike) -> int | Vector:
        ...
