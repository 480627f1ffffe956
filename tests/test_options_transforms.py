"""Options under torch.func, torch.export, checkpointing and double backward: compiled kernels against the reference."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, jacfwd, jvp, vmap
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import throughtime as tt
from gradient_check import randomise

FOUR = ["rnn", "gru", "lstm", "mgu"]
T, B, INPUTS, H = 3, 2, 3, 4
F64 = torch.float64
# Clipped gradients are left out: forward mode does not clip what it does not send back.
OPTIONS = {
    "layer_norm": ("maps", "states"),
    "recurrent_dropout": 0.3,
    "zoneout": 0.2,
    "state_clip": 0.9,
    "activation": "softsign",
    "num_layers": 2,
    "connections": "highway",
    "learn_initial_state": True,
}
# torch warns of what its own decompositions use.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script:DeprecationWarning", "ignore:.*is deprecated.*:FutureWarning"
)


def layer_of(name, **options):
    layer = tt.Recurrent(tt.cells.catalogue[name](), INPUTS, H, dtype=F64, **(OPTIONS | options))
    return randomise(layer, 0) or layer


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


RESET = torch.tensor([[False, False], [True, False], [False, True]])


def losses(name):
    """The loss as a function of (parameters, x), by the kernels and by the equation itself; and the parameters."""
    functions, weights = [], {}
    for backend in ("compiled", "reference"):
        layer = layer_of(name, backend=backend)
        weights = {n: p.detach() for n, p in layer.named_parameters()}

        def loss(p, x, layer=layer):
            torch.manual_seed(3)
            output, state = functional_call(layer, p, (x, None, torch.tensor([3, 2])), {"reset": RESET})
            return (output * draw(T, B, H)).sin().sum() + sum(s.cos().sum() for s in tree_leaves(state))

        functions.append(loss)
    return functions, weights


def agree(found):
    ours, reference = (tree_leaves(f) for f in found)
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    assert any(b.abs().max() > 0 for b in reference)


@pytest.mark.parametrize("name", FOUR)
def test_torch_func(name):
    functions, p = losses(name)
    x = draw(T, B, INPUTS, seed=2)
    along = {n: draw(*v.shape, seed=5) for n, v in p.items()}, draw(T, B, INPUTS, seed=6)
    agree(grad(f, (0, 1))(p, x) for f in functions)
    agree(jvp(f, (p, x), along) for f in functions)
    agree(jacfwd(grad(f, 1), 1, randomness="same")(p, x) for f in functions)
    many = torch.stack([x, 0.5 * x, x.flip(0)])
    samples = vmap(grad(functions[0]), (None, 0), randomness="same")(p, many)
    one_by_one = [grad(functions[1])(p, x) for x in many]
    agree(([samples[n] for n in p], [torch.stack([g[n] for g in one_by_one]) for n in p]))


@pytest.mark.parametrize("name", FOUR)
def test_double_backward(name):
    functions, p = losses(name)
    found = []
    for f in functions:
        weights = {n: v.clone().requires_grad_() for n, v in p.items()}
        x = draw(T, B, INPUTS, seed=2).requires_grad_()
        (g,) = torch.autograd.grad(f(weights, x), x, create_graph=True)
        used = {n: v for n, v in weights.items() if "initial_c" not in n}
        found.append(torch.autograd.grad(g.square().sum(), list(used.values()), materialize_grads=True))
    agree(found)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", FOUR)
def test_checkpoint(name, reentrant):
    """The second run of the forward pass draws the noise of the first: the gradients are the same bits."""
    layer = layer_of(name, weight_drop=0.2, gradient_clip=0.5, dropout=0.2)
    found = []
    for kept in (True, False):
        torch.manual_seed(3)
        x = draw(T, B, INPUTS).requires_grad_()
        output = layer(x)[0] if kept else checkpoint(lambda x: layer(x)[0], x, use_reentrant=reentrant)
        layer.zero_grad()
        output.sin().sum().backward()
        found.append([output, x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)])
    assert len(found[0]) > 5
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", FOUR)
def test_export_with_free_batch_and_time(name):
    layer = layer_of(name, gradient_clip=0.5).eval()

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, lengths, reset):
            return self.layer(x, None, lengths, reset=reset)

    def given(steps, rows):
        reset = torch.rand(steps, rows, generator=torch.Generator().manual_seed(4)) < 0.4
        return draw(steps, rows, INPUTS), torch.arange(rows) % (steps + 1), reset

    time, batch = torch.export.Dim("time"), torch.export.Dim("batch")
    axes = {0: time, 1: batch}
    program = torch.export.export(Model(), given(4, 3), dynamic_shapes=(axes, {0: batch}, axes))
    for shape in ((2, 5), (9, 2)):
        found, expected = (tree_leaves(m(*given(*shape))) for m in (program.module(), Model()))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
