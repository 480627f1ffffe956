"""How options are given, said, kept and refused; and what stays true of a cell that has them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.func import functional_call, jvp

import throughtime as tt
from gradient_check import randomise
from throughtime import affine, clip_gradient, noise, sigmoid, tanh, weight
from throughtime.codegen.source import kernel_source
from throughtime.nn.program import Program
from throughtime.symbolic import load_cell, save_cell
from throughtime.symbolic.equation import trace
from throughtime.symbolic.options import Options, Variant

ALL = {
    "layer_norm": ("maps", "states"),
    "recurrent_dropout": 0.2,
    "recurrent_dropout_mask": "step",
    "zoneout": 0.1,
    "state_clip": 0.7,
    "gradient_clip": 0.5,
    "weight_drop": 0.2,
}


class Mine(tt.Cell):
    def step(self, x, h, c):
        forget = sigmoid(affine("f", x, h))
        c = forget * c + (1 - forget) * tanh(affine("c", x))
        return tanh(c), c


def test_lstm_with_layer_norm_is_the_layer_norm_lstm():
    """Bit for bit, where its bias stands in one of the LSTM's two."""
    own = tt.Recurrent(tt.cells.LayerNormLSTM(), 3, 5, dtype=torch.float64)
    randomise(own, 0)
    option = tt.LSTM(3, 5, layer_norm=True, dtype=torch.float64)
    names = {"bias_l0": "bias_ih_l0", "gain_c_l0": "gain_new_c_l0", "shift_c_l0": "shift_new_c_l0"}
    weights = {names.get(n, n): p for n, p in own.state_dict().items()}
    option.load_state_dict(weights | {"bias_hh_l0": torch.zeros(20, dtype=torch.float64)})
    x = torch.randn(6, 3, 3, dtype=torch.float64)
    for a, b in zip(torch.utils._pytree.tree_leaves(option(x)), torch.utils._pytree.tree_leaves(own(x)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


REFUSED = {
    "layer_norm": ("gates", 'layer_norm should be True, False, or some of "maps", "memory", "states", got \'gates\''),
    "recurrent_dropout": (1.0, "recurrent_dropout should be a probability of at least 0 and below 1, got 1.0"),
    "recurrent_dropout_mask": ("time", 'recurrent_dropout_mask should be "sequence" or "step", got \'time\''),
    "zoneout": (1.5, "zoneout should be a probability from 0 to 1 or None for each state, got 1.5"),
    "state_clip": (
        (1.0, 2.0, 3.0),
        "state_clip should be one number, or one for each state of LSTM (h, c), got (1.0, 2.0, 3.0)",
    ),
    "gradient_clip": (0, "gradient_clip should be a number above 0 or None for each state, got 0"),
    "weight_drop": (-0.1, "weight_drop should be a probability of at least 0 and below 1, got -0.1"),
    "connections": ("skip", 'connections should be None, "residual", "highway" or "dense", got \'skip\''),
    "merge": ("sum", 'merge="sum" joins two directions, and this layer has one: set bidirectional=True'),
    "hidden_size": ([3, 4], "hidden_size has 2 numbers for 1 layers: give one number, or one for each layer"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_refused_values(option):
    value, message = REFUSED[option]
    with pytest.raises(ValueError) as caught:
        tt.Recurrent(tt.cells.LSTM(), 3, **({"hidden_size": 5} | {option: value}))
    assert str(caught.value) == message


TOGETHER = {
    'connections="residual" joins layers, and num_layers is 1: give at least 2': {"connections": "residual"},
    'connections="highway" needs layers whose input and output are equally wide, but layer 1 maps 4 numbers to 6: '
    "choose equal hidden sizes": {"connections": "highway", "hidden_size": [4, 6], "num_layers": 2},
    "reverse=True is the reverse direction alone, bidirectional=True has both: choose one": {
        "reverse": True,
        "bidirectional": True,
    },
    'merge should be "concat", "sum", "mean" or "product", got \'add\'': {"merge": "add", "bidirectional": True},
}


@pytest.mark.parametrize("message", TOGETHER)
def test_refused_together(message):
    with pytest.raises(ValueError) as caught:
        tt.Recurrent(tt.cells.GRU(), 3, **({"hidden_size": 5} | TOGETHER[message]))
    assert str(caught.value) == message


def test_options_that_a_cell_cannot_have():
    with pytest.raises(ValueError, match=r"GRU has no state besides its output that the output is computed from"):
        tt.GRU(3, 5, layer_norm="memory")
    with pytest.raises(ValueError, match=r"^Mine has no field gate_activation: write the function into its step$"):
        tt.Recurrent(Mine(), 3, 5, gate_activation="relu")
    with pytest.raises(ValueError, match=r"^Elman has no field gate_activation"):
        tt.RNN(3, 5, gate_activation="relu")
    with pytest.raises(TypeError, match=r"^got an unexpected keyword argument 'zonout': the options of a cell are "):
        tt.GRU(3, 5, zonout=0.1)
    with pytest.raises(
        tt.EquationError, match=r"^LayerNormLSTM.step: an option adds gain_i, which the cell has already"
    ):
        tt.Recurrent(tt.cells.LayerNormLSTM(), 3, 5, layer_norm=True)


def test_noise_of_the_cells_own_is_not_taken_for_the_options():
    class Noisy(tt.Cell):
        def step(self, x, h):
            return tanh(affine("f", x, h)) * noise("zoneout_h", h)

    with pytest.raises(tt.EquationError, match=r"an option adds zoneout_h, which the cell has already"):
        tt.Recurrent(Noisy(), 3, 5, zoneout=0.1)


def test_mistakes_in_a_step_are_quoted_as_without_options():
    class Wrong(tt.Cell):
        def step(self, x, h):
            return tanh(affine("f", x, h) @ h)

    messages = []
    for options in ({}, ALL):
        with pytest.raises(tt.EquationError) as caught:
            tt.Recurrent(Wrong(), 3, 5, **options)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].endswith('in "return tanh(affine("f", x, h) @ h)"')


def test_values_keep_their_authors_names():
    cell = Variant(Mine(), Options(layer_norm=True, zoneout=0.1, gradient_clip=0.3))
    labels = {n.label for n in trace(cell, True).graph.nodes}
    assert {"forget", "c", "h_seen"} <= labels
    assert "forget" in kernel_source(Program(_lowered(cell)).forward(True), "float32")


def _lowered(cell):
    return tt.Recurrent(cell, 3, 5).derived.programs[True].recurrence


def test_a_marked_state_costs_no_phase_of_its_own():
    """Clipping of gradients leaves the forward kernel as it is without: the same text."""
    plain, clipped = (
        tt.Recurrent(tt.cells.GRU(), 3, 5, **options).derived.programs[False].forward(False)
        for options in ({}, {"gradient_clip": 0.1})
    )
    assert kernel_source(plain, "float32").count("struct Phase") == kernel_source(clipped, "float32").count(
        "struct Phase"
    )
    assert len(plain.nodes) == len(clipped.nodes)


def test_gradient_clip_bounds_what_flows_back():
    """A recurrence that doubles the error at every step."""

    class Doubling(tt.Cell):
        def step(self, x, h):
            return 2 * h + affine("f", x)

    for limit, expected in ((None, 2.0**6), (0.5, 0.5)):
        layer = tt.Recurrent(Doubling(), 1, 3, gradient_clip=limit)
        h = torch.zeros(1, 2, 3, requires_grad=True)
        layer(torch.zeros(6, 2, 1), h)[1].sum().backward()
        torch.testing.assert_close(h.grad, torch.full_like(h, expected))


@pytest.mark.parametrize("name", ["rnn", "gru", "mgu", "lstm"])
def test_second_derivatives_go_through_the_clip(name):
    results = []
    for backend in ("compiled", "reference"):
        cell = tt.cells.catalogue[name]()
        layer = tt.Recurrent(cell, 3, 5, gradient_clip=0.3, layer_norm=True, backend=backend, dtype=torch.float64)
        randomise(layer, 1)
        x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
        first = torch.autograd.grad(layer(x)[0].square().sum(), [x, *layer.parameters()], create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, *layer.parameters()])
        results.append([*first, *second])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


# torch warns of what its own decompositions use.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", ["rnn", "gru", "mgu", "lstm"])
def test_forward_mode_is_that_of_the_layer_without_clipped_gradients(name):
    layers = [
        tt.Recurrent(tt.cells.catalogue[name](), 3, 5, gradient_clip=limit, layer_norm=True, dtype=torch.float64)
        for limit in (1e-3, None)
    ]
    randomise(layers[0], 1)
    weights = {n: p.detach() for n, p in layers[0].named_parameters()}
    x, v = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    found = [jvp(lambda x, layer=layer: functional_call(layer, weights, (x,))[0], (x,), (v,)) for layer in layers]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["rnn", "gru", "mgu", "lstm"])
def test_copies_and_pickles(name):
    layer = tt.Recurrent(
        tt.cells.catalogue[name](), 3, 5, 2, bidirectional=True, merge="sum", connections="highway", **ALL
    )
    x = torch.randn(4, 2, 3)
    reset = torch.zeros(4, 2, dtype=torch.bool)
    reset[2] = True
    torch.manual_seed(0)
    expected = layer(x, reset=reset)[0]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.manual_seed(0)
        assert torch.equal(other(x, reset=reset)[0], expected)
        assert repr(other) == repr(layer)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["rnn", "gru", "mgu", "lstm"])
def test_a_cell_with_options_travels_as_text(name, training):
    options = {n: v for n, v in ALL.items() if n != "weight_drop"}
    layer = tt.Recurrent(tt.cells.catalogue[name](), 3, 5, **options).train(training)
    text = save_cell(layer.cell)
    loaded = load_cell(text)
    assert save_cell(loaded) == text
    again = tt.Recurrent(loaded, 3, 5).train(training)
    again.load_state_dict(layer.state_dict())
    x = torch.randn(4, 2, 3)
    found = []
    for each in (layer, again):
        torch.manual_seed(0)
        found.append(each(x)[0])
    assert torch.equal(*found)


def test_what_a_layer_says_of_itself():
    layer = tt.GRU(3, [4, 6], 2, zoneout=0.1, activation="relu", weight_drop=0.2, reverse=True, connections="dense")
    assert layer.extra_repr() == (
        "3, (4, 6), num_layers=2, reverse=True, connections=dense, weight_drop=0.2, zoneout=0.1, activation=relu"
    )


def test_a_layer_without_options_has_the_cell_itself():
    cell = tt.cells.GRU()
    assert tt.Recurrent(cell, 3, 5, recurrent_dropout=0.0).cell is cell


class Unseen(tt.Cell):
    """Its second state is what nothing looks at."""

    def step(self, x, h, c):
        h = tanh(affine("f", x, h))
        return h, 2 * h


@pytest.mark.parametrize("zoneout", [None, 0.2])
def test_a_state_that_no_step_looks_at(zoneout):
    results = []
    for backend in ("compiled", "reference"):
        options = {"layer_norm": "states", "zoneout": zoneout, "learn_initial_state": True, "gradient_clip": 0.5}
        layer = tt.Recurrent(Unseen(), 3, 5, backend=backend, dtype=torch.float64, **options)
        assert not any("seen_c" in name for name in layer.state_dict())
        randomise(layer, 1)
        results.append(together(layer))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def together(layer, seed=0):
    """Output, final states and all gradients of a call with a reset mask."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    reset = torch.rand(5, 3, generator=generator) < 0.3
    torch.manual_seed(seed)
    values = torch.utils._pytree.tree_leaves(layer(x, reset=reset, lengths=torch.tensor([5, 0, 3])))
    error = sum((v * torch.randn(v.shape, generator=generator, dtype=v.dtype)).sum() for v in values)
    return [*values, *torch.autograd.grad(error, [x, *layer.parameters()], allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("name", ["rnn", "gru", "mgu", "lstm"])
def test_options_of_heads(name):
    """Each head is normalised, dropped and clipped on its own, in the kernels as in the reference."""
    results = []
    for backend in ("compiled", "reference"):
        cell = tt.cells.catalogue[name]()
        layer = tt.Recurrent(
            cell,
            3,
            6,
            bidirectional=True,
            heads=2,
            learn_initial_state=True,
            backend=backend,
            dtype=torch.float64,
            **ALL,
        )
        randomise(layer, 1)
        results.append(together(layer))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["rnn", "gru", "mgu", "lstm"])
def test_one_graph_under_torch_compile(name):
    """At the first call of a layer: what a reset mask needs is not there yet."""
    cell = tt.cells.catalogue[name]()
    options = ALL | {"connections": "highway", "merge": "sum", "bidirectional": True, "learn_initial_state": True}
    layer = tt.Recurrent(cell, 3, 5, 2, dtype=torch.float64, **options)
    found = together(torch.compile(layer, fullgraph=True, backend="aot_eager"))
    for a, b in zip(found, together(layer), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_everything_is_visible_with_options():
    layer = tt.LSTM(3, 5, layer_norm=True, zoneout=0.3, gradient_clip=0.5)
    x, reset = torch.randn(4, 2, 3), torch.zeros(4, 2, dtype=torch.bool)
    torch.manual_seed(0)
    output, _, trace = layer(x, reset=reset, return_all=True)
    torch.manual_seed(0)
    assert torch.equal(output, layer(x, reset=reset)[0])
    assert {"h", "c", "i", "f", "g", "o", "net.i", "h_seen"} <= set(trace[0].values)
    output.sum().backward()
    assert trace[0].errors["h_seen"].abs().max() > 0


def test_clip_gradient_needs_a_limit():
    class Wrong(tt.Cell):
        def step(self, x, h):
            return clip_gradient(tanh(affine("f", x, h)), weight("limit"))

    with pytest.raises(tt.EquationError, match=r"clip_gradient was given the limit weight.*, where a number above 0"):
        tt.Recurrent(Wrong(), 3, 5)
