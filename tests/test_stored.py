"""A cell's program as text: what is read back is the same cell, and nothing but a cell can be read."""

from __future__ import annotations

import json
import pickle
from random import Random

import pytest
import torch

import throughtime as tt
from random_cells import random_cell
from throughtime import affine, dropout, mean, noise, size, tanh, time, total, weight, where, zoneout
from throughtime.codegen.source import kernel_source
from throughtime.nn.parameters import layout
from throughtime.symbolic import load_cell, save_cell
from throughtime.symbolic.adjoint import adjoint
from throughtime.symbolic.equation import trace
from throughtime.symbolic.program import lower


class Everything(tt.Cell):
    """Noise, where, time, size, total, a shared map, a state and a map of their own widths."""

    state_widths = {"c": 3}  # noqa: RUF012

    def step(self, x, h, c):
        seen = dropout("drop", h, 0.3)
        low = tanh(affine("low", seen, size=3) + c)
        inner = tanh(affine("f", x, seen, shared=True))
        inner = tanh(affine("f", x, inner, shared=True) + affine("back", low))
        spread = where(time() > 1, total(inner) / size(inner), mean(low))
        new = where((noise("n", h) > 0.25) & ~(inner > 0.5), inner, weight("p", init=0.3) * h) + spread
        return zoneout("zone", h, new, 0.2), tanh(low - 0.1)


CELLS = tt.cells.catalogue | {
    "everything": Everything,
    "leaky": lambda: tt.cells.Elman("leaky_relu"),
    "mogrifier-3": lambda: tt.cells.MogrifierLSTM(rounds=3),
}


def results(cell, parameters, training):
    """Output, final states and gradients."""
    layer = tt.Recurrent(cell, 4, 5, bidirectional=True, dtype=torch.float64).train(training)
    layer.load_state_dict(parameters)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    torch.manual_seed(3)
    output, state = layer(x, lengths=[4, 0, 2])
    found = [output, *(state if isinstance(state, tuple) else (state,))]
    error = sum((v * torch.randn(v.shape, generator=generator, dtype=v.dtype)).sum() for v in found)
    return [*found, *torch.autograd.grad(error, [x, *layer.parameters()])]


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", CELLS)
def test_the_same_numbers_bit_for_bit(name, training):
    cell = CELLS[name]()
    layer = tt.Recurrent(cell, 4, 5, bidirectional=True, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    parameters = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in layer.state_dict().items()}
    loaded = load_cell(save_cell(cell))
    assert loaded.name == cell.name
    for found, expected in zip(results(loaded, parameters, training), results(cell, parameters, training), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", CELLS)
def test_the_same_text_again(name):
    text = save_cell(CELLS[name]())
    assert save_cell(load_cell(text)) == text


@pytest.mark.parametrize("number", range(30))
def test_random_cells_give_the_same_kernels(number):
    cell = random_cell(Random(number))
    loaded = load_cell(save_cell(cell))
    for training in (False, True):
        texts = []
        for each in (cell, loaded):
            equation = trace(each, training)
            table = layout(each, equation)
            forward = lower(equation, table.input_order, table.bias_blocks())
            texts.append(kernel_source(adjoint(forward).backward, "float64"))
        assert texts[0] == texts[1]


def test_a_loaded_cell_travels_on(tmp_path):
    layer = tt.Recurrent(load_cell(save_cell(tt.cells.GRU())), 2, 3)
    copy = pickle.loads(pickle.dumps(layer))
    x = torch.randn(3, 1, 2)
    assert torch.equal(layer(x)[0], copy(x)[0])


def test_reading_runs_no_code():
    text = save_cell(tt.cells.GRU())
    content = json.loads(text)
    content["training"]["steps"][0][0] = "__import__('os').system"
    with pytest.raises(tt.EquationError, match=r"no operation \"__import__\('os'\).system\""):
        load_cell(json.dumps(content))
    label = text.replace('"z"]', '"z; system(1)"]')
    assert label != text
    with pytest.raises(tt.EquationError, match="damaged"):
        load_cell(label)


def changed(path, value):
    """The GRU's text with one field changed; `path` leads to it."""
    content = json.loads(save_cell(tt.cells.GRU()))
    at = content
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(content)


STEP = ("evaluation", "steps", 0)
DAMAGED = {
    "empty": "",
    "no JSON": "class GRU(Cell): ...",
    "a number": "1",
    "a list": "[]",
    "null": "null",
    "no fields": "{}",
    "format only": '{"format": "throughtime cell 1"}',
    "another format": changed(["format"], "throughtime cell 2"),
    "format of another kind": changed(["format"], {"a": 1}),
    "a name with a line": changed(["name"], "GRU\nint x;"),
    "a number as name": changed(["name"], 3),
    "three biases": changed(["biases"], 3),
    "infinite biases": changed(["biases"], 1e999),
    "gates of numbers": changed(["gates"], [1, 2]),
    "gates as text": changed(["gates"], "rzn"),
    "a state too many": changed(["state_widths"], {"q": 3}),
    "a state of no width": changed(["state_widths"], {"h": 0}),
    "widths in a list": changed(["state_widths"], {"h": [3]}),
    "no training": changed(["training"], None),
    "no states": changed(["evaluation", "values_given"], ["x"]),
    "a state twice": changed(["evaluation", "values_given"], ["x", "x"]),
    "other states in training": changed(["training", "values_given"], ["x", "c"]),
    "a keyword too many": changed(["evaluation", "values_given"], ["x", "h", "c"]),
    "no steps": changed(["evaluation", "steps"], []),
    "steps as text": changed(["evaluation", "steps"], "affine"),
    "returns nothing": changed(["evaluation", "returns"], []),
    "returns later values": changed(["evaluation", "returns"], [999]),
    "returns negative": changed(["evaluation", "returns"], [-1]),
    "returns truth": changed(["evaluation", "returns"], [True]),
    "an unknown operation": changed([*STEP, 0], "eval"),
    "an operation in a list": changed([*STEP, 0], ["tanh"]),
    "a read": changed([*STEP, 0], "read"),
    "a huge index": changed([*STEP, 1], [10**30]),
    "a negative index": changed([*STEP, 1], [-1]),
    "its own index": changed([*STEP, 1], [2]),
    "a later index": changed([*STEP, 1], [5]),
    "a broken index": changed([*STEP, 1], [0.5]),
    "too many arguments": changed(["evaluation", "steps", 1, 1], [0, 1, 0]),
    "no data": changed([*STEP, 2], None),
    "data of another kind": changed([*STEP, 2], {"r": 1}),
    "a width of 1": changed([*STEP, 3], 1),
    "a negative width": changed([*STEP, 3], -5),
    "a width without a name": changed([*STEP, 3], None),
    "an unknown width": changed([*STEP, 3], "wide"),
    "a label that is code": changed([*STEP, 4], "x = 1;"),
    "a short step": changed([*STEP], ["tanh", [0]]),
    "a step of another kind": changed([*STEP], 7),
    "deep nesting": "[" * 100_000,
    "a deep step": changed([*STEP, 2], None).replace("null", "[" * 5000 + "]" * 5000, 1),
    "infinity": save_cell(tt.cells.GRU()).replace("1.0", "NaN"),
    "a huge constant": save_cell(tt.cells.GRU()).replace("1.0", "9" * 400),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged(what):
    with pytest.raises(tt.EquationError) as caught:
        load_cell(DAMAGED[what])
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400


@pytest.mark.parametrize("name", ["lstm-layernorm", "everything"])
def test_truncated_or_changed_anywhere(name):
    """Any damage is either refused by an EquationError or leaves a cell that can be traced and saved."""
    text = save_cell(CELLS[name]())
    rng = Random(4)
    for _ in range(60):
        with pytest.raises(tt.EquationError):
            load_cell(text[: rng.randrange(len(text) - 3)])
    refused = 0
    for _ in range(300):
        at = rng.randrange(len(text))
        damaged = text[:at] + rng.choice(['"', "0", "9", "-1", "[", "]", "x", "null", ","]) + text[at + 1 :]
        try:
            save_cell(load_cell(damaged))
        except tt.EquationError:
            refused += 1
    assert refused > 150
