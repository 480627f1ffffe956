"""`inspect.flow` against a plain Python loop under autograd: every norm, Jacobian and per-step gradient."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.autograd.functional import jacobian

import oracles
import throughtime as tt
from gradient_check import flat, randomise

T, B, H, INPUTS = 5, 4, 6, 3
LENGTHS = [5, 0, 3, 4]
MAPS = {"rnn": ["net"], "gru": ["r", "z", "n", "m"], "lstm": ["i", "f", "g", "o"], "mgu": ["f", "h"]}


def layer_of(name, **options):
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64} | options
    layer = tt.Recurrent(tt.cells.catalogue[name](), INPUTS, H, **options)
    randomise(layer, 0)
    return layer


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


class ByHand:
    """A stack in both directions, sequence by sequence and step by step. Every use of a state has a copy of its own,
    and every step its own copy of the weights, so that each path's error is the gradient of a copy."""

    def __init__(self, layer, step, x, states, lengths):
        self.step, self.count = step, len(states)
        self.up, self.along, self.new, self.weights, self.seen, self.given = {}, {}, {}, {}, {}, {}
        self.parameters = {}
        below = [[x[t, b] for t in range(lengths[b])] for b in range(B)]
        directions = range(layer.directions)
        for level in range(layer.num_layers):
            for d in directions:
                suffix = f"_l{level}{'_reverse' * d}"
                own = {n: p for n, p in layer.named_parameters() if n.endswith(suffix)}
                self.parameters[level, d] = oracles.Parameters(own, suffix)
                for t in range(T):
                    copies = {n: self._kept(p) for n, p in own.items()}
                    self.weights[level, d, t] = {n.removesuffix(suffix): c for n, c in copies.items()}
                    for b in range(B):
                        self.given[level, d, t, b] = oracles.Parameters(copies, suffix)
                for b in range(B):
                    state = tuple(s[level * len(directions) + d, b] for s in states)
                    times = range(lengths[b])
                    for t in reversed(times) if d else times:
                        place = level, d, t, b
                        self.seen[place] = below[b][t], state
                        new = step(self.given[place], below[b][t], *state)
                        self.new[place] = [self._kept(s) for s in new]
                        self.up[place] = self._kept(self.new[place][0])
                        state = self.along[place] = tuple(self._kept(s) for s in self.new[place])
            below = [[torch.cat([self.up[level, d, t, b] for d in directions]) for t in range(n)] for b, n in
                     enumerate(lengths)]  # fmt: skip
        self.output = below

    @staticmethod
    def _kept(value):
        copy = value * 1
        copy.retain_grad()
        return copy

    def norms(self, kept, level, d, pick=lambda v: v):
        found = torch.zeros(T, B, dtype=torch.float64)
        for (a, b, t, row), value in kept.items():
            if (a, b) == (level, d):
                error = pick(value).grad
                found[t, row] = 0.0 if error is None else error.norm()
        return found

    def one_step(self, place):
        """∂s_t/∂s_before by autograd."""
        x, state = self.seen[place]
        p = self.parameters[place[:2]]
        before = torch.cat([s.detach() for s in state])
        return jacobian(lambda s: torch.cat(self.step(p, x.detach(), *s.chunk(self.count))), before)


def chosen(loss_at, t, length):
    return t < length and (loss_at == "all" or t == (length - 1 if loss_at == "last" else loss_at))


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(("loss_at", "lengths"), [("last", LENGTHS), ("all", LENGTHS), (2, None)])
def test_every_number(name, loss_at, lengths):
    torch.manual_seed(1)
    layer, full = layer_of(name), lengths or [T] * B
    x, states = random(T, B, INPUTS), [random(4, B, H) for _ in layer.state_names]
    given = {"lengths": lengths} if lengths else {}
    state = states[0] if len(states) == 1 else tuple(states)
    found = tt.inspect.flow(layer, x, loss_at=loss_at, state=state, jacobians=B, **given)
    hand = ByHand(layer, oracles.STEPS[name], x, states, full)
    errors = [
        hand.output[b][t].square().sum() / 2 for b in range(B) for t in range(full[b]) if chosen(loss_at, t, full[b])
    ]
    loss = torch.stack(errors).sum()
    loss.backward()
    close = {"rtol": 1e-10, "atol": 1e-11}
    assert math.isclose(found.loss, loss.item(), rel_tol=1e-12)
    assert [f.name for f in found.layers] == ["layer 1", "layer 1 backward", "layer 2", "layer 2 backward"]
    for k, f in enumerate(found.layers):
        level, d = divmod(k, 2)
        torch.testing.assert_close(f.error["h"], hand.norms(hand.new, level, d, lambda v: v[0]), **close)
        torch.testing.assert_close(f.vertical, hand.norms(hand.up, level, d), **close)
        torch.testing.assert_close(f.horizontal, hand.norms(hand.along, level, d, lambda v: v[0]), **close)
        assert list(f.delta) == MAPS[name]
        for parameter in ("weight_ih", "weight_hh"):
            per_step = [hand.weights[level, d, t][parameter].grad for t in range(T)]
            blocks = {n: g for n, g in f.step_gradients.items() if n.startswith(f"{parameter}.")}
            shape = getattr(layer, f"{parameter}_l{level}")
            for t, wanted in enumerate(per_step):
                wanted = torch.zeros_like(shape) if wanted is None else wanted
                torch.testing.assert_close(torch.cat([g.at(t) for g in blocks.values()]), wanted, **close)
                total = torch.stack([g.norms[t] for g in blocks.values()]).norm()
                torch.testing.assert_close(total, wanted.norm(), rtol=1e-10, atol=1e-9)
        check_jacobians(f.jacobians, hand, level, d, loss_at, full)


def check_jacobians(found, hand, level, d, loss_at, lengths):
    close = {"rtol": 1e-10, "atol": 1e-11}
    sign = 1 if d else -1  # the way back in this direction
    for b in range(B):
        steps = {t: hand.one_step((level, d, t, b)) for t in range(lengths[b])}
        for t in range(T):
            torch.testing.assert_close(found.steps[t, b], steps.get(t, torch.zeros_like(found.steps[t, b])), **close)
        target = loss_at if isinstance(loss_at, int) else 0 if d else lengths[b] - 1
        product, t = torch.eye(found.steps.shape[-1], dtype=torch.float64), target
        met = set()
        while 0 <= t < lengths[b]:
            met.add(t)
            torch.testing.assert_close(found.between(target, t, b), product, **close)
            for name, own in found.states.items():
                values = torch.linalg.svdvals(product[own, own])
                torch.testing.assert_close(found.singular_values[name][t, b], values, **close)
                torch.testing.assert_close(found.norms[name][t, b], values[0], **close)
                pair = found.pair_norms(name, b)[target, t]
                torch.testing.assert_close(pair, torch.linalg.matrix_norm(product[own, own]), **close)
            product = product @ steps[t]
            t += sign
        for name in found.states:
            assert {t for t in range(T) if not found.norms[name][t, b].isnan()} == met


@pytest.mark.parametrize("name", tt.cells.catalogue)
def test_jacobians_of_every_cell(name):
    """All one-step Jacobians multiplied are ∂(final state)/∂(initial state)."""
    torch.manual_seed(2)
    layer = layer_of(name, num_layers=1, bidirectional=False).eval()
    x, starts = random(T, 1, INPUTS), random(len(layer.state_names) * H)
    state = [s.reshape(1, 1, H) for s in starts.chunk(len(layer.state_names))]
    found = tt.inspect.flow(layer, x, state=state[0] if len(state) == 1 else tuple(state)).layers[0]

    def final(start):
        states = [s.reshape(1, 1, H) for s in start.chunk(len(state))]
        return torch.cat([e.flatten() for e in oracles.run(oracles.STEPS[name], parameters, x, states)[1]])

    parameters = dict(layer.named_parameters())
    product = torch.eye(len(starts), dtype=torch.float64)
    for t in range(T):
        product = found.jacobians.steps[t, 0] @ product
    torch.testing.assert_close(product, jacobian(final, starts), rtol=1e-10, atol=1e-11)
    gradients = torch.autograd.grad(layer(x, *([tuple(state)] if len(state) > 1 else state))[0][-1].square().sum() / 2,
                                    list(layer.parameters()))  # fmt: skip
    by_name = dict(zip((n.removesuffix("_l0") for n, _ in layer.named_parameters()), gradients, strict=True))
    blocks = {n: torch.cat([g.total() for k, g in found.step_gradients.items() if k.split(".")[0] == n])
              for n in by_name if n.startswith("weight_")}  # fmt: skip
    for n, total in blocks.items():
        torch.testing.assert_close(total, by_name[n], rtol=1e-10, atol=1e-11)


def test_where_error_vanishes_and_explodes():
    steps = 30
    for scale, fate in ((0.5, "vanished_after"), (3.0, "exploded_after")):
        layer = tt.Recurrent(tt.cells.Elman("identity"), 2, 4, dtype=torch.float64)
        with torch.no_grad():
            layer.weight_hh_l0.copy_(scale * torch.eye(4))
        x = torch.zeros(steps, 3, 2, dtype=torch.float64)
        assert "no error enters" in str(tt.inspect.flow(layer, x, jacobians=0))  # the output is 0, and so is its error
        found = tt.inspect.flow(layer, x, loss=lambda output: output.sum(-1), loss_at="all").layers[0]
        torch.testing.assert_close(found.by_lag, scale ** torch.arange(steps, dtype=torch.float64), rtol=1e-9, atol=0)
        wanted = next(k for k in range(steps) if (scale**k < 0.01 if scale < 1 else scale**k > 100))
        assert getattr(found, fate) == wanted
        assert {found.vanished_after, found.exploded_after} == {wanted, None}
        norms = found.jacobians.norms["h"][:, 0]
        torch.testing.assert_close(norms, found.by_lag.flip(0), rtol=1e-9, atol=0)


def test_gates_histograms_and_spectrum():
    torch.manual_seed(3)
    layer = layer_of("gru", num_layers=1, bidirectional=False)
    with torch.no_grad():
        layer.weight_ih_l0.mul_(4)
    x = random(T, B, INPUTS)
    found = tt.inspect.flow(layer, x, lengths=LENGTHS).layers[0]
    _, _, trace = layer(x, lengths=LENGTHS, return_all=True)
    real = torch.arange(T).unsqueeze(1) < torch.tensor(LENGTHS)
    z, n = (trace[0].values[k].detach()[real] for k in "zn")
    assert found.gates["z"].low == pytest.approx((z < 0.1).double().mean().item(), abs=1e-12)
    assert found.gates["z"].high == pytest.approx((z > 0.9).double().mean().item(), abs=1e-12)
    assert found.gates["n"].low == pytest.approx((n < -0.9).double().mean().item(), abs=1e-12)
    torch.testing.assert_close(found.gates["z"].unit_high, (z > 0.9).double().mean(0))
    assert 0 < found.gates["z"].saturated < 1
    assert set(found.gates) == {"r", "z", "n"}
    counts = found.histograms["net.r"]
    assert counts.counts.sum() == sum(LENGTHS) * H
    inside = trace[0].values["net.r"].detach()[real].flatten()
    assert counts.edges[0] == inside.min()
    assert counts.counts[0] == (inside < counts.edges[1]).sum()
    matrix = layer.weight_hh_l0.detach()[H : 2 * H]
    assert found.spectra["z"].radius == pytest.approx(torch.linalg.eigvals(matrix).abs().max().item(), rel=1e-10)
    torch.testing.assert_close(found.spectra["z"].singular_values, torch.linalg.svdvals(matrix))
    assert set(found.spectra) == {"r", "z", "m"}


class Tagger(torch.nn.Module):
    """Word numbers -> embedding -> two stacks of different widths -> classes."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(11, INPUTS)
        self.first = tt.LSTM(INPUTS, H, batch_first=True)
        self.second = tt.GRU(H, 4, num_layers=2, dropout=0.5, batch_first=True)
        self.readout = torch.nn.Linear(4, 3)

    def forward(self, words, hx=None):
        states, _ = self.first(self.embedding(words), hx)
        return self.readout(self.second(states)[0])


def test_any_model_with_a_loss_of_its_own():
    torch.manual_seed(4)
    model = Tagger().double().eval()
    words, targets = torch.randint(11, (B, T)), torch.randint(3, (B, T))

    def loss(scores):
        return torch.nn.functional.cross_entropy(scores.transpose(1, 2), targets, reduction="none")

    model.requires_grad_(False)
    before = torch.random.get_rng_state()
    found = tt.inspect.flow(model, words, loss_at="all", loss=loss)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert [f.name for f in found.layers] == ["layer 1", "layer 2", "layer 3"]
    assert not found.notes
    model.requires_grad_(True)
    value = loss(model(words)).sum()
    value.backward()
    assert found.loss == pytest.approx(value.item(), rel=1e-12)
    for f, module, suffix in zip(found.layers, [model.first, model.second, model.second], ["l0", "l0", "l1"],
                                 strict=True):  # fmt: skip
        for parameter in ("weight_ih", "weight_hh"):
            total = torch.cat([g.total() for n, g in f.step_gradients.items() if n.startswith(parameter)])
            torch.testing.assert_close(total, getattr(module, f"{parameter}_{suffix}").grad, rtol=1e-10, atol=1e-12)


def test_training_mode_says_what_it_cannot_show():
    model = Tagger().double()
    found = tt.inspect.flow(model, torch.randint(11, (B, T)), loss=lambda scores: scores.sum(-1))
    assert found.notes == (
        "Jacobians are left out: the layer draws random numbers in training mode, so call model.eval() first",
    )
    assert [f.jacobians is None for f in found.layers] == [False, True, True]
    assert "note: Jacobians" in str(found)


@pytest.mark.parametrize("batch_first", [False, True])
def test_one_sequence_and_batch_first_are_the_same_numbers(batch_first):
    torch.manual_seed(5)
    layer = layer_of("lstm")
    x = random(T, B, INPUTS)
    wanted = tt.inspect.flow(layer, x, loss_at=1).to_dict(units=True)
    layer.batch_first = batch_first
    if batch_first:
        assert tt.inspect.flow(layer, x.transpose(0, 1), loss_at=1).to_dict(units=True) == wanted
    alone = tt.inspect.flow(layer, x[:, 0], loss_at=1)
    for found, f in zip(alone.layers, wanted["layers"], strict=True):
        torch.testing.assert_close(found.vertical[:, 0], torch.tensor([v[0] for v in f["vertical"]],
                                   dtype=torch.float64), rtol=1e-4, atol=1e-8)  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"connections": "residual", "num_layers": 3, "merge": "sum"},
        {"connections": "highway", "num_layers": 2, "merge": "mean", "learn_initial_state": True},
        {"connections": "dense", "layer_norm": True},
        {"heads": 2},
        {"bias": False, "hidden_size": [H, 4]},
    ],
    ids=str,
)
def test_every_kind_of_stack(options):
    """Jacobians and inputs of higher layers are right exactly if the sums over time are the layer's own gradients."""
    torch.manual_seed(6)
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64, "hidden_size": H} | options
    size = options.pop("hidden_size")
    layer = tt.Recurrent(tt.cells.GRU(reset="before") if "heads" not in options else tt.cells.GRU(), 6, size, **options)
    randomise(layer, 7)
    x = random(T, B, 6)
    found = tt.inspect.flow(layer, x, loss_at="all", lengths=LENGTHS, jacobians=B)
    output, _ = layer(x, lengths=LENGTHS)
    (output.square().sum() / 2).backward()
    for k, f in enumerate(found.layers):
        level, d = divmod(k, 2)
        for parameter in ("weight_ih", "weight_hh"):
            total = torch.cat([g.total() for n, g in f.step_gradients.items() if n.startswith(parameter)])
            wanted = getattr(layer, f"{parameter}_l{level}{'_reverse' * d}").grad
            torch.testing.assert_close(total, wanted, rtol=1e-10, atol=1e-11)
        assert_jacobians_carry_the_error(f, d, LENGTHS)


def assert_jacobians_carry_the_error(found, backwards, lengths):
    """The horizontal error is what the next step's Jacobian hands back."""
    for b, length in enumerate(lengths):
        for t in range(length):
            later = t - 1 if backwards else t + 1
            wanted = torch.zeros(found.jacobians.steps.shape[-1], dtype=torch.float64)
            if 0 <= later < length:
                errors = torch.cat([found.errors[s][later, b] for s in found.states])
                wanted = (found.jacobians.steps[later, b].T @ errors)[found.jacobians.states[found.states[0]]]
            torch.testing.assert_close(found.horizontal[t, b], wanted.norm(), rtol=1e-9, atol=1e-11)


class Timed(tt.Cell):
    """Other equations at other times, in the output and in a second state."""

    def step(self, x, h, c):
        new = tt.tanh(tt.affine("net", x, h) + c / (1 + tt.time()))
        return tt.where(tt.time() > 1, new, 0.5 * h * (1 + tt.time())), 0.9 * c + tt.time() * new


@pytest.mark.parametrize("options", [{}, {"layer_norm": "states", "zoneout": 0.1}, {"num_layers": 2}], ids=str)
@pytest.mark.parametrize("resets", [False, True])
def test_jacobians_of_a_cell_that_knows_the_time(options, resets):
    torch.manual_seed(10)
    layer = tt.Recurrent(Timed(), INPUTS, H, bidirectional=True, dtype=torch.float64, **options)
    randomise(layer.eval(), 11)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[2, 1:] = True
    signals = {"reset": reset} if resets else {}
    found = tt.inspect.flow(layer, random(T, B, INPUTS), loss_at="all", lengths=LENGTHS, jacobians=B, **signals)
    assert not found.notes
    for k, f in enumerate(found.layers):
        assert f.horizontal.max() > 0
        assert_jacobians_carry_the_error(f, k % 2, LENGTHS)


def test_a_reset_cuts_the_jacobian_and_the_error():
    torch.manual_seed(8)
    layer = layer_of("mgu", num_layers=1)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[3] = True
    found = tt.inspect.flow(layer, random(T, B, INPUTS), loss_at="all", reset=reset)
    forward, backward = found.layers
    assert forward.jacobians.steps[3].abs().max() == 0 < forward.jacobians.steps[2].abs().max()
    assert backward.jacobians.steps[2].abs().max() == 0 < backward.jacobians.steps[3].abs().max()
    assert forward.horizontal[2].max() == 0 < forward.horizontal[1].min()


def test_word_numbers_are_one_hot_vectors():
    torch.manual_seed(9)
    layer = layer_of("gru")
    words = torch.randint(INPUTS, (T, B))
    one_hot = torch.nn.functional.one_hot(words, INPUTS).double()
    a, b = (tt.inspect.flow(layer, x, loss_at="all").to_dict(units=True, digits=9) for x in (words, one_hot))
    assert a["layers"][0]["step_gradients"].keys() == b["layers"][0]["step_gradients"].keys()
    for name, norms in a["layers"][0]["step_gradients"].items():
        assert norms == pytest.approx(b["layers"][0]["step_gradients"][name], rel=1e-7)
    assert a["layers"][3]["error"]["h"] == b["layers"][3]["error"]["h"]


def test_as_json():
    layer = layer_of("lstm").float()
    found = tt.inspect.flow(layer, torch.randn(T, B, INPUTS), lengths=LENGTHS)
    read = json.loads(json.dumps(found.to_dict(units=True), allow_nan=False))
    assert read["layers"][0]["jacobians"]["norms"]["c"][4][0] == 1
    assert read["layers"][1]["name"] == "layer 1 backward"
    assert len(read["layers"][2]["values"]["net.f"]) == T
    assert "units" not in read
    assert "values" not in found.to_dict()["layers"][0]


def test_mistakes():
    layer = layer_of("rnn")
    x = random(T, B, INPUTS)
    with pytest.raises(ValueError, match='loss_at should be "last", "all" or the number of a step from 0, got -1'):
        tt.inspect.flow(layer, x, loss_at=-1)
    with pytest.raises(ValueError, match="loss_at is step 9, but the longest sequence has 5 steps"):
        tt.inspect.flow(layer, x, loss_at=9)
    with pytest.raises(ValueError, match=r"one number for each step and sequence, \[T, B\] = \(5, 4\), got the shape"):
        tt.inspect.flow(layer, x, loss=lambda output: output.sum())
    with pytest.raises(TypeError, match=r"Linear ran none: tt.convert makes torch.nn's layers into such"):
        tt.inspect.flow(torch.nn.Linear(3, 3), torch.zeros(2, 3))


def test_the_last_states_error_is_the_loss(tmp_path):
    layer = layer_of("gru", num_layers=1, bidirectional=False)
    x = random(T, 1, INPUTS)
    found = tt.inspect.flow(layer, x).layers[0]
    output = flat(layer(x))[0]
    torch.testing.assert_close(found.vertical[-1, 0], output[-1, 0].detach().norm(), rtol=1e-12, atol=0)
    assert found.vertical[:-1].abs().max() == 0
