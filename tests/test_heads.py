"""`heads`: recurrent maps of block-diagonal matrices, against dense matrices with zeros outside the blocks."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, vmap

import oracles
import throughtime as tt
from gradient_check import flat, randomise

CATALOGUE = tt.cells.catalogue
PLAIN = ["rnn", "gru", "gru-reset-before", "lstm", "lstm-peephole", "mgu"]
HEADS, WIDTH = 3, 4
H = HEADS * WIDTH
LENGTHS = [4, 0, 2]


def dense(weight):
    """[rows, H / heads] -> [rows, H]: in each map's H rows, head k's rows see head k's columns."""
    maps = weight.reshape(-1, HEADS, WIDTH, WIDTH)
    full = weight.new_zeros(maps.shape[0], HEADS, WIDTH, HEADS, WIDTH)
    for k in range(HEADS):
        full[:, k, :, k, :] = maps[:, k]
    return full.reshape(-1, H)


def results(forward, x, starts, parameters):
    values = forward(x, starts)
    generator = torch.Generator().manual_seed(3)
    error = sum((v * torch.randn(v.shape, generator=generator, dtype=v.dtype)).sum() for v in values)
    return [*values, *torch.autograd.grad(error, [x, *starts, *parameters])]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "ragged"])
def test_equal_to_dense_matrices_of_blocks(name, lengths):
    layer = tt.Recurrent(CATALOGUE[name](), 5, H, 2, bidirectional=True, heads=HEADS, dtype=torch.float64)
    randomise(layer, 0)
    assert layer.weight_hh_l0.shape[1] == WIDTH
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    starts = [
        torch.randn(4, 3, H, generator=generator, dtype=torch.float64).requires_grad_() for _ in layer.state_names
    ]

    def of_layer(x, starts):
        output, state = layer(x, tuple(starts) if len(starts) > 1 else starts[0], lengths)
        return [output, *flat(state)]

    def of_oracle(x, starts):
        named = {n: dense(p) if "weight_hh" in n else p for n, p in layer.named_parameters()}
        output, state = oracles.run(oracles.STEPS[name], named, x, starts, lengths, True, 2)
        return [output, *state]

    given = x, starts, list(layer.parameters())
    for a, b in zip(results(of_layer, *given), results(of_oracle, *given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


class Noisy(tt.Cell):
    def step(self, x, h):
        return tt.tanh(tt.layer_norm("n", tt.affine("f", x, tt.dropout("drop", h, 0.4)))) + 0.1 * tt.noise("e", h)


@pytest.mark.parametrize("cell", [CATALOGUE["lstm-layernorm"](), Noisy()], ids=lambda c: c.name)
def test_sums_over_units_and_noise_are_each_heads_own(cell):
    """The reference computes heads as an axis of their own."""
    options = {"num_layers": 2, "bidirectional": True, "heads": HEADS, "dtype": torch.float64}
    layer = tt.Recurrent(cell, 5, 3 * 8, **options)
    randomise(layer, 0)
    slow = tt.Recurrent(cell, 5, 3 * 8, backend="reference", **options)
    slow.load_state_dict(layer.state_dict())
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    found = []
    for module in (layer, slow):

        def forward(x, starts, module=module):
            torch.manual_seed(4)
            output, state = module(x, None, LENGTHS)
            return [output, *flat(state)]

        found.append(results(forward, x, [], list(module.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_heads_under_vmap():
    layer = tt.Recurrent(CATALOGUE["lstm"](), 5, H, heads=HEADS, dtype=torch.float64)
    randomise(layer, 0)
    slow = tt.Recurrent(CATALOGUE["lstm"](), 5, H, heads=HEADS, dtype=torch.float64, backend="reference")
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    many = {n: torch.stack([p.detach(), 1.2 * p.detach()]) for n, p in layer.named_parameters()}
    found = [vmap(grad(lambda p, m=m: functional_call(m, p, x)[0].sin().sum()))(many) for m in (layer, slow)]
    for name in many:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-10, atol=1e-12)


def test_each_head_starts_orthogonal():
    layer = tt.Recurrent(CATALOGUE["gru"](), 5, H, heads=HEADS, dtype=torch.float64)
    for block in layer.weight_hh_l0.split(WIDTH):
        torch.testing.assert_close(block @ block.T, torch.eye(WIDTH, dtype=torch.float64))


@pytest.mark.parametrize("heads", [0, -1, 5, True, 2.0])
def test_heads_must_divide_the_units(heads):
    with pytest.raises(ValueError, match=r"heads should be a number that divides hidden_size \(12\)"):
        tt.Recurrent(CATALOGUE["gru"](), 5, H, heads=heads)


def test_a_step_with_other_widths_cannot_be_cut():
    with pytest.raises(tt.EquationError, match="MogrifierLSTM cannot have heads: its step has a vector of the width"):
        tt.Recurrent(CATALOGUE["lstm-mogrifier"](), 5, H, heads=HEADS)
