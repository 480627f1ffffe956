"""The kernels' vector functions: error bounds, special values, equal bits everywhere, partial access.

`python tests/test_functions.py --all [function ...]` measures the float functions over all 2^32 bit patterns, some
minutes each, and records what it found in golden/function_errors.json.
"""

from __future__ import annotations

import functools
import itertools
import math
import subprocess
import sys

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from function_driver import (
    BOUNDS,
    COMPILERS,
    EXACT,
    FORMATS,
    PRECISE,
    REFERENCE,
    Library,
    checksum,
    errors,
    guard,
    marches,
    measure_all,
    patterns,
    read_record,
)
from throughtime.symbolic.functions import OPERATIONS


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[Library]:
    """Every compiler with every processor; the first is the one that measurements use."""
    if not COMPILERS:
        pytest.skip("there is no C++ compiler")
    directory = tmp_path_factory.mktemp("functions")
    return [Library(compiler, march, directory) for compiler in COMPILERS for march in marches()]


@pytest.fixture
def library(libraries: list[Library]) -> Library:
    return libraries[0]


def near(values: list[float], count: int = 3000) -> NDArray:
    """The `count` floats on either side of each value, in ascending order for ascending positive values."""
    starts = [int(np.float32(v).view(np.uint32)) for v in values]
    return np.concatenate([patterns(s - count, s + count) for s in starts])


# Where tanh and exp change from one power of two to the next, and where their results end.
TANH_STEPS = [(k + 0.5) * math.log(2) / 2 for k in range(28)]
EXP_STEPS = [(k + 0.5) * math.log(2) for k in range(-151, 129)]
ENDS = [9.0109, 17.33, 87.3365, 88.376, 88.7228, -103.2789, -103.972, -87.3365, -17.33, 2.0**-126, 1.0, -1.0]


def test_the_table_of_bounds_is_complete_and_as_promised() -> None:
    assert set(BOUNDS) == set(REFERENCE) == set(PRECISE)
    assert BOUNDS["tanh"][0] <= 1 and BOUNDS["exp"][0] <= 1 and BOUNDS["sigmoid"][0] <= 2
    assert all(double <= 2 for _, double in BOUNDS.values())


@pytest.mark.parametrize("name", BOUNDS)
def test_float_errors_are_within_the_bound(name: str, library: Library) -> None:
    x = patterns(0, 1 << 32, 2003)
    x = np.concatenate([x, near(ENDS, 50)])
    if name in ("exp", "expm1", "sigmoid", "softplus", "tanh"):
        x = np.concatenate([x, near(EXP_STEPS, 300), near(TANH_STEPS, 1000)])
    error = errors(name, x, library.apply(name, x))
    worst = int(error.argmax())
    assert error[worst] <= BOUNDS[name][0], f"{name}({x[worst]!r}) is {error[worst]:.3f} ulp off"


def test_the_functions_of_the_gates_were_measured_on_all_floats() -> None:
    assert {"exp", "sigmoid", "tanh"} <= read_record().keys()


@pytest.mark.parametrize("name", sorted(read_record()))
def test_all_floats_were_measured_and_the_function_is_still_the_same(name: str, library: Library) -> None:
    found = read_record()[name]
    again = f"run python tests/test_functions.py --all {name}"
    assert 0 < found["ulp"] <= BOUNDS[name][0], again
    assert found["checksum"] == checksum(library, name), (
        f"{name} gives other bits than those that were measured: {again}"
    )
    assert found.get("above 1 or decreasing", 0) == 0


def test_every_operation_of_the_language_is_measured_or_exact() -> None:
    arithmetic = {"add", "sub", "mul", "div", "neg"}
    choices = {"relu", "minimum", "maximum", "where", "surrogate", "clip_gradient", "both", "either", "negate"}
    choices |= {"greater", "greater_equal"}
    measured = {"abs" if name == "absolute" else name for name in (*BOUNDS, *EXACT)}
    assert set(OPERATIONS) == arithmetic | choices | measured


def test_errors_are_seen() -> None:
    x = np.array([1.0, 2.0, 100.0, np.nan], np.float32)
    y = np.exp(x.astype(np.float64)).clip(max=3e38).astype(np.float32)
    assert list(errors("exp", x, y) < 0.6) == [True, True, False, True]
    y[0] = np.nextafter(y[0], np.float32(0))
    assert errors("exp", x, y)[0] > 0.5


@pytest.mark.parametrize("name", BOUNDS)
def test_double_errors_are_within_the_bound(name: str, library: Library) -> None:
    random = np.random.default_rng(7)
    x = np.concatenate([random.uniform(-limit, limit, 1000) for limit in (2, 40, 709)])
    x = np.concatenate([x, np.ldexp(random.uniform(-1, 1, 500), random.integers(-1070, 3, 500))])
    if name in ("log", "sqrt", "log1p"):
        x = np.concatenate([abs(x), np.ldexp(random.uniform(0.5, 1, 500), random.integers(-1070, 1000, 500))])
        x = np.concatenate([x, -random.uniform(0, 1, 500)]) if name == "log1p" else x
    with mpmath.workprec(160):
        for value, got in zip(x.tolist(), library.apply(name, x).tolist(), strict=True):
            if name == "tanh" and abs(value) > 25:
                assert got == math.copysign(1, value)
                continue
            exact = PRECISE[name](mpmath.mpf(value))
            error = abs(got - exact) / mpmath.ldexp(1, max(mpmath.frexp(exact)[1] - 53, -1074))
            assert error <= BOUNDS[name][1], f"{name}({value!r}) = {got!r} is {float(error):.3f} ulp off"


@pytest.mark.parametrize("dtype", FORMATS.values())
def test_special_values(dtype: type, libraries: list[Library]) -> None:
    inf, nan, ln2, huge = math.inf, math.nan, math.log(2), float(np.finfo(dtype).max)
    tiny = float(np.finfo(dtype).smallest_subnormal)
    x = np.array([0.0, -0.0, inf, -inf, nan, tiny, -tiny, huge, -huge], dtype)
    expected = {
        "exp": [1, 1, inf, 0, nan, 1, 1, inf, 0],
        "expm1": [0, -0.0, inf, -1, nan, tiny, -tiny, inf, -1],
        "tanh": [0, -0.0, 1, -1, nan, tiny, -tiny, 1, -1],
        "sigmoid": [0.5, 0.5, 1, 0, nan, 0.5, 0.5, 1, 0],
        "log": [-inf, -inf, inf, nan, nan, np.log(x[5]), nan, np.log(x[7]), nan],
        "log1p": [0, -0.0, inf, nan, nan, tiny, -tiny, np.log(x[7]), nan],
        "sqrt": [0, -0.0, inf, nan, nan, np.sqrt(x[5]), nan, np.sqrt(x[7]), nan],
        "erf": [0, -0.0, 1, -1, nan, math.erf(tiny), math.erf(-tiny), 1, -1],
        "softplus": [ln2, ln2, inf, 0, nan, ln2, ln2, huge, 0],
        "absolute": [0, 0, inf, inf, nan, tiny, tiny, huge, huge],
        "sign": [0, 0, 1, -1, nan, 1, -1, 1, -1],
    }
    for library, (name, values) in itertools.product(libraries, expected.items()):
        got, want = library.apply(name, x), np.array(values, dtype)
        np.testing.assert_array_max_ulp(got[~np.isnan(want)], want[~np.isnan(want)], 1)
        assert np.array_equal(np.isnan(got), np.isnan(want)), (library.name, name)
        if name != "sign":
            signs = ~np.isnan(want)
            assert np.array_equal(np.signbit(got[signs]), np.signbit(want[signs])), (library.name, name)
    for name in ("sin", "cos"):
        with np.errstate(invalid="ignore"):
            assert np.array_equal(np.isnan(libraries[0].apply(name, x)), np.isnan(getattr(np, name)(x)))


@pytest.mark.parametrize("dtype", FORMATS.values())
def test_tanh_is_odd_bounded_and_never_decreases(dtype: type, library: Library) -> None:
    x = np.concatenate([patterns(0, 0x7F800001, 4001), near([*TANH_STEPS, 8.9, 9.0109, 9.1])])
    x = np.sort(x).astype(dtype)
    if dtype is np.float64:
        steps = np.array([*TANH_STEPS, *(math.log(2) / 2 * k for k in range(28, 57)), 19.0615], dtype)
        x = np.sort(np.concatenate([x, *(steps + k * np.spacing(steps) for k in range(-300, 300))]))
    y = library.apply("tanh", x)
    assert np.all(y <= 1) and y[-1] == 1
    assert np.all(np.diff(y) >= 0), x[1:][np.diff(y) < 0][:5]
    assert np.array_equal(library.apply("tanh", -x), -y)
    assert np.array_equal(np.signbit(library.apply("tanh", -x)), ~np.signbit(y))


@pytest.mark.parametrize("dtype", FORMATS.values())
@pytest.mark.parametrize("name", [*BOUNDS, *EXACT])
def test_compilers_and_processors_agree_on_every_bit(name: str, dtype: type, libraries: list[Library]) -> None:
    random = np.random.default_rng(3)
    x = np.concatenate([random.normal(0, 4, 3000), random.uniform(-110, 90, 3000), near(ENDS, 100)])
    x = np.concatenate([x, np.geomspace(1e-44, 1e38, 2000)]).astype(dtype)
    first, *others = [np.nan_to_num(library.apply(name, x), nan=7) for library in libraries]
    integers = np.int32 if dtype is np.float32 else np.int64
    for library, other in zip(libraries[1:], others, strict=True):
        same = first.view(integers) == other.view(integers)
        assert same.all(), (library.name, x[~same][:5])


@pytest.mark.parametrize("dtype", FORMATS.values())
def test_minimum_and_maximum_let_nan_through(dtype: type, libraries: list[Library]) -> None:
    values = [1.0, -2.0, math.inf, -math.inf, math.nan, 0.0]
    pairs = list(itertools.product(values, values))
    for library, (a, b), name in itertools.product(libraries, pairs, ("minimum", "maximum")):
        left, right, to = (np.full(16, v, dtype) for v in (a, b, 5.0))
        library.call(name, dtype, left, right, to)
        np.testing.assert_array_equal(to[0], getattr(np, name)(dtype(a), dtype(b)))


@pytest.mark.parametrize("dtype", FORMATS.values())
def test_partial_access_touches_nothing_else(dtype: type, libraries: list[Library]) -> None:
    for library in libraries:
        lanes = library.call("lanes", dtype)
        source = np.arange(1, 2 * lanes + 1, dtype=dtype)
        for n in range(lanes + 1):
            to = np.full(3 * lanes, -1, dtype)
            library.call("copy", dtype, source, to[lanes:], n)
            assert np.all(to[:lanes] == -1) and np.all(to[lanes + n :] == -1)
            assert np.array_equal(to[lanes : lanes + n], source[:n])
            library.call("spread", dtype, source, to, n)
            assert np.array_equal(to[:n], source[:n]) and np.all(to[n:lanes] == 0)


@pytest.mark.skipif(sys.platform == "win32", reason="guards pages with mprotect")
def test_partial_access_stops_at_the_end_of_a_page(libraries: list[Library]) -> None:
    for library in libraries:  # in a process of its own, since a wrong access kills it
        done = subprocess.run([sys.executable, __file__, "--guard", str(library.path)], check=False)
        assert done.returncode == 0, library.name


@pytest.mark.parametrize("dtype", FORMATS.values())
def test_fma_rounds_once_and_sums_have_one_order(dtype: type, libraries: list[Library]) -> None:
    small = dtype(2.0 ** -(np.finfo(dtype).nmant // 2 + 1))
    random = np.random.default_rng(1)
    for library in libraries:
        lanes = library.call("lanes", dtype)
        to, values = np.empty(16, dtype), random.normal(size=lanes).astype(dtype)
        library.call("fma", dtype, np.array([1 + small, 1 - small, -1], dtype), to)
        assert np.all(to[:lanes] == -small * small)
        library.call("sum", dtype, values, to)
        pairwise = functools.reduce(lambda v, _: v[::2] + v[1::2], range(lanes.bit_length() - 1), values)
        assert to[0] == pairwise[0]
        for n in range(lanes + 1):
            library.call("choose", dtype, n, np.ones(16, dtype), np.full(16, np.nan, dtype), to)
            assert np.all(to[:n] == 1) and np.all(np.isnan(to[n:lanes]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--guard"]:
        guard(sys.argv[2])
    elif sys.argv[1:2] == ["--all"]:
        measure_all(sys.argv[2:] or list(BOUNDS))
    else:
        sys.exit("usage: python tests/test_functions.py --all [function ...]")
