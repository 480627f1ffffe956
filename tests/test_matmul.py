"""The package's own matrix products against torch's in float64."""

import itertools
import re

import pytest
import torch

from throughtime.codegen.source import products_source, skeletons
from throughtime.nn.matmul import PIECE, Products, flat_matrix, is_flat, laid_out, matrix

SIZES = [(1, 1, 1), (7, 33, 5), (100, 150, 301), (13, 1, 700), (5, 17, 1), (64, 64, 64), (257, 40, 129)]
SIZES += [(1200, 700, 3), (1200, 700, 8), (47, 260, 152), (33, 61, 700), (150, 97, 161)]


def error(a, b):
    return ((a.double() - b).norm() / b.norm()).item()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("rows, columns, depth", SIZES)
def test_products(rows, columns, depth, dtype, tolerance):
    torch.manual_seed(0)
    for of_left, of_right, chain, more in itertools.product((False, True), (False, True), (0, 96, 7), (False, True)):
        left = torch.randn(depth, rows, dtype=dtype).t() if of_left else torch.randn(rows, depth, dtype=dtype)
        right = torch.randn(columns, depth, dtype=dtype).t() if of_right else torch.randn(depth, columns, dtype=dtype)
        out = torch.full((rows + 2, columns + 3), 7.0, dtype=dtype)
        place = out[1:-1, 1:-2]
        expected = left.double() @ right.double() + (place.double() if more else 0)
        batch = Products(dtype)
        batch.add(matrix(left), matrix(right), matrix(place), chain=chain, more=more)
        batch.run()
        assert error(place, expected) < tolerance
        place.fill_(7.0)
        assert bool((out == 7).all())  # nothing outside was touched


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("size, columns, listed", [(50, 20, 6), (50, 20, 13), (400, 120, 333)])
def test_only_the_listed_rows_and_depths(transposed, size, columns, listed):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(size, size, generator=generator), torch.randn(size, columns, generator=generator)
    rows, depth = (torch.randperm(size, generator=generator)[:listed].sort().values for _ in range(2))
    poisoned = left.clone()
    poisoned[torch.ones(size, dtype=torch.bool).scatter(0, rows, False)] = float("nan")
    given = poisoned.t().contiguous().t() if transposed else poisoned
    out = torch.zeros(size, columns)
    batch = Products(torch.float32)
    batch.add(matrix(given), matrix(right), matrix(out), rows=rows)
    batch.run()
    assert error(out[rows], left[rows].double() @ right.double()) < 1e-6
    assert int(out.count_nonzero()) == listed * columns
    batch = Products(torch.float32)
    poisoned = right.clone()
    poisoned[torch.ones(size, dtype=torch.bool).scatter(0, depth, False)] = float("nan")
    given = left.t().contiguous().t() if transposed else left
    batch.add(matrix(given), matrix(poisoned), matrix(out), depth=depth)
    batch.run()
    assert error(out, left[:, depth].double() @ right[depth].double()) < 1e-6


@pytest.mark.parametrize("rows", [[], [0], [799], list(range(800)), list(range(3, 790, 7)), list(range(400))])
def test_rows_that_are_not_listed_are_cleared(rows):
    left, right, before = torch.randn(800, 130), torch.randn(130, 170), torch.get_num_threads()
    listed = torch.tensor(rows, dtype=torch.int64)
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            out = torch.full((800, 171), float("nan"))
            batch = Products(torch.float32)
            batch.add(matrix(left), matrix(right), matrix(out[:, :170]), rows=listed, clear=True)
            batch.run()
            expected = torch.zeros(800, 170, dtype=torch.float64)
            expected[rows] = left[rows].double() @ right.double()
            torch.testing.assert_close(out[:, :170].double(), expected, rtol=1e-4, atol=1e-4)
            assert out[:, 170].isnan().all()
    finally:
        torch.set_num_threads(before)


def test_the_same_bits_for_any_number_of_threads():
    torch.manual_seed(0)
    left, right, before = torch.randn(700, 300), torch.randn(300, 500), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            out, gradient = torch.empty(700, 500), torch.empty(300, 500)
            batch = Products(torch.float32)
            batch.add(matrix(left), matrix(right), matrix(out))
            batch.run()
            batch.add(matrix(left).t, matrix(out), matrix(gradient), chain=96)
            batch.run()
            found.append((out, gradient))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for each in found for a, b in zip(each, found[0], strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_any_shape_list_and_number_of_threads(seed):
    generator = torch.Generator().manual_seed(seed)

    def number(most):
        return int(torch.randint(1, most + 1, (), generator=generator))

    rows, columns, depth = (
        number((40, 300)[seed % 3 > 0]),
        number((40, 200)[seed % 4 > 0]),
        number((9, 400)[seed % 5 > 0]),
    )
    listed, deep = rows + number(50), depth + number(50)
    left = torch.randn(listed, deep, generator=generator)
    right = torch.randn(deep, columns, generator=generator)
    if seed % 6 == 0:  # numbers that need but one piece
        right = right.bfloat16().float()
    some = torch.randperm(listed, generator=generator)[:rows].sort().values if seed % 2 else None
    steps = torch.randperm(deep, generator=generator)[:depth].sort().values if seed % 7 < 3 else None
    exact = (left if steps is None else left[:, steps]).double() @ (right if steps is None else right[steps]).double()
    out, before = torch.full((listed, columns), 3.0), torch.get_num_threads()
    given = left.t().contiguous().t() if seed % 3 == 1 else left
    other = right.t().contiguous().t() if seed % 5 == 2 else right
    try:
        torch.set_num_threads(1 + seed % 5)
        batch = Products(torch.float32)
        batch.add(matrix(given), matrix(other), matrix(out), chain=64, more=seed % 4 == 1, rows=some, depth=steps)
        batch.run()
    finally:
        torch.set_num_threads(before)
    expected = exact + 3 if seed % 4 == 1 else exact
    if some is not None:
        untouched = torch.ones(listed, dtype=torch.bool).scatter(0, some, False)
        assert bool((out[untouched] == 3).all())
        out, expected = out[some], expected[some]
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-4)


def test_layouts():
    steps, rows, width = 5, 3, 4
    time_first = torch.randn(steps, rows, width)
    batch_first = torch.randn(rows, steps, width).transpose(0, 1)
    assert is_flat(time_first, False) and not is_flat(time_first, True)
    assert is_flat(batch_first, True) and not is_flat(batch_first, False)
    assert flat_matrix(time_first)[1:] == flat_matrix(batch_first)[1:] == (15, 4, 4, 1)
    expanded = torch.randn(1, 1, width).expand(steps, rows, width)
    assert not is_flat(expanded, False)
    for batched in (False, True):
        copied = laid_out(expanded, batched)
        assert is_flat(copied, batched) and torch.equal(copied, expanded)
    assert flat_matrix(torch.randn(1, 3, 4))[1:4] == (3, 4, 4)
    assert flat_matrix(torch.randn(3, 1, 4).transpose(0, 1))[1:4] == (3, 4, 4)


def test_sessions_sum_in_the_same_pieces():
    assert int(re.search(r"int64_t piece = (\d+);", skeletons(products_source("float32"))["product.h"])[1]) == PIECE
