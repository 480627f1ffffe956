"""The same bits: from run to run, for any number of threads, any neighbours in the batch, any cut along time.

Where there are matrix units, they are used from 16 sequences and 8 steps on: batches and cuts are compared on one side.

Products that go through torch's BLAS may round differently with the batch and its threads, so where those change the
input is word numbers, for which the input product is a choice of columns, and the gradients compared are the loop's.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import throughtime as tt

H, WORDS = 33, 9
T, B = 50, 37
LENGTHS = [(7 * b) % (T + 1) for b in range(B)]


class Noisy(tt.Cell):
    """Every kind of noise: drawn for a sequence, for a step, and by zoneout."""

    def step(self, x, h):
        seen = tt.dropout("variational", h, 0.3)
        candidate = tt.tanh(tt.affine("net", x, tt.dropout("each", seen, 0.2, fixed=False)))
        return tt.zoneout("zone", h, candidate, 0.1)


CELLS = {**tt.cells.catalogue, "noisy": Noisy}


def make(name, **options):
    layer = tt.Recurrent(CELLS[name](), WORDS, H, bidirectional=True, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(0.4 * torch.randn(p.shape, generator=generator))
    return layer


def words(rows=B):
    return torch.randint(WORDS, (T, rows), generator=torch.Generator().manual_seed(1))


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def results(layer, x, lengths, rows=slice(None), seed=5):
    """Output, final states, gradients of the initial states, then those of the parameters."""
    torch.manual_seed(seed)
    count = x.shape[1]
    states = [draw(2, B, H, seed=2 + k)[:, rows][:, :count].requires_grad_() for k in range(len(layer.state_names))]
    output, end = layer(x, states[0] if len(states) == 1 else tuple(states), lengths=lengths)
    ends = [end] if isinstance(end, torch.Tensor) else list(end)
    errors = [draw(T, B, 2 * H, seed=7)[:, rows], *(draw(2, B, H, seed=8)[:, rows] for _ in ends)]
    leaves = [*states, *layer.parameters()]
    gradients = torch.autograd.grad([output, *ends], leaves, errors, materialize_grads=True)
    return [output, *ends, *gradients[: len(states)]], list(gradients[len(states) :])


def same_bits(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", CELLS)
def test_the_same_bits_from_run_to_run(name):
    """All of it, the products outside the loop included, on the threads that torch has."""
    layer, x = make(name), words()
    first = results(layer, x, LENGTHS)
    assert first[0][0].isfinite().all() and all(g.any() for g in first[1])
    for _ in range(3):
        again = results(layer, x, LENGTHS)
        assert same_bits(again[0], first[0]) and same_bits(again[1], first[1])


@pytest.mark.parametrize("name", CELLS)
def test_the_same_bits_for_any_number_of_threads(name, monkeypatch):
    """The loop's number of threads alone is changed; torch's own stays."""
    layer, x = make(name), words()
    found, cuts = [], set()
    for threads in (1, 2, 3, 4, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        _, forward, _ = tt.explain(layer, x).layers[0].kernels
        cuts.add((forward.cut.slices, forward.cut.threads))
        assert forward.cut.threads > 1 or threads == 1
        found.append(results(layer, x, LENGTHS))
        assert same_bits(found[-1][0], found[0][0]), f"{threads} threads"
        assert same_bits(found[-1][1], found[0][1]), f"{threads} threads"
    assert len(cuts) >= 3  # the work was really cut in several ways


@pytest.mark.parametrize("name", CELLS)
def test_the_same_bits_among_any_neighbours(name):
    """A sequence alone, and some of them, are what they are among all. (Noise goes by the number of the sequence.)"""
    layer, x = make(name), words()
    layer.train(name != "noisy")
    for among, parts in ((slice(0, 15), (slice(3, 4), slice(0, 5))), (slice(0, B), (slice(11, 30), slice(0, 16)))):
        whole, _ = results(layer, x[:, among], LENGTHS[among], among)
        for rows in parts:
            part, _ = results(layer, x[:, rows], LENGTHS[rows], rows)
            assert all(torch.equal(a, b[:, rows]) for a, b in zip(part, whole, strict=True)), rows


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("recompute, rows", [(1, 15), (7, 15), (13, B), (50, B), (64, B)])
def test_the_same_bits_for_any_cut_along_time(name, recompute, rows):
    """Noise included: it goes by the number of the step."""
    x, some = words(rows), slice(0, rows)
    whole, _ = results(make(name), x, LENGTHS[some], some)
    parts, _ = results(make(name, recompute=recompute), x, LENGTHS[some], some)
    assert same_bits(parts, whole)


def test_another_seed_is_other_noise():
    layer, x = make("noisy"), words()
    first, other = results(layer, x, LENGTHS), results(layer, x, LENGTHS, seed=6)
    assert not torch.equal(first[0][0], other[0][0])
    layer.eval()
    assert same_bits(results(layer, x, LENGTHS)[0], results(layer, x, LENGTHS, seed=6)[0])


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "mgu", "lstm-layernorm"])
@pytest.mark.parametrize("rows, directions", [(1, 1), (3, 1), (1, 2), (9, 1)])
def test_whole_layers_and_teams_of_threads(name, rows, directions):
    """Products included, vectors as input; with so many units, threads share those of a few sequences."""
    layer = tt.Recurrent(tt.cells.catalogue[name](), 20, 300, bidirectional=directions == 2)
    x, lengths = draw(12, rows, 20, seed=1).requires_grad_(), [12, 0, 5, 7, 12, 1, 2, 3, 4][:rows]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4, 5):
            torch.set_num_threads(threads)
            output, _ = layer(x, lengths=lengths)
            error = draw(*output.shape, seed=2)
            found.append([output.detach(), *torch.autograd.grad(output, [x, *layer.parameters()], error)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for each in found for a, b in zip(each, found[0], strict=True))


class Levelled(tt.Cell):
    """Single numbers of every kind: totals, what follows from them, and a signal that wants its gradient."""

    def step(self, x, h):
        net = tt.affine("net", x, h)
        level = tt.mean(net)
        return tt.tanh((net - level) * tt.signal("share") * tt.sigmoid(level) + 0.1 * h)


def test_members_of_a_team_make_single_numbers_each_for_itself():
    layer = tt.Recurrent(Levelled(), 20, 300, dtype=torch.float64)
    reference = tt.Recurrent(Levelled(), 20, 300, dtype=torch.float64, backend="reference")
    reference.load_state_dict(layer.state_dict())
    x, share = draw(12, 1, 20, seed=1).double().requires_grad_(), draw(12, 1, seed=2).double().requires_grad_()
    before, found = torch.get_num_threads(), []

    def gradients(layer):
        output = layer(x, share=share)[0]
        error = draw(12, 1, 300, seed=3).double()
        return [output.detach(), *torch.autograd.grad(output, [x, share, *layer.parameters()], error)]

    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(gradients(layer))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for each in found for a, b in zip(each, found[0], strict=True))
    for ours, other in zip(found[0], gradients(reference), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm-layernorm", "lstm-mogrifier"])
@pytest.mark.parametrize(
    "units, rows, steps", [(5, 1, 1), (70, 1, 1), (150, 4, 1), (150, 5, 1), (96, 33, 1), (1024, 2, 2)]
)
def test_matrices_that_are_not_packed(name, units, rows, steps):
    """Calls of few steps read them as they lie, or pack them piece by piece: the same bits as in a longer call."""
    if units == 1024 and name != "gru":
        pytest.skip("one cell with large matrices is enough")
    layer = tt.Recurrent(tt.cells.catalogue[name](), 70 if units < 1024 else units, units)
    x, before = draw(6, rows, layer.input_size, seed=1), torch.get_num_threads()
    with torch.no_grad():
        whole, _ = layer(x)
        try:
            for threads in (1, 2, 8):
                torch.set_num_threads(threads)
                state, parts = None, []
                for part in x.split(steps):
                    output, state = layer(part, state)
                    parts.append(output)
                assert torch.equal(torch.cat(parts), whole)
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_matrices_that_no_single_core_keeps(cell):
    """Tiles of unlike heights, and few sequences that threads do not share out: each sequence's bits are its own."""
    layer, rows = getattr(tt, cell)(20, 420), 31
    x, before = draw(5, rows, 20, seed=1).requires_grad_(), torch.get_num_threads()

    def results(some):
        output, _ = layer(x[:, some])
        error = draw(5, rows, 420, seed=2)[:, some]
        return output.detach(), *torch.autograd.grad(output, [x, *layer.parameters()], error)

    try:
        whole = results(slice(None))
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(results(slice(None)), whole, strict=True))
            for some in (slice(0, 1), slice(3, 16), slice(5, 31)):
                output, d_x, *_ = results(some)
                assert torch.equal(output, whole[0][:, some]) and torch.equal(d_x[:, some], whole[1][:, some])
    finally:
        torch.set_num_threads(before)


TEAM = """
import torch, throughtime as tt
layer, x, error = tt.GRU(8, 300), torch.randn(9, 1, 8), torch.randn(9, 1, 300)
found = []
for threads, times in ((1, 1), (2, 6000)):
    torch.set_num_threads(threads)
    for _ in range(times):
        found.append(torch.autograd.grad(layer(x)[0], list(layer.parameters()), error))
        if threads > 1:
            assert all(torch.equal(a, b) for a, b in zip(found.pop(), found[0], strict=True))
"""


def test_a_team_ends_together():
    """Memory that the leader has freed is overwritten here: whoever still reads it gives other numbers."""
    command = [sys.executable, "-c", TEAM]
    done = subprocess.run(command, env={**os.environ, "MALLOC_PERTURB_": "170"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("steps, rows, batch_first", [(1, 3, False), (1, 70, True), (3, 70, False), (3, 70, True)])
@pytest.mark.parametrize("name", sorted(tt.cells.catalogue))
def test_no_state_is_a_state_of_zeros(name, steps, rows, batch_first):
    """Products with states that are not given are left out; bit for bit nothing else may change."""
    layer = tt.Recurrent(tt.cells.catalogue[name](), 6, 21, num_layers=2, bidirectional=True, batch_first=batch_first)
    x = torch.randn((rows, steps, 6) if batch_first else (steps, rows, 6), requires_grad=True)
    zeros = tuple(torch.zeros(4, rows, width) for width in layer.state_sizes)
    found = []
    for given in (None, zeros if len(zeros) > 1 else zeros[0]):
        output, end = layer(x, given)
        ends = end if isinstance(end, tuple) else (end,)
        error = sum((v * torch.linspace(-1, 1, v.numel()).view_as(v)).sum() for v in (output, *ends))
        found.append([output, *ends, *torch.autograd.grad(error, [x, *layer.parameters()])])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_first_step_without_state_does_not_read_the_recurrent_matrix():
    layer = tt.GRU(5, 19)
    with torch.no_grad():
        layer.weight_hh_l0.fill_(float("nan"))
    x = torch.randn(2, 7, 5, requires_grad=True)
    output, _ = layer(x[:1])
    output.sum().backward()
    assert output.isfinite().all()
    assert (layer.weight_hh_l0.grad == 0).all()
    assert layer(x)[0][1].isnan().all()
