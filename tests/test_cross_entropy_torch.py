"""The cross-entropy in blocks of torch operations, which GPUs take: called on the CPU, against torch's own loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import throughtime as tt
from throughtime.nn import cross_entropy, cross_entropy_torch
from throughtime.nn.cross_entropy_torch import How, in_torch_blocks

ROWS, WIDTH, CLASSES = 23, 6, 11
IGNORED = -7


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Five rows at a time: several blocks, the last one shorter."""
    monkeypatch.setattr(cross_entropy_torch, "rows_of_block", lambda count, classes, width: 5)
    yield


def operands(kind: torch.dtype = torch.float64, ignored: bool = True) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(0)
    made = [torch.randn(s, dtype=torch.float64) for s in ((ROWS, WIDTH), (CLASSES, WIDTH), (CLASSES,))]
    target = torch.randint(0, CLASSES, (ROWS,))
    if ignored:
        target[::4] = IGNORED
    return [t.to(kind).requires_grad_() for t in made], target


def oracle(tensors: list[Tensor], target: Tensor, how: How) -> Tensor:
    logits = functional.linear(*(t.double() for t in tensors))
    return functional.cross_entropy(
        logits, target, reduction=how.reduction, ignore_index=IGNORED, label_smoothing=how.smoothing
    )


def gradients(loss: Tensor, tensors: list[Tensor], **more: Any) -> list[Tensor]:
    torch.manual_seed(1)
    return list(torch.autograd.grad(loss, tensors, torch.randn(loss.shape, dtype=loss.dtype), **more))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 8e-3)])
def test_against_torch(kind: torch.dtype, tolerance: float, ignored: bool, reduction: Any, smoothing: float) -> None:
    tensors, target = operands(kind, ignored)
    how = How(reduction, IGNORED, smoothing)
    loss, wanted = in_torch_blocks(*tensors, target, how), oracle(tensors, target, how)
    assert loss.dtype == kind and loss.shape == wanted.shape
    torch.manual_seed(1)
    grad = torch.randn(loss.shape, dtype=kind)
    found = [loss, *torch.autograd.grad(loss, tensors, grad)]
    expected = [wanted, *torch.autograd.grad(wanted, tensors, grad.double())]
    for a, b in zip(found, expected, strict=True):
        scale = float(b.detach().abs().max())
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance * scale)


def test_second_derivatives_and_a_second_backward_pass() -> None:
    tensors, target = operands()
    for reduction in ("mean", "none"):
        how = How(reduction, IGNORED, 0.1)  # type: ignore[arg-type]
        losses = in_torch_blocks(*tensors, target, how), oracle(tensors, target, how)
        for loss, other in zip(*(gradients(x, tensors, retain_graph=True) for x in losses), strict=True):
            torch.testing.assert_close(loss, other, rtol=1e-11, atol=1e-12)
        firsts = [gradients(x, tensors, create_graph=True) for x in losses]
        seconds = [gradients(sum((g * g).sum() for g in first), tensors) for first in firsts]  # type: ignore[arg-type]
        for first, second in zip(*seconds, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-11, atol=1e-12)


def test_rows_that_do_not_count_may_hold_anything() -> None:
    tensors, target = operands()
    wanted = gradients(in_torch_blocks(*tensors, target, How("mean", IGNORED, 0.0)), tensors)
    with torch.no_grad():
        tensors[0][::4] = torch.nan
    for a, b in zip(
        gradients(in_torch_blocks(*tensors, target, How("mean", IGNORED, 0.0)), tensors), wanted, strict=True
    ):
        assert torch.equal(a, b)


def test_a_mean_of_nothing_is_nan_and_a_sum_is_0() -> None:
    tensors, target = operands()
    target.fill_(IGNORED)
    assert in_torch_blocks(*tensors, target, How("mean", IGNORED, 0.0)).isnan()
    assert in_torch_blocks(*tensors, target, How("sum", IGNORED, 0.0)) == 0


class _Largest(TorchDispatchMode):
    """How many rows of logits the tallest tensor [., V] has."""

    rows = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.dim() == 2 and made.shape[1] == CLASSES:
            self.rows = max(self.rows, len(made))
        return made


def test_logits_never_exist_as_a_whole() -> None:
    tensors, target = operands()
    with _Largest() as largest:
        in_torch_blocks(*tensors, target, How("mean", IGNORED, 0.0)).backward()
    assert 0 < largest.rows <= max(5, WIDTH)  # the weight, transposed, is [H, V]


def test_autocast_leaves_the_products_alone() -> None:
    tensors, target = operands(torch.float32)
    wanted = gradients(in_torch_blocks(*tensors, target, How("mean", IGNORED, 0.0)), tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(in_torch_blocks(*tensors, target, How("mean", IGNORED, 0.0)), tensors)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_an_imagined_gpu_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """There no number of a tensor can be known. torch's own autograd is not to be had there: what it calls is."""
    rows: list[Tensor] = []

    def instead(h: Tensor, weight: Tensor, bias: None, target: Tensor, how: How) -> Tensor:
        rows.append(h)
        counts = target != how.ignore_index
        scales = cross_entropy_torch._scales(counts, how, h.dtype)
        each, found = cross_entropy_torch._losses(h, weight, bias, target, counts, scales, how, (True, True, False))
        assert [g is not None and tuple(g.shape) for g in found] == [(8, WIDTH), (CLASSES, WIDTH), False]
        return each

    monkeypatch.setattr(cross_entropy, "in_torch_blocks", instead)
    with torch._subclasses.FakeTensorMode(), torch.no_grad():
        h, weight = torch.zeros(2, 4, WIDTH, device="cuda"), torch.zeros(CLASSES, WIDTH, device="cuda")
        target = torch.zeros(2, 4, dtype=torch.int64, device="cuda")
        loss = tt.linear_cross_entropy(h, weight, target, reduction="none", label_smoothing=0.1)
        assert loss.device.type == "cuda" and loss.shape == (2, 4)
    assert len(rows) == 1


def test_a_target_that_is_no_class_stops() -> None:
    tensors, target = operands()
    target[1] = CLASSES
    with pytest.raises(RuntimeError, match="a target is no class"):
        in_torch_blocks(*tensors, target, How("mean", IGNORED, 0.0))
