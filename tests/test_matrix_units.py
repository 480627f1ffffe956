"""Products by matrix units (AMX), of numbers cut into bfloat16 pieces, against float64 and against torch.nn."""

import os
import subprocess
import sys

import pytest
import torch

import throughtime as tt
from throughtime.nn.libraries import has_matrix_units
from throughtime.nn.matmul import Products, matrix


@pytest.fixture
def units():
    if not has_matrix_units("float32"):
        pytest.skip("this processor has no matrix units, or they may not be used")


needs_units = pytest.mark.usefixtures("units")


def product(left, right, **options):
    out = torch.full((left.shape[0], right.shape[1]), 7.0)
    batch = Products(torch.float32)
    batch.add(matrix(left), matrix(right), matrix(out), **options)
    batch.run()
    return out


def laid_out(tensor, transposed):
    return tensor.t().contiguous().t() if transposed else tensor


SIZES = [(256, 192, 32), (300, 200, 33), (517, 331, 700), (1000, 193, 129)]


@needs_units
@pytest.mark.parametrize("of_left", [False, True])
@pytest.mark.parametrize("of_right", [False, True])
@pytest.mark.parametrize("rows, columns, depth", SIZES)
def test_products_round_no_more_than_float32_does(rows, columns, depth, of_left, of_right):
    generator = torch.Generator().manual_seed(rows)
    # Numbers of very unlike sizes: an error that is small beside the largest of them is not small beside the others.
    sizes = torch.exp2(torch.randint(-40, 40, (rows, 1), generator=generator))
    left = torch.randn(rows, depth, generator=generator) * sizes
    right = torch.randn(depth, columns, generator=generator)
    found = product(laid_out(left, of_left), laid_out(right, of_right)).double()
    exact, scale = left.double() @ right.double(), left.double().abs() @ right.double().abs()
    theirs = ((left @ right).double() - exact).abs() / scale
    ours = (found - exact).abs() / scale
    assert ours.mean() <= theirs.mean()
    assert ours.max() < 4 * 2**-24


@pytest.mark.parametrize("bits_left, bits_right", [(7, 7), (7, 15), (15, 7), (7, 22), (22, 2), (11, 11)])
def test_whole_numbers_are_multiplied_exactly(bits_left, bits_right):
    # So many bits need one to three pieces; sums stay below 2^24.
    generator = torch.Generator().manual_seed(0)
    rows, columns, depth = 300, 220, 70
    left = torch.randint(-(2**bits_left) + 1, 2**bits_left, (rows, depth), generator=generator).float()
    right = torch.randint(-(2**bits_right) + 1, 2**bits_right, (depth, columns), generator=generator).float()
    most = max(1, 2 ** (24 - bits_left - bits_right))
    right[torch.rand(depth, columns, generator=generator) > 0.4 * most / depth] = 0
    exact = left.double() @ right.double()
    safe = left.double().abs() @ right.double().abs() < 2**24
    assert safe.float().mean() > 0.5
    assert torch.equal(product(left, right).double()[safe], exact[safe])


@pytest.mark.parametrize("exponent", [-100, -112, -120, -128, -140, -149])
@pytest.mark.parametrize("on_left", [False, True])
def test_tiny_numbers_beside_others(exponent, on_left):
    # Numbers that share a lane: a subnormal piece of one must not reach the other.
    bound = 1e-5 if has_matrix_units("float32") else 2e-5  # without them a chain is rounded more often
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(300, 96, generator=generator), torch.randn(96, 200, generator=generator)
    for first in (16, 0, 5):
        one, other = left.clone(), right.clone()
        tiny = one[:, first::16] if on_left else other[first::16]
        tiny *= 2.0**exponent
        exact = one.double() @ other.double()
        assert torch.allclose(product(one, other).double(), exact, rtol=0, atol=bound)
        assert torch.allclose(product(laid_out(one, True), other).double(), exact, rtol=0, atol=bound)


def test_sums_that_stand_there_and_lists_of_rows():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(800, 90, generator=generator), torch.randn(90, 200, generator=generator)
    rows, depth = torch.arange(3, 790, 2), torch.arange(0, 90, 2)
    exact = left.double() @ right.double()
    found = product(left, right, more=True)
    assert torch.allclose(found.double(), exact + 7, rtol=0, atol=2e-5)
    found = product(left, right, rows=rows, clear=True)
    assert torch.allclose(found[rows].double(), exact[rows], rtol=0, atol=2e-5)
    assert int(found.count_nonzero()) == len(rows) * 200
    found = product(left, right, depth=depth)
    assert torch.allclose(found.double(), left[:, depth].double() @ right[depth].double(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), 3e38, -2e38, 9e18, 1e19])
@pytest.mark.parametrize("on_left", [False, True])
def test_infinite_and_huge_numbers_in_products(value, on_left):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(300, 90, generator=generator), torch.randn(90, 200, generator=generator)
    (left if on_left else right)[70, 5] = value
    found, expected = product(left, right), left @ right
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert torch.equal(found.isinf(), expected.isinf())


def gradients(layer, x, states, output, end, errors):
    leaves = [x, *states, *layer.parameters()]
    ends = [end] if isinstance(end, torch.Tensor) else list(end)
    results = [output, *ends]
    total = sum((r * e.to(r.dtype)).sum() for r, e in zip(results, errors, strict=True))
    return [*results, *torch.autograd.grad(total, leaves)]


def run(layer, dtype, batch, lengths, rows=slice(None)):
    """Output, final states and gradients."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(shape, generator=generator).to(dtype)  # noqa: E731
    x = draw(13, batch, 21)[:, rows].contiguous().requires_grad_()
    states = [draw(2, batch, 37)[:, rows].contiguous().mul(0.3).requires_grad_() for _ in layer.state_names]
    output, end = layer(x, states[0] if len(states) == 1 else tuple(states), lengths=lengths)
    errors = [draw(13, batch, 74)[:, rows], *(draw(2, batch, 37)[:, rows] for _ in states)]
    return gradients(layer, x, states, output, end, errors)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(tt.cells.catalogue))
def test_every_cell_as_exactly_as_float32(name, stored):
    # float64 never uses matrix units; it is held to the equations elsewhere.
    layer = tt.Recurrent(tt.cells.catalogue[name](), 21, 37, bidirectional=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_((0.3 * torch.randn(p.shape, generator=generator)).to(stored))
    double = tt.Recurrent(tt.cells.catalogue[name](), 21, 37, bidirectional=True).double()
    double.load_state_dict(layer.state_dict())
    lengths = torch.tensor([(5 * b) % 14 for b in range(19)])
    found, expected = run(layer, torch.float32, 19, lengths), run(double, torch.float64, 19, lengths)
    for mine, exact in zip(found, expected, strict=True):
        assert (mine.double() - exact).norm() <= 2e-6 * exact.norm() + 1e-6


def test_weights_of_which_only_the_first_numbers_are_bfloat16():
    # They are cut into one piece each at first, which turns out not to be enough.
    torch.manual_seed(0)
    ours, theirs = tt.GRU(40, 50), torch.nn.GRU(40, 50)
    with torch.no_grad():
        for p in (ours.weight_ih_l0, ours.weight_hh_l0):
            p[:, 0] = p[0] = 0.5
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(9, 16, 40)
    assert torch.allclose(ours(x)[0], theirs(x)[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_for_any_batch_of_sixteen_and_more(threads):
    layer = tt.LSTM(21, 37, bidirectional=True)
    kept = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        whole = run(layer, torch.float32, 40, None)
        part = run(layer, torch.float32, 40, None, rows=slice(11, 29))
        torch.set_num_threads(3 - threads)
        again = run(layer, torch.float32, 40, None)
    finally:
        torch.set_num_threads(kept)
    assert torch.equal(whole[0][:, 11:29], part[0])
    assert torch.equal(whole[4][:, 11:29], part[4])  # of the initial states
    for one, other in zip(whole, again, strict=True):
        assert torch.equal(one, other)


SPECIAL = {"x inf": float("inf"), "x huge": 3e38, "h inf": -float("inf"), "h nan": float("nan"), "w inf": float("inf"),
           "r inf": -float("inf"), "w nan": float("nan")}  # fmt: skip


@pytest.mark.parametrize("place", SPECIAL)
@pytest.mark.parametrize("name, options", [("RNN", {}), ("RNN", {"nonlinearity": "relu"}), ("GRU", {}), ("LSTM", {})])
def test_infinite_numbers_in_layers(name, options, place):
    torch.manual_seed(0)
    ours, theirs = getattr(tt, name)(40, 50, 2, **options), getattr(torch.nn, name)(40, 50, 2, **options)
    value = SPECIAL[place]
    with torch.no_grad():
        if place[0] == "w":
            ours.weight_ih_l0[3, 4] = value
        if place[0] == "r":
            ours.weight_hh_l0[3, 4] = value
    theirs.load_state_dict(ours.state_dict())
    x, h, c = torch.randn(11, 19, 40), torch.randn(2, 19, 50), torch.randn(2, 19, 50)
    if place[0] == "x":
        x[3, 2, 1] = value
    if place[0] == "h":
        h[0, 5, 3] = value
    state = (h, c) if name == "LSTM" else h
    with torch.no_grad():
        found, expected = ours(x, state)[0], theirs(x, state)[0]
    largest = expected[expected.isfinite()].abs().max() if expected.isfinite().any() else torch.tensor(0.0)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())
    assert torch.allclose(found, expected, rtol=1e-5, atol=float(1e-5 + 1e-6 * largest), equal_nan=True)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_sessions_of_many_steps(name):
    """The numbers of a whole call, after other weights too, infinite ones among them."""
    torch.manual_seed(0)
    layer, x = getattr(tt, name)(40, 50, 2), torch.randn(30, 17, 40)
    session = layer.session(17)
    for value in (None, 0.25, float("inf"), 0.5):
        if value is not None:
            with torch.no_grad():
                layer.weight_ih_l0[3, 4] = layer.weight_hh_l1[5, 6] = value
        session.refresh()
        session.reset()
        with torch.no_grad():
            whole = layer(x)[0]
        assert torch.equal(torch.cat([session.run(x[:11]), session.run(x[11:])]).nan_to_num(9), whole.nan_to_num(9))
        session.reset()
        steps = torch.stack([session.step(v).clone() for v in x])
        assert torch.allclose(steps, whole, rtol=0, atol=2e-6, equal_nan=True)


SCRIPT = """
import torch, throughtime as tt
torch.manual_seed(0)
layer, x = tt.GRU(64, 64), torch.randn(20, 16, 64)
print(torch.equal(layer(x)[0][:, :1], layer(x[:, :1])[0]), "AMX" in str(tt.explain(layer, x)))
"""


def said(**variables):
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.split()


def test_they_can_be_switched_off():
    # One sequence is multiplied without them, so its bits tell whether they were used for sixteen.
    assert said(THROUGHTIME_MATRIX_UNITS="0") == ["True", "False"]


@needs_units
def test_they_are_used():
    assert said(THROUGHTIME_MATRIX_UNITS="1") == ["False", "True"]


@needs_units
def test_explain_counts_the_pieces():
    layer = tt.LSTM(150, 150)
    sizes = [tt.explain(layer, shape).layers[0].kernels[0].packed_bytes
             for shape in ((8, 15, 150), (7, 16, 150), (8, 16, 150))]  # fmt: skip
    numbers = 4 * 5 * 32  # panels of 32 units for four gates; each matrix is 150 deep: 5 blocks of 32
    whole = 2 * numbers * 150 * 4
    assert sizes == [whole, whole, 2 * numbers * 5 * 32 * 6]
    narrow = tt.explain(layer.bfloat16(), (8, 1, 150))
    assert narrow.layers[0].kernels[0].packed_bytes == 2 * numbers * 5 * 32 * 2
    assert any("bfloat16 weights" in note for note in narrow.notes)
