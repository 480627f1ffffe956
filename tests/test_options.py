"""Every option on every cell against a loop written by hand: outputs, final states, and all gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import option_oracles as oracle
import throughtime as tt
from gradient_check import error, randomise
from option_oracles import Asked

TOLERANCE = 1e-10

OPTIONS = {
    "layer_norm": ({"layer_norm": True}, Asked(norms=("maps", "memory"))),
    "layer_norm of states": ({"layer_norm": ("states", "maps")}, Asked(norms=("states", "maps"))),
    "recurrent_dropout": ({"recurrent_dropout": 0.4}, Asked(drop=0.4)),
    "recurrent_dropout per step": (
        {"recurrent_dropout": 0.4, "recurrent_dropout_mask": "step"},
        Asked(drop=0.4, drop_per_step=True),
    ),
    "zoneout": ({"zoneout": 0.3}, Asked(zoneout=(0.3, 0.3))),
    "state_clip": ({"state_clip": 0.2}, Asked(state_clip=(0.2, 0.2))),
    "gradient_clip": ({"gradient_clip": 0.3}, Asked(gradient_clip=(0.3, 0.3))),
    "weight_drop": ({"weight_drop": 0.5}, Asked(weight_drop=0.5)),
    "activation": ({"activation": "softsign"}, Asked(activation="softsign")),
    "all": (
        {
            "layer_norm": ("maps", "states"),
            "recurrent_dropout": 0.2,
            "zoneout": 0.2,
            "state_clip": 0.6,
            "gradient_clip": 0.5,
            "weight_drop": 0.2,
            "activation": "elu",
        },
        Asked(("maps", "states"), 0.2, False, (0.2, 0.2), (0.6, 0.6), (0.5, 0.5), "elu", "sigmoid", 0.2),
    ),
}

LENGTHS = [4, 0, 3]
ARRANGEMENTS = {
    "plain": {},
    "stack": {"num_layers": 2, "bidirectional": True, "lengths": LENGTHS, "batch_first": True, "dropout": 0.3},
    "chunks": {"num_layers": 2, "recompute": 3, "lengths": LENGTHS, "learn_initial_state": True},
    "reference": {"bidirectional": True, "lengths": LENGTHS, "backend": "reference", "learn_initial_state": True},
    "evaluation": {"bidirectional": True, "training": False},
}


def check(
    cell, options, asked, *, lengths=None, training=True, reset=None, hidden=5, given=True, steps=4, **arrangement
):
    """Raises AssertionError, naming what is off, unless the layer is the oracle."""
    options = options | {"dtype": torch.float64} | arrangement
    layer = tt.Recurrent(tt.cells.catalogue[cell](), 3, hidden, **options).train(training)
    asked = replace(asked, training=training, learned=layer.learn_initial_state)
    randomise(layer, 1)
    generator = torch.Generator().manual_seed(2)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    batch, directions = 3, layer.directions
    x = random(steps, batch, 3)
    for b, length in enumerate(lengths or []):
        x[length:, b] = torch.nan
    state = [[random(directions, batch, h) for h in layer.hidden_sizes] for _ in layer.state_names]
    state = state if given else None
    exact = {n: p.detach().clone().requires_grad_() for n, p in layer.named_parameters()}

    def of_layer(x, state):
        torch.manual_seed(3)
        first = layer.batch_first
        whole = None
        if state is not None:
            whole = tuple(torch.cat(s) if layer.uniform else s for s in state)
            whole = whole[0] if len(whole) == 1 else whole
        mask = None if reset is None else reset.t() if first else reset
        output, ends = layer(x.transpose(0, 1) if first else x, whole, lengths=lengths, reset=mask)
        ends = [ends] if len(layer.state_names) == 1 else list(ends)
        if layer.uniform:
            ends = [e.split(directions) for e in ends]
        return output.transpose(0, 1) if first else output, ends, dict(layer.named_parameters())

    def of_oracle(x, state):
        torch.manual_seed(3)
        output, ends = oracle.run(
            cell,
            asked,
            exact,
            x,
            state,
            list(layer.hidden_sizes),
            layer.bidirectional,
            lengths,
            reset,
            layer.dropout,
        )
        return output, ends, exact

    cotangents = None
    results = []
    for run in (of_layer, of_oracle):
        own_x = x.clone().requires_grad_()
        own = None if state is None else [[s.clone().requires_grad_() for s in levels] for levels in state]
        output, ends, parameters = run(own_x, own)
        values = {"output": output} | {f"end {k}.{n}": e for k, es in enumerate(ends) for n, e in enumerate(es)}
        cotangents = cotangents or [random(*v.shape) for v in values.values()]
        leaves = {"∂x": own_x} | {f"∂{n}": p for n, p in parameters.items()}
        leaves |= {f"∂start {k}.{n}": s for k, levels in enumerate(own or []) for n, s in enumerate(levels)}
        gradients = torch.autograd.grad(
            list(values.values()), list(leaves.values()), cotangents, allow_unused=True, materialize_grads=True
        )
        results.append(values | dict(zip(leaves, gradients, strict=True)))
    found, expected = results
    assert list(found) == list(expected)
    wrong = {n: e for n, v in expected.items() if (e := error(found[n], v)) > TOLERANCE}
    assert not wrong
    return layer


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("cell", oracle.CELLS)
def test_option(cell, option, arrangement):
    options, asked = OPTIONS[option]
    check(cell, options, asked, **ARRANGEMENTS[arrangement])


@pytest.mark.parametrize("arrangement", ["plain", "reference"])
@pytest.mark.parametrize("cell", ["gru", "mgu", "lstm"])
def test_gate_activation(cell, arrangement):
    options = {"gate_activation": "hard_sigmoid", "activation": "relu"}
    check(cell, options, Asked(activation="relu", gate_activation="hard_sigmoid"), **ARRANGEMENTS[arrangement])


@pytest.mark.parametrize("arrangement", ["stack", "reference"])
def test_one_number_for_each_state(arrangement):
    options = {"zoneout": (0.5, None), "state_clip": (None, 0.3), "gradient_clip": (0.2, None)}
    asked = Asked(zoneout=(0.5, 0.0), state_clip=(None, 0.3), gradient_clip=(0.2, None))
    check("lstm", options, asked, **ARRANGEMENTS[arrangement])
