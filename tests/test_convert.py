"""`tt.convert`: what is replaced, what is kept and why, and that nothing else about the model changes."""
# ruff: noqa: E501 (a message stays on one line, as its reader sees it)

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import throughtime as tt
from throughtime.nn.convert import ConversionWarning

OPTIONS = [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"bias": False}]
OURS = {"RNN": tt.RNN, "GRU": tt.GRU, "LSTM": tt.LSTM}
STEPS = {"RNNCell": tt.RNNCell, "GRUCell": tt.GRUCell, "LSTMCell": tt.LSTMCell}


def flat(state):
    return [state] if isinstance(state, torch.Tensor) else list(state)


def assert_same_numbers(found, expected, x):
    """Output, final states and the gradients of every parameter."""
    results = []
    for layer in (found, expected):
        output, end = layer(x)
        error = output.sin().sum() + sum(e.cos().sum() for e in flat(end))
        results.append([output, *flat(end), *torch.autograd.grad(error, list(layer.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("options", OPTIONS)
def test_a_layer_itself_there_and_back(name, options):
    layer = getattr(nn, name)(3, 5, dtype=torch.float64, **options)
    twin = copy.deepcopy(layer)
    state = torch.get_rng_state()
    ours = tt.convert(layer)
    assert torch.equal(torch.get_rng_state(), state)  # no random number is drawn
    assert type(ours) is OURS[name]
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    assert_same_numbers(ours, twin, x)
    assert all(a is b for a, b in zip(ours.parameters(), layer.parameters(), strict=True))
    back = tt.convert(ours, to="torch")
    assert type(back) is getattr(nn, name)
    assert_same_numbers(back, twin, x)
    assert all(a is b for a, b in zip(back.parameters(), layer.parameters(), strict=True))
    assert [n for n, _ in back.named_parameters()] == [n for n, _ in twin.named_parameters()]
    assert vars(back).keys() == vars(twin).keys()


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_the_nonlinearity(nonlinearity):
    layer = nn.RNN(3, 5, nonlinearity=nonlinearity, dtype=torch.float64)
    twin, x = copy.deepcopy(layer), torch.randn(4, 2, 3, dtype=torch.float64)
    assert_same_numbers(tt.convert(layer), twin, x)
    assert tt.convert(tt.convert(layer), to="torch").nonlinearity == nonlinearity


def test_a_width_for_each_layer_is_kept():
    (kept,) = tt.convert(tt.GRU(3, [5, 4], 2), to="torch", report=True).kept
    assert kept.result == "torch.nn.GRU has no hidden_size=(5, 4)"


def test_a_projected_state():
    layer = nn.LSTM(3, 5, 2, proj_size=2, bidirectional=True, dtype=torch.float64)
    twin, x = copy.deepcopy(layer), torch.randn(4, 2, 3, dtype=torch.float64)
    ours = tt.convert(layer)
    assert_same_numbers(ours, twin, x)
    assert_same_numbers(tt.convert(ours, to="torch"), twin, x)
    plain = tt.Recurrent(tt.cells.LSTM(projection=2), 3, 5, dtype=torch.float64)
    assert tt.convert(plain, to="torch").proj_size == 2


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("bias", [True, False])
def test_single_steps_there_and_back(name, bias):
    layer = getattr(nn, name)(3, 5, bias=bias, dtype=torch.float64)
    twin, x = copy.deepcopy(layer), torch.randn(2, 3, dtype=torch.float64)
    ours = tt.convert(layer)
    assert type(ours) is STEPS[name]
    back = tt.convert(ours, to="torch")
    assert type(back) is getattr(nn, name)
    results = []
    for one in (ours, back, twin):
        new = flat(one(x))
        error = sum(n.sin().sum() for n in new)
        results.append([*new, *torch.autograd.grad(error, list(one.parameters()))])
    for found in results[:2]:
        for a, b in zip(found, results[2], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert all(a is b for a, b in zip(back.parameters(), layer.parameters(), strict=True))
    assert [n for n, _ in back.named_parameters()] == [n for n, _ in twin.named_parameters()]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_narrow_weights(kind):
    layer = nn.GRU(3, 5, dtype=kind)
    twin, x = copy.deepcopy(layer).float(), torch.randn(4, 2, 3).to(kind)
    torch.testing.assert_close(tt.convert(layer)(x)[0].float(), twin(x.float())[0], rtol=0.01, atol=0.01)


def test_packed_sequences_go_through():
    layer, x = nn.LSTM(3, 5, bidirectional=True, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([2, 4]), enforce_sorted=False)
    twin = copy.deepcopy(layer)
    found, expected = tt.convert(layer)(packed), twin(packed)
    torch.testing.assert_close(found[0].data, expected[0].data, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=1e-12)


class Symmetric(nn.Module):
    def forward(self, weight):
        return torch.cat([w + w.t() for w in weight.chunk(3)])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_parametrizations_stay(bidirectional):
    """One of two weights in a chain of two, and one with originals of other shapes; trained further, both ways."""
    layer = nn.GRU(3, 5, bidirectional=bidirectional, dtype=torch.float64)
    parametrize.register_parametrization(layer, "weight_hh_l0", Symmetric())
    parametrize.register_parametrization(layer, "weight_hh_l0", nn.Softsign(), unsafe=True)
    nn.utils.parametrizations.weight_norm(layer, "weight_ih_l0")
    twin, x = copy.deepcopy(layer), torch.randn(4, 2, 3, dtype=torch.float64)
    parameters = dict(layer.named_parameters())
    ours = tt.convert(layer)
    assert isinstance(ours, tt.GRU)
    back = tt.convert(ours, to="torch")
    assert isinstance(back, nn.GRU)
    for found in (ours, back):
        assert {n: id(p) for n, p in found.named_parameters()} == {n: id(p) for n, p in parameters.items()}
        assert list(found.state_dict()) == list(twin.state_dict())
        assert_same_numbers(found, twin, x)
    assert list(ours.state_dict()) == list(copy.deepcopy(ours).state_dict())


class Tagger(nn.Module):
    """Layers in every container, one of them three times."""

    def __init__(self):
        super().__init__()
        shared = nn.GRU(4, 4, dtype=torch.float64)
        self.first = shared
        self.many = nn.ModuleList(
            [shared, nn.ModuleDict({"again": shared, "other": nn.LSTM(4, 4, dtype=torch.float64)})]
        )
        self.stack = nn.Sequential(
            nn.Linear(4, 4, dtype=torch.float64), nn.Sequential(nn.RNN(4, 4, dtype=torch.float64))
        )

    def forward(self, x):
        x = self.first(x)[0] + self.many[1]["again"](x)[0] + self.many[0](x)[0]
        x = self.many[1]["other"](x)[0]
        return self.stack(x)[0]


def test_a_nested_model():
    model = Tagger()
    twin, parameters = copy.deepcopy(model), dict(model.named_parameters())
    found = tt.convert(model, report=True)
    assert found.model is model and found.kept == ()
    assert str(found) == (
        "3 replaced, 0 kept\n"
        "  first, many.0, many.1.again  torch.nn.GRU(4, 4)   -> throughtime.GRU\n"
        "  many.1.other                 torch.nn.LSTM(4, 4)  -> throughtime.LSTM\n"
        "  stack.1.0                    torch.nn.RNN(4, 4)   -> throughtime.RNN"
    )
    assert model.first is model.many[0] is model.many[1]["again"]
    assert {n: id(p) for n, p in model.named_parameters()} == {n: id(p) for n, p in parameters.items()}
    assert model.state_dict().keys() == twin.state_dict().keys()
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(model(x), twin(x), rtol=1e-12, atol=1e-12)
    tt.convert(model, to="torch")
    assert torch.equal(model(x), twin(x))


def test_an_optimizer_made_before_goes_on():
    model, twin = Tagger(), Tagger()
    twin.load_state_dict(model.state_dict())
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.05) for m in (model, twin)]
    for step in range(4):
        for one, optimizer in zip((model, twin), optimizers, strict=True):
            optimizer.zero_grad()
            one(x).square().sum().backward()
            optimizer.step()
        if step == 1:
            tt.convert(model)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_mode_gradients_hooks_and_attributes_stay():
    layer, called = nn.LSTM(3, 5), []
    model = nn.Sequential(layer)
    layer.eval()
    layer.weight_hh_l0.requires_grad_(False)
    layer.weight_ih_l0.grad = torch.ones(20, 3)
    layer.note = "mine"
    handles = [
        layer.register_forward_pre_hook(lambda m, args: called.append(("before", type(m)))),
        layer.register_forward_hook(
            lambda m, args, kwargs, out: called.append(("after", sorted(kwargs))), with_kwargs=True
        ),
        layer.register_load_state_dict_pre_hook(lambda m, *rest: called.append(("load", type(m)))),
        layer.register_state_dict_post_hook(lambda m, *rest: called.append(("state", type(m)))),
    ]
    tt.convert(model)
    new = model[0]
    assert type(new) is tt.LSTM and not new.training and model.training and new.note == "mine"
    assert [p.requires_grad for p in new.parameters()] == [True, False, True, True]
    assert new.weight_ih_l0.grad.sum() == 60
    model.load_state_dict(model.state_dict())
    new(input=torch.zeros(2, 1, 3))
    assert called == [("state", tt.LSTM), ("load", tt.LSTM), ("before", tt.LSTM), ("after", ["input"])]
    for handle in handles:
        handle.remove()
    new(torch.zeros(2, 1, 3))
    assert len(called) == 4


def test_hooks_on_the_backward_pass_stay():
    layer, seen = nn.GRU(3, 5), []
    layer.register_full_backward_hook(lambda m, inward, outward: seen.append(type(m)))
    new = tt.convert(layer)
    new(torch.zeros(2, 1, 3, requires_grad=True))[0].sum().backward()
    assert seen == [tt.GRU]


def test_dropout_between_layers_stays():
    layer = nn.GRU(3, 5, 2, dropout=0.5)
    twin, x = copy.deepcopy(layer), torch.randn(4, 2, 3)
    outputs = []
    for one in (tt.convert(layer), twin):
        torch.manual_seed(0)
        outputs.append(one(x)[0])
    torch.testing.assert_close(*outputs)


class Own(nn.GRU):
    def forward(self, x):
        return super().forward(x)[0]


def weight_normed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this form old
        return torch.nn.utils.weight_norm(nn.GRU(3, 5), "weight_hh_l0")


def pruned():
    layer = nn.GRU(3, 5)
    prune.l1_unstructured(layer, "weight_hh_l0", 0.5)
    return layer


def patched():
    layer = nn.GRU(3, 5)
    layer.forward = lambda x: x
    return layer


def reshaped():
    layer = nn.GRU(3, 5)
    layer.weight_ih_l0 = nn.Parameter(torch.zeros(15, 4))
    return layer


def quantised():
    from torch.ao.nn.quantizable import LSTM

    return LSTM(3, 5)


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls torch.jit old
        return torch.jit.script(nn.GRU(3, 5))


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: Own(3, 5), "it is a class of its own, whose methods would be lost: write its equation as a throughtime.Cell"),
        (weight_normed, "its weights are computed from others, as by weight_norm or pruning (weight_hh_l0, weight_hh_l0_g, weight_hh_l0_v): remove that first"),
        (pruned, "its weights are computed from others, as by weight_norm or pruning (weight_hh_l0, weight_hh_l0_mask, weight_hh_l0_orig): remove that first"),
        (patched, "its forward was replaced on this instance"),
        (reshaped, "its weight_ih_l0 has the shape (15, 4) instead of (15, 3)"),
        (quantised, "it is quantised: convert the model before"),
        (scripted, "it was compiled by torch.jit: convert the model before"),
        (lambda: nn.GRU(3, 5, device="meta"), "it is on meta, and only on the CPU have compiled kernels been compared with torch.nn's"),
        (lambda: nn.GRU(3, 5, dtype=torch.complex64), "its weights are torch.complex64, and compiled kernels work on floating-point numbers"),
    ],
)  # fmt: skip
def test_what_is_kept_and_why(make, reason):
    """With the report, in a warning without it; the layer beside it is replaced all the same."""
    layer = make()
    model = nn.ModuleDict({"odd": layer, "plain": nn.GRU(3, 5)})
    found = tt.convert(model, report=True)
    assert [(c.names, c.result) for c in found.kept] == [(("odd",), reason)]
    assert model["odd"] is layer and str(found).endswith(f"kept: {reason}")
    assert type(model["plain"]) is tt.GRU
    with pytest.warns(ConversionWarning, match="convert: 0 replaced, 1 kept\n  odd  "):
        assert tt.convert(model) is model


class Passing(tt.Cell):
    def step(self, x, h):
        return tt.tanh(tt.affine("net", x, h))


class OwnRecurrent(tt.Recurrent):
    pass


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: tt.Recurrent(Passing(), 3, 5), "torch.nn has no Passing"),
        (lambda: tt.Recurrent(tt.cells.MinimalGatedUnit(), 3, 5), "torch.nn has no MinimalGatedUnit"),
        (lambda: tt.Recurrent(tt.cells.GRU(reset="before"), 3, 5), "torch.nn.GRU has no reset='before'"),
        (lambda: tt.Recurrent(tt.cells.LSTM(peepholes=True), 3, 5), "torch.nn.LSTM has no peepholes=True"),
        (lambda: tt.RNN(3, 5, nonlinearity="elu"), "torch.nn.RNN has no nonlinearity='elu'"),
        (lambda: tt.GRU(3, 5, learn_initial_state=True), "torch.nn.GRU has no learn_initial_state=True"),
        (lambda: tt.GRU(3, 6, heads=2), "torch.nn.GRU has no heads=2"),
        (lambda: tt.RNN(3, 5, zoneout=0.1, layer_norm=True), "torch.nn.RNN has no layer_norm, zoneout"),
        (lambda: tt.LSTMCell(3, 5, state_clip=1.0), "torch.nn.LSTMCell has no state_clip"),
        (lambda: tt.GRU(3, 5, activation="relu"), "torch.nn.GRU has no activation='relu'"),
        (lambda: tt.GRU(3, 5, num_layers=2, connections="dense"), "torch.nn.GRU has no connections='dense'"),
        (lambda: tt.Recurrent(tt.cells.MinimalGatedUnit(), 3, 5, zoneout=0.1), "torch.nn has no MinimalGatedUnit"),
        (lambda: OwnRecurrent(tt.cells.GRU(), 3, 5), "it is a class of its own, whose methods would be lost"),
    ],
)  # fmt: skip
def test_what_torch_does_not_have(make, reason):
    (kept,) = tt.convert(make(), to="torch", report=True).kept
    assert reason in kept.result


def test_recompute_and_backend_are_no_obstacle():
    layer = tt.Recurrent(tt.cells.GRU(), 3, 5, recompute=2, backend="reference", dtype=torch.float64)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    assert_same_numbers(tt.convert(copy.deepcopy(layer), to="torch"), layer, x)


def test_nothing_to_convert():
    with pytest.warns(ConversionWarning, match="convert: found no recurrent layer to convert to throughtime in Linear"):
        tt.convert(nn.Linear(2, 2))
    assert str(tt.convert(nn.Linear(2, 2), report=True)) == "0 replaced, 0 kept"


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"^convert expects a torch\.nn\.Module, got list$"):
        tt.convert([nn.GRU(3, 5)])
    with pytest.raises(ValueError, match=r'^to should be "throughtime" or "torch", got \'keras\'$'):
        tt.convert(nn.GRU(3, 5), to="keras")
