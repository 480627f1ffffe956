"""torch.func and forward mode: every transform of every cell, by value, against the hand-written steps."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.utils._pytree import tree_leaves

import oracles
import throughtime as tt
from gradient_check import flat, randomise

# torch warns of what its own decompositions use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

T, B, H = 4, 3, 5
INPUTS = 3
LENGTHS = [4, 0, 2]
CATALOGUE = tt.cells.catalogue
FOUR = ["rnn", "gru", "lstm", "mgu"]


class Both:
    """A layer and its oracle as functions of (parameters, x, state), with random values of all three."""

    def __init__(self, name: str, bidirectional: bool, lengths=None) -> None:
        cell, step = CATALOGUE[name], oracles.STEPS[name]
        layer = tt.Recurrent(cell(), INPUTS, H, bidirectional=bidirectional, dtype=torch.float64)
        randomise(layer, 0)
        generator = torch.Generator().manual_seed(1)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        rows = 2 if bidirectional else 1
        count = len(layer.state_names)
        self.point = (
            {k: v.detach() for k, v in layer.named_parameters()},
            random(T, B, INPUTS),
            tuple(random(rows, B, H) for _ in range(count)),
        )
        self.direction = (
            {k: random(*v.shape) for k, v in self.point[0].items()},
            random(T, B, INPUTS),
            tuple(random(rows, B, H) for _ in range(count)),
        )
        self.cotangent = random(T, B, rows * H)
        given = None if lengths is None else torch.tensor(lengths)

        def of_layer(p, x, s):
            output, state = functional_call(layer, p, (x, s if count > 1 else s[0], given))
            return [output, *flat(state)]

        def of_oracle(p, x, s):
            output, state = oracles.run(step, p, x, s, lengths, bidirectional)
            return [output, *state]

        self.functions = of_layer, of_oracle

    def losses(self):
        """A number that is not linear in the output: its second derivative is felt."""
        return [
            lambda p, x, s, f=f: (f(p, x, s)[0] * self.cotangent).sin().sum() + f(p, x, s)[1].exp().sum()
            for f in self.functions
        ]

    def more(self, value: torch.Tensor, count: int = 2) -> torch.Tensor:
        return torch.stack([value * (1 + 0.3 * k) for k in range(count)])


def agree(transformed) -> None:
    """What a transform makes of the layer and of the oracle."""
    found, expected = (tree_leaves(t) for t in transformed)
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
    assert any(b.abs().max() > 0 for b in expected)


every_cell = pytest.mark.parametrize("name", CATALOGUE)
four_cells = pytest.mark.parametrize("name", FOUR)
both_ways = pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])


@every_cell
@both_ways
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "ragged"])
def test_grad_and_jvp(name, bidirectional, lengths):
    both = Both(name, bidirectional, lengths)
    agree(grad(f, argnums=(0, 1, 2))(*both.point) for f in both.losses())
    agree(jvp(f, both.point, both.direction) for f in both.functions)


@four_cells
def test_jvp_of_one_operand_at_a_time(name):
    """The others stand still: a tangent that is not there is none, not garbage."""
    both = Both(name, bidirectional=True)
    p, x, s = both.point
    agree(jvp(lambda x, f=f: f(p, x, s), (x,), both.direction[1:2]) for f in both.functions)
    agree(jvp(lambda s, f=f: f(p, x, s), (s,), both.direction[2:]) for f in both.functions)
    agree(jvp(lambda p, f=f: f(p, x, s), (p,), both.direction[:1]) for f in both.functions)
    one = {k: v for k, v in p.items() if k == "weight_hh_l0"}
    moved = {k: both.direction[0][k] for k in one}
    agree(jvp(lambda own, f=f: f(p | own, x, s), (one,), (moved,)) for f in both.functions)


@four_cells
@both_ways
def test_vmap_over_inputs_weights_and_both(name, bidirectional):
    both = Both(name, bidirectional)
    p, x, s = both.point
    many = {k: both.more(v) for k, v in p.items()}
    xs, states = both.more(x), tuple(both.more(v) for v in s)
    agree(vmap(f, (None, 0, None))(p, xs, s) for f in both.functions)
    agree(vmap(f, (0, None, None))(many, x, s) for f in both.functions)
    agree(vmap(f, (0, 0, 0))(many, xs, states) for f in both.functions)
    agree(vmap(f, (None, 2, None))(p, xs.movedim(0, 2), s) for f in both.functions)
    agree(vmap(vmap(f, (None, 0, None)), (0, None, 0))(many, xs, states) for f in both.functions)
    agree(vmap(vmap(f, (0, None, None)), (None, 0, None))(many, xs, s) for f in both.functions)


@four_cells
def test_gradients_of_samples_and_of_ensembles(name):
    both = Both(name, bidirectional=True)
    p, x, s = both.point
    many = {k: both.more(v) for k, v in p.items()}
    agree(vmap(grad(f), (None, 0, None))(p, both.more(x, 3), s) for f in both.losses())
    agree(vmap(grad(f, (0, 1)), (0, None, None))(many, x, s) for f in both.losses())
    agree(
        grad(lambda p, x, s, f=f: vmap(f, (0, None, None))(p, x, s).sum(), (0, 1, 2))(many, x, s) for f in both.losses()
    )


@four_cells
def test_jacobians_and_hessians(name):
    both = Both(name, bidirectional=False)
    p, x, s = both.point
    agree(jacrev(f, (0, 1, 2))(*both.point) for f in both.functions)
    agree(jacfwd(f, (0, 1, 2))(*both.point) for f in both.functions)
    agree(hessian(f, (0, 1))(*both.point) for f in both.losses())
    for outer, inner in ((jacrev, jacrev), (jacrev, jacfwd), (jacfwd, jacfwd)):
        agree(outer(inner(lambda x, f=f: f(p, x, s)))(x) for f in both.losses())


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_third_derivatives(name):
    both = Both(name, bidirectional=False)
    p, x, s = both.point
    x = x[:2, :1]
    s = tuple(v[:, :1] for v in s)

    def along(f):
        return lambda a: f(p, x + a * x.cos(), s)[0].sin().sum()

    zero = torch.zeros((), dtype=torch.float64)
    agree(grad(grad(grad(along(f))))(zero) for f in both.functions)
    agree(jacfwd(grad(jacfwd(along(f))))(zero) for f in both.functions)


@four_cells
def test_forward_mode_without_torch_func(name):
    both = Both(name, bidirectional=False)
    p, x, s = both.point

    def tangents(f):
        with forward_ad.dual_level():
            values = f(p, forward_ad.make_dual(x, both.direction[1]), s)
            return [forward_ad.unpack_dual(v).tangent for v in values]

    agree(tangents(f) for f in both.functions)


def test_batched_gradients_of_autograd():
    """`is_grads_batched` runs one backward pass for several errors at once."""
    both = Both("gru", bidirectional=True)
    p, x, s = both.point
    x = x.clone().requires_grad_()
    errors = both.more(both.cotangent, 3)
    agree(
        torch.autograd.grad(f(p, x, s)[0], x, errors, is_grads_batched=True, retain_graph=True) for f in both.functions
    )


def test_gradcheck_in_forward_mode_and_batched():
    layer = tt.Recurrent(tt.cells.GRU(), 2, 3, bidirectional=True, dtype=torch.float64)
    randomise(layer, 2)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    start = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    names = [n for n, _ in layer.named_parameters()]

    def function(x, start, *parameters):
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (x, start))

    given = (x, start, *layer.parameters())
    assert torch.autograd.gradcheck(function, given, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradcheck(function, given, check_forward_ad=True, check_batched_forward_grad=True)


def test_vmap_over_lengths_and_words():
    layer = tt.Recurrent(CATALOGUE["gru"](), INPUTS, H, dtype=torch.float64)
    x, many = torch.randn(T, B, INPUTS, dtype=torch.float64), torch.tensor([[4, 0, 2], [1, 3, 4]])
    together = vmap(lambda lengths: layer(x, None, lengths)[0])(many)
    words = torch.randint(INPUTS, (2, T, B))
    of_words = vmap(lambda w: layer(w)[0])(words)
    for k in (0, 1):
        torch.testing.assert_close(together[k], layer(x, None, many[k])[0], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(of_words[k], layer(words[k])[0], rtol=1e-12, atol=1e-13)
    with pytest.raises(ValueError, match=r"lengths must lie in \[0, 4\], the time steps given, got 0 to 5"):
        vmap(lambda lengths: layer(x, None, lengths)[0])(many + (many > 3))


class Noisy(tt.Cell):
    def step(self, x, h):
        return tt.tanh(tt.affine("f", x, tt.dropout("drop", h, 0.4))) + 0.1 * tt.noise("n", h)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_noise_under_vmap(randomness):
    layer = tt.Recurrent(Noisy(), INPUTS, H, dtype=torch.float64)
    xs = torch.randn(1, T, B, INPUTS, dtype=torch.float64).expand(3, T, B, INPUTS)
    outputs = vmap(lambda x: layer(x)[0], randomness=randomness)(xs)
    assert torch.equal(outputs[0], outputs[1]) == (randomness == "same")
    assert torch.equal(outputs[1], outputs[2]) == (randomness == "same")
    with pytest.raises(RuntimeError, match="random"):
        vmap(lambda x: layer(x)[0])(xs)


def test_the_same_noise_under_vmap_as_without():
    layer = tt.Recurrent(Noisy(), INPUTS, H, dtype=torch.float64)
    xs = torch.randn(2, T, B, INPUTS, dtype=torch.float64)
    torch.manual_seed(3)
    together = vmap(lambda x: layer(x)[0], randomness="same")(xs)
    for x, output in zip(xs, together, strict=True):
        torch.manual_seed(3)
        torch.testing.assert_close(layer(x)[0], output, rtol=1e-12, atol=1e-13)


def test_one_launch_however_many_samples(monkeypatch):
    """No loop over samples: the number of kernel calls does not depend on their number."""
    from throughtime.nn import kernels

    calls = []
    plain = kernels.Kernel.__call__
    monkeypatch.setattr(kernels.Kernel, "__call__", lambda self, *a: (calls.append(self), plain(self, *a))[1])
    counts = []
    for samples in (2, 7):
        both = Both("lstm", bidirectional=False)
        p, x, s = both.point
        calls.clear()
        vmap(grad(both.losses()[0]), (None, 0, None))(p, both.more(x, samples), s)
        vmap(both.functions[0], (0, None, None))({k: both.more(v, samples) for k, v in p.items()}, x, s)
        vmap(hessian(both.losses()[0], 1), (None, 0, None))(p, both.more(x, samples), s)
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0
