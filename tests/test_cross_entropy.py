"""linear_cross_entropy against plain torch: values, gradients, dtypes, options, memory and mistakes."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import throughtime as tt
from throughtime.nn import logits as blocks

SIZES = [(13, 4, 7), (5, 3, 1), (300, 20, 1000), (3, 5, 40000), (130, 6, 33)]


def operands(N: int, H: int, V: int, kind: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(N + V)
    h, weight, bias = (torch.randn(size, generator=generator).to(kind) for size in ((N, H), (V, H), (V,)))
    return (
        h.requires_grad_(),
        weight.requires_grad_(),
        bias.requires_grad_(),
        torch.randint(V, (N,), generator=generator),
    )


def plain(h: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, **options: Any) -> Tensor:
    """Written out, in float64; shares nothing with torch's cross_entropy either."""
    scores = h.double() @ weight.double().T + (0 if bias is None else bias.double())
    log_p = scores - scores.exp().sum(1, keepdim=True).log()
    smoothing, counts = options.get("label_smoothing", 0.0), target != options.get("ignore_index", -100)
    at_target = log_p[torch.arange(len(target)), target.where(counts, 0)]
    losses = -((1 - smoothing) * at_target + smoothing * log_p.mean(1)) * counts
    match options.get("reduction", "mean"):
        case "mean":
            return losses.sum() / counts.sum()
        case "sum":
            return losses.sum()
    return losses


def far(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected).detach().norm() / expected.detach().norm().clamp(min=1e-2))


def agree(h: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, tolerance: float, **options: Any) -> None:
    """Value and every gradient under a random cotangent; without gradients the same value."""
    given = [t for t in (h, weight, bias) if t is not None]
    found = tt.linear_cross_entropy(h, weight, target, linear_bias=bias, **options)
    expected = plain(h, weight, target, bias, **options)
    cotangent = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).to(
        found.dtype
    )
    pairs = [(found, expected)]
    pairs += zip(
        torch.autograd.grad(found, given, cotangent),
        torch.autograd.grad(expected, given, cotangent.double()),
        strict=True,
    )
    assert [far(*pair) < tolerance for pair in pairs] == [True] * len(pairs), [far(*pair) for pair in pairs]
    assert [a.dtype for a, _ in pairs[1:]] == [t.dtype for t in given]
    with torch.no_grad():
        again = tt.linear_cross_entropy(h, weight, target, linear_bias=bias, **options)
    assert far(again, expected) < tolerance


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("sizes", SIZES)
def test_it_is_the_plain_composition(
    sizes: tuple[int, int, int], reduction: str, ignored: bool, smoothing: float
) -> None:
    h, weight, bias, target = operands(*sizes)
    if ignored:
        target[1::3] = 0
    options = {"ignore_index": 0} if ignored and sizes[2] > 1 else {}
    agree(h, weight, bias, target, 1e-12, reduction=reduction, label_smoothing=smoothing, **options)


@pytest.mark.parametrize("block", [1, 30, 1000])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_size_of_the_blocks_changes_nothing(block: int, reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LOGITS", block)
    monkeypatch.setattr(blocks, "ROWS", 1)
    assert blocks.rows_of_block(130, 33, 6) < 130
    agree(*operands(130, 6, 33), 1e-12, reduction=reduction)
    h, weight, _, target = operands(130, 6, 33)
    agree(h, weight, None, target, 1e-12, reduction=reduction)


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
@pytest.mark.parametrize("sizes", [(300, 20, 1000), (130, 6, 33)])
def test_every_dtype(sizes: tuple[int, int, int], kind: torch.dtype, tolerance: float) -> None:
    """Narrow types store numbers: values and gradients are off by their own rounding alone."""
    h, weight, bias, target = operands(*sizes, kind)
    agree(h, weight, bias, target, tolerance)
    agree(h.float().detach().requires_grad_(), weight, bias, target, tolerance)
    assert tt.linear_cross_entropy(h, weight, target).dtype == kind


def test_under_autocast_it_computes_in_float32() -> None:
    h, weight, bias, target = operands(13, 4, 7, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        agree(h, weight, bias, target, 1e-6)


def test_any_strides_and_any_leading_dimensions() -> None:
    h, weight, bias, target = operands(12, 4, 7)
    wide = torch.randn(7, 8, dtype=torch.float64)
    for rows, matrix in (
        (h.t().contiguous().t(), weight),
        (h, wide[:, ::2]),
        (h, wide.t()[:4].t()),
        (h.flip(0), weight),
    ):
        values = [t.detach().requires_grad_() for t in (rows, matrix)]
        agree(*values, bias.detach().requires_grad_(), target, 1e-12)
    folded = h.unflatten(0, (3, 4)).transpose(0, 1)
    losses = tt.linear_cross_entropy(folded, weight, target.view(3, 4).T, linear_bias=bias, reduction="none")
    assert losses.shape == (4, 3)
    assert far(losses, plain(h, weight, target, bias, reduction="none").view(3, 4).T) < 1e-12
    one = tt.linear_cross_entropy(h[0], weight, target[0], linear_bias=bias)
    assert far(one, plain(h[:1], weight, target[:1], bias)) < 1e-12


def test_a_weight_that_is_the_embedding_too() -> None:
    _, weight, bias, target = operands(13, 4, 7)

    def grads(loss: Any, create_graph: bool = False) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, (weight, bias), create_graph=create_graph)

    h = weight[target.roll(1)].tanh()
    found = tt.linear_cross_entropy(h, weight, target, linear_bias=bias)
    expected = grads(plain(h, weight, target, bias))
    for create_graph in (False, True):
        again = tt.linear_cross_entropy(weight[target.roll(1)].tanh(), weight, target, linear_bias=bias)
        assert all(far(a, b) < 1e-12 for a, b in zip(grads(again, create_graph), expected, strict=True))
    assert found.dim() == 0


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_a_frozen_operand_gets_no_gradient(frozen: int) -> None:
    given = list(operands(13, 4, 7))
    target = given.pop()
    given[frozen].requires_grad_(False)
    others = [t for k, t in enumerate(given) if k != frozen]
    found = torch.autograd.grad(tt.linear_cross_entropy(given[0], given[1], target, linear_bias=given[2]), others)
    expected = torch.autograd.grad(plain(given[0], given[1], target, given[2]), others)
    assert all(far(a, b) < 1e-12 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_second_backward_pass_and_later_changes_of_the_first_gradients(reduction: str) -> None:
    h, weight, bias, target = operands(13, 4, 7)
    loss = tt.linear_cross_entropy(h, weight, target, linear_bias=bias, reduction=reduction).sum()
    first = torch.autograd.grad(loss * 2, (h, weight, bias), retain_graph=True)
    kept = [g.clone() for g in first]
    for g in first:
        g.zero_()
    second = torch.autograd.grad(loss * 2, (h, weight, bias))
    assert all(far(a, b) < 1e-14 for a, b in zip(second, kept, strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_second_derivatives(reduction: str, smoothing: float) -> None:
    h, weight, bias, target = operands(5, 3, 4)
    target[2] = -100

    def loss(*given: Tensor) -> Tensor:
        return tt.linear_cross_entropy(
            given[0], given[1], target, linear_bias=given[2], reduction=reduction, label_smoothing=smoothing
        )

    assert torch.autograd.gradcheck(loss, (h, weight, bias))
    assert torch.autograd.gradgradcheck(loss, (h, weight, bias))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # within torch.func.jvp
def test_transforms_and_the_reference() -> None:
    h, weight, bias, target = operands(5, 3, 4)

    def loss(*given: Tensor) -> Tensor:
        return tt.linear_cross_entropy(given[0], given[1], target, linear_bias=given[2])

    values = [t.detach() for t in (h, weight, bias)]
    expected = torch.autograd.grad(plain(h, weight, target, bias), (h, weight, bias))
    found = torch.func.grad(loss, (0, 1, 2))(*values)
    assert all(far(a, b) < 1e-12 for a, b in zip(found, expected, strict=True))
    tangents = tuple(torch.randn_like(v) for v in values)
    _, dot = torch.func.jvp(loss, tuple(values), tangents)
    assert far(dot, sum((g * t).sum() for g, t in zip(expected, tangents, strict=True))) < 1e-12
    many = torch.vmap(lambda x: loss(x, *values[1:]))(torch.stack([values[0], values[0] * 2]))
    assert far(many, torch.stack([plain(values[0] * k, *values[1:2], target, values[2]) for k in (1, 2)])) < 1e-12
    loss_here = loss(h, weight, bias)
    batched = torch.autograd.grad(loss_here, h, torch.tensor([1.0, 2.0]).double(), is_grads_batched=True)[0]
    assert far(batched, torch.stack([expected[0], expected[0] * 2])) < 1e-12
    reference = tt.linear_cross_entropy(h, weight, target, linear_bias=bias, backend="reference")
    assert far(reference, plain(h, weight, target, bias)) < 1e-12
    compiled = torch.compile(loss, backend="eager", fullgraph=True)(h, weight, bias)
    assert far(compiled, plain(h, weight, target, bias)) < 1e-12


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("rows", [0, 3])
def test_no_row_that_counts(rows: int, reduction: str) -> None:
    h, weight, bias, _ = operands(rows, 4, 7)
    target = torch.full((rows,), -100)
    loss = tt.linear_cross_entropy(h, weight, target, linear_bias=bias, reduction=reduction)
    expected = functional.cross_entropy(functional.linear(h, weight, bias), target, reduction=reduction)
    torch.testing.assert_close(loss, expected, equal_nan=True)
    for gradient, of in zip(torch.autograd.grad(loss.sum(), (h, weight, bias)), (h, weight, bias), strict=True):
        assert torch.equal(gradient, torch.zeros_like(of))


def test_infinities_and_nan() -> None:
    h, weight, bias, target = operands(6, 4, 19, torch.float32)
    with torch.no_grad():
        bias[3], target[:] = -math.inf, 5  # a class that is ruled out
        loss = tt.linear_cross_entropy(h, weight, target, linear_bias=bias, reduction="none")
        torch.testing.assert_close(loss, functional.cross_entropy(h @ weight.T + bias, target, reduction="none"))
        weight *= 1e3  # exp() of the logits themselves would overflow
        loss = tt.linear_cross_entropy(h, weight, target, linear_bias=bias, reduction="none")
        torch.testing.assert_close(loss, functional.cross_entropy(h @ weight.T + bias, target, reduction="none"))
        for value, place in ((math.nan, 2), (math.nan, 17), (math.inf, 4)):
            spoilt = bias.index_fill(0, torch.tensor(place), value)
            assert tt.linear_cross_entropy(h, weight, target, linear_bias=spoilt).isnan()


def test_the_same_bits_again_and_with_more_threads() -> None:
    """The passes over the logits do not depend on the threads; torch's products, with one thread here, may."""
    threads = torch.get_num_threads()
    logits, bias, target = torch.randn(257, 1100), torch.randn(1100), torch.randint(1100, (257,))
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        block, each, d_bias = logits.clone(), torch.empty(257, dtype=torch.float64), torch.empty(1100)
        total = blocks._finish(block, 257, bias, target, each, None, d_bias, 0, True, 0.5, 0.1)
        results.append((block, each, d_bias, torch.tensor(total)))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_the_logits_never_exist_as_a_whole() -> None:
    """4096 x 20000 logits would take 328 MB, three times in torch; weight and gradient take 0.6 MB."""
    code = """
import resource, torch, throughtime as tt
h, w = torch.randn(4096, 8, requires_grad=True), torch.randn(20000, 8, requires_grad=True)
target = torch.randint(20000, (4096,))
tt.linear_cross_entropy(h[:9], w, target[:9]).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tt.linear_cross_entropy(h, w, target).backward()
with torch.no_grad():
    tt.linear_cross_entropy(h, w, target, reduction="none")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 40


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"target": torch.tensor([0, 7])}, IndexError, r"a target is 7, but the weight has 7 rows: give classes"),
        ({"target": torch.tensor([-1, 0])}, IndexError, r"a target is -1, .* or ignore_index \(-100\) for a row"),
        ({"target": torch.tensor([-100, 9])}, IndexError, r"a target is 9, but"),
        ({"target": torch.tensor([0.0, 1.0])}, TypeError, "target is torch.float32: give class numbers as int64"),
        ({"target": torch.zeros(3, dtype=torch.int64)}, ValueError, r"target is \[3\]: give one class for each row"),
        ({"input": torch.zeros(2, 5)}, ValueError, r"input is \[2, 5\] and linear_weight \[7, 4\]: give"),
        ({"linear_bias": torch.zeros(6)}, ValueError, r"linear_bias is \[6\]: give one number for each of 7 classes"),
        ({"reduction": "max"}, ValueError, "reduction should be"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing should be a share from 0 to 1, got 1.5"),
        ({"backend": "fast"}, ValueError, "backend should be"),
        ({"input": torch.zeros(2, 4, dtype=torch.int64)}, TypeError, "give floating-point input, weight and bias"),
        ({"input": torch.zeros(2, 4, device="meta")}, ValueError, "input is on meta, another tensor on cpu: move one"),
    ],
)
def test_mistakes_are_explained(change: dict[str, Any], error: type[Exception], sentence: str) -> None:
    given: dict[str, Any] = {
        "input": torch.zeros(2, 4), "linear_weight": torch.zeros(7, 4), "target": torch.tensor([0, 1]),
        "linear_bias": torch.zeros(7),
    }  # fmt: skip
    with pytest.raises(error, match=sentence):
        tt.linear_cross_entropy(**given | change)
