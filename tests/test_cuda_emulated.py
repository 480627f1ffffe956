"""The CUDA kernels' own text, run on the CPU with the order of events drawn at random: their numbers must be those of
the CPU's kernels, whatever the order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import throughtime as tt
from emulator import Emulator
from throughtime.nn import operation, recurrent, stack
from throughtime.nn.cuda_kernels import CudaKernel
from throughtime.nn.cuda_wish import VARIABLE
from throughtime.nn.program import Plan

SCHEMES = ("block", "cluster:3", "grid:3", "product")


class Emulated:
    """Sends every recurrence to an emulator; around it everything is as on a GPU: torch's products."""

    def __init__(self, patch: pytest.MonkeyPatch, emulator: Emulator, scheme: str) -> None:
        self.emulator = emulator
        kernels: dict[object, CudaKernel] = {}

        def kernel_on(plan: Plan, device: torch.device) -> CudaKernel:
            key = id(plan.program), plan.keep, plan.dtype
            if key not in kernels:
                kernels[key] = CudaKernel(plan.program.forward(plan.keep), plan.dtype, emulator)
            return kernels[key]

        patch.setenv(VARIABLE, scheme)
        patch.setattr(Plan, "kernel_on", kernel_on)
        patch.setattr(recurrent, "short_call", lambda *call: None)
        patch.setattr(stack, "takes_input", lambda kind, x: False)
        patch.setattr(operation, "_is_plain", lambda tensor: False)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Emulator]]:
    def begin(scheme: str, **facts: Any) -> Emulator:
        return Emulated(monkeypatch, Emulator(**facts), scheme).emulator

    yield begin


def results(layer: Any, x: Tensor, lengths: Any = None, state: Any = None, **more: Any) -> list[Tensor]:
    """Output, states, and the gradients of everything for random errors."""
    torch.manual_seed(1)  # noise, and the errors
    x = x.clone().requires_grad_()
    starts = [] if state is None else [s.clone().requires_grad_() for s in state]
    given = None if state is None else starts[0] if len(starts) == 1 else tuple(starts)
    output, ends = layer(x, given, lengths=lengths, **more)
    made = [output, *(ends if isinstance(ends, tuple) else (ends,))]
    loss = sum((torch.randn(m.shape, dtype=m.dtype) * m).sum() for m in made)
    inputs = [x, *starts, *layer.parameters()]
    return [*made, *torch.autograd.grad(loss, inputs)]  # type: ignore[arg-type]


def check(found: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-12) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def case(cell: tt.Cell, **options: Any) -> tuple[Any, Tensor, list[int], list[Tensor]]:
    """A layer in two directions with odd sizes, and sequences of all lengths, one of them empty."""
    torch.manual_seed(0)
    options = {"bidirectional": True, "dtype": torch.float64} | options
    layer = tt.Recurrent(cell, 3, options.pop("hidden", 7), **options)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.5)
    x = torch.randn(6, 5, 3, dtype=torch.float64)
    state = [torch.randn(layer.directions, 5, size, dtype=torch.float64) for size in layer.state_sizes]
    return layer, x, [6, 2, 0, 5, 4], state


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", tt.cells.catalogue)
def test_catalogue(name: str, scheme: str, emulated: Callable[..., Emulator]) -> None:
    layer, x, lengths, state = case(tt.cells.catalogue[name]())
    wanted = [results(layer, x, lengths, state), results(layer, x)]
    emulator = emulated(scheme)
    for _ in range(3):
        check(results(layer, x, lengths, state), wanted[0])
    check(results(layer, x), wanted[1])
    if scheme == "product":  # a launch for each phase of each of 6 steps, one before and one after
        assert len(emulator.schemes) >= 8 * (6 + 2) and {s.exchange for s in emulator.schemes} == {"Product"}
    else:
        assert len(emulator.schemes) == 8


OPTIONS: dict[str, tuple[Callable[[], tt.Cell], dict[str, Any]]] = {
    "projection": (lambda: tt.cells.LSTM(projection=4), {}),
    "layer_norm": (tt.cells.GRU, {"layer_norm": ["maps", "states"]}),
    "zoneout": (tt.cells.LSTM, {"zoneout": (0.3, 0.1)}),
    "dropout": (tt.cells.GRU, {"recurrent_dropout": 0.4, "recurrent_dropout_mask": "step"}),
    "clipped": (tt.cells.LSTM, {"state_clip": 0.5, "gradient_clip": 0.2}),
    "activation": (tt.cells.Elman, {"activation": "softplus"}),
    "heads": (tt.cells.LSTM, {"hidden": 6, "heads": 2}),
    "few units": (tt.cells.GRU, {"hidden": 3}),
    "few units, normalised": (tt.cells.LayerNormLSTM, {"hidden": 4}),
    "layers": (tt.cells.MinimalGatedUnit, {"num_layers": 2}),
    "batch_first": (tt.cells.Elman, {"batch_first": True}),
    "recompute": (tt.cells.GRU, {"recompute": 2}),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("scheme", ["cluster:3", "grid:2", "product"])
def test_options(name: str, scheme: str, emulated: Callable[..., Emulator]) -> None:
    make, options = OPTIONS[name]
    layer, x, lengths, _ = case(make(), **options)
    if layer.batch_first:
        x = x.transpose(0, 1).contiguous()
    wanted = results(layer, x, lengths)
    emulated(scheme)
    check(results(layer, x, lengths), wanted)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # within torch.func.jvp
def test_second_derivatives_and_samples(emulated: Callable[..., Emulator]) -> None:
    """The derived programs run like any other: backward of backward, tangents, and several calls in one."""
    layer, x, lengths, _ = case(tt.cells.GRU(), bidirectional=False)

    def derivatives() -> list[Tensor]:
        torch.manual_seed(2)
        v = x.clone().requires_grad_()
        out = layer(v, lengths=lengths)[0]
        (first,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), v, create_graph=True)
        second = torch.autograd.grad((first * torch.randn_like(first)).sum(), [v, *layer.parameters()])
        tangent = torch.func.jvp(lambda z: layer(z)[0], (x,), (torch.randn_like(x),))
        mapped = torch.func.vmap(lambda z: layer(z)[0])(torch.stack((x, 2 * x)))
        return [first.detach(), *second, *tangent, mapped]

    wanted = derivatives()
    for scheme in ("cluster:2", "product"):
        emulated(scheme)
        check(derivatives(), wanted)


def test_resets_and_chunks(emulated: Callable[..., Emulator]) -> None:
    layer, x, _, state = case(tt.cells.LSTM(), bidirectional=False)
    reset = torch.rand(6, 5) < 0.4
    wanted = results(layer, x, state=state, reset=reset)
    for scheme in ("grid:2", "product"):
        emulated(scheme)
        check(results(layer, x, state=state, reset=reset), wanted)


@pytest.mark.parametrize("product", ["bfloat16", "float16", "tfloat32"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_tensor_cores(product: str, scheme: str, emulated: Callable[..., Emulator]) -> None:
    """The operands are rounded, and nothing else: the errors are of that size."""
    if (scheme, product) == ("product", "tfloat32"):
        pytest.skip("is refused: tests/test_cuda_calls.py")
    torch.manual_seed(0)
    layer = tt.Recurrent(tt.cells.GRU(), 3, 19, bidirectional=True)
    x = torch.randn(4, 9, 3)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    wanted = [r.detach() for r in results(layer, x)]
    emulated(f"{scheme},{product}", shared=1 << 18)
    found = [r.detach() for r in results(layer, x)]
    unit = {"bfloat16": 2**-8, "float16": 2**-11, "tfloat32": 2**-11}[product]
    differences = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True)]
    assert 0 < max(differences) < 8 * unit, differences


@pytest.mark.parametrize("tiles", [0, 1, 3, 32])
@pytest.mark.parametrize("scheme", ["block,bfloat16", "cluster:3,float16", "grid:2,tfloat32"])
def test_tensor_cores_multiply_exactly_what_can_be_exact(
    scheme: str, tiles: int, emulated: Callable[..., Emulator]
) -> None:
    """Small whole numbers, of which every product and sum is exact: any lane that took the wrong one would show.
    Weights are in registers, in shared memory, or in both."""
    torch.manual_seed(0)
    layer = tt.Recurrent(tt.cells.Elman(activation="relu"), 3, 83, bias=False)
    for p in layer.parameters():
        p.data = torch.where(torch.rand(p.shape) < 0.2, torch.randint(-1, 2, p.shape), 0).float()
    x = torch.randint(-2, 3, (3, 9, 3)).float()
    weight = torch.randint(-1, 2, (3, 9, 83)).float()

    def made() -> list[Tensor]:
        output = layer(x)[0]
        return [output.detach(), *torch.autograd.grad((weight * output).sum(), list(layer.parameters()))]

    wanted = made()
    emulator = emulated(scheme, tiles=tiles, shared=1 << 18, threads=128)
    for a, b in zip(made(), wanted, strict=True):
        assert torch.equal(a, b)
    assert 10 < float(wanted[0].abs().max()) < 256
    (cut,), _ = (s.cuts for s in emulator.schemes)
    assert cut.pieces > 1
    assert (cut.kept, cut.shared_tiles) == (0, cut.all_jobs * cut.deep) if tiles < cut.jobs else cut.kept > 0
