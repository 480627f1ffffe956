"""Whole layers: as near to float64 as torch.nn's, and the process's floating-point mode left alone."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator

import pytest
import torch

import throughtime as tt
from gradient_check import error

LUCK = 1.1
"""The errors of two ways to round the same sums differ by chance; pooled over seeds by no more than this."""

# name -> T, B, I, H, options of the layer, seeds
SHAPES = {
    "long": (100, 4, 32, 64, {}, 24),
    "one sequence": (100, 1, 150, 150, {}, 12),
    "wide": (20, 2, 300, 512, {}, 4),
    "large batch": (20, 48, 64, 96, {}, 6),
    "stack": (40, 3, 20, 48, {"num_layers": 2, "bidirectional": True}, 10),
}


# Where our sums may round more than torch's. The step's own product is one chain as long as H, torch's is several, and
# the GRU's reset gate shows it; how torch's products add up differs from processor to processor.
FARTHER = {(kind, shape): 1.2 for kind in ("RNN", "LSTM") for shape in ("wide", "stack")}
FARTHER |= {("GRU", "wide"): 1.35, ("GRU", "large batch"): 1.35, ("GRU", "stack"): 1.2}
FARTHER |= {("GRU", "one sequence"): 1.2}


def results(layer, x, cotangent):
    """Output, the gradient of the input, the gradients of the weights: what is compared, by name."""
    own = x.to(next(layer.parameters()).dtype, copy=True).requires_grad_()
    output, _ = layer(own)
    named = dict(layer.named_parameters())
    gradients = torch.autograd.grad(output, [own, *named.values()], cotangent.to(own.dtype))
    return {"output": output} | dict(zip(["∂input", *(f"∂{name}" for name in named)], gradients, strict=True))


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_as_near_to_float64_as_torch_s(kind, shape):
    """Each tensor's error over that of torch.nn's, both pooled over seeds."""
    T, B, I, H, options, seeds = SHAPES[shape]  # noqa: E741
    pooled: dict[str, list[float]] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        theirs = getattr(torch.nn, kind)(I, H, **options)
        ours = getattr(tt, kind)(I, H, **options)
        exact = getattr(torch.nn, kind)(I, H, dtype=torch.float64, **options)
        for layer in (ours, exact):
            layer.load_state_dict(theirs.state_dict())
        x = torch.randn(T, B, I)
        cotangent = torch.randn(T, B, H * (2 if options.get("bidirectional") else 1))
        expected = results(exact, x, cotangent)
        for k, layer in enumerate((ours, theirs)):
            for name, found in results(layer, x, cotangent).items():
                pooled.setdefault(name, [0.0, 0.0])[k] += error(found, expected[name]) ** 2
    ratios = {name: round((mine / other) ** 0.5, 3) for name, (mine, other) in pooled.items()}
    assert max(ratios.values()) <= FARTHER.get((kind, shape), LUCK), str(ratios)


CONTROL = """
#include <stdint.h>
// The register that holds the rounding mode and whether subnormals are flushed, without the flags of what happened.
extern "C" __attribute__((visibility("default"))) uint64_t control() {
#if defined(__SSE__)
  return __builtin_ia32_stmxcsr() & ~uint64_t(0x3f);
#elif defined(__aarch64__)
  uint64_t value;
  __asm__ volatile("mrs %0, fpcr" : "=r"(value));
  return value;
#else
#error "how to read the mode of this processor is not known here"
#endif
}
"""


@pytest.fixture(scope="module")
def control() -> ctypes.CDLL:
    library = tt.runtime.load(tt.runtime.build("control", {"control.cpp": CONTROL}, "control.cpp").path)
    library.control.restype = ctypes.c_uint64
    return library


@pytest.fixture(params=[False, True], ids=["subnormals kept", "subnormals flushed"])
def flushing(request: pytest.FixtureRequest) -> Iterator[bool]:
    """The mode that the program has chosen for itself."""
    if not torch.set_flush_denormal(request.param) and request.param:
        pytest.skip("torch cannot flush subnormals on this processor")
    yield request.param
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_floating_point_mode_stays_what_it_is(flushing, dtype, control):
    """In this thread, in one that was there before, and in one that is started after."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    go, seen = threading.Event(), []
    waiting = threading.Thread(
        target=lambda: (seen.append(control.control()), go.wait(), seen.append(control.control()))
    )
    waiting.start()
    mine = control.control()
    try:
        for name in ("rnn", "lstm-layernorm"):
            layer = tt.Recurrent(tt.cells.catalogue[name](), 4, 24, 2, bidirectional=True, dtype=dtype)
            output, _ = layer(torch.randn(30, 64, 4, dtype=dtype))
            output.sum().backward()
            assert control.control() == mine
    finally:
        torch.set_num_threads(before)
        go.set()
        waiting.join()
    started = threading.Thread(target=lambda: seen.append(control.control()))
    started.start()
    started.join()
    assert seen[0] == seen[1]
    assert control.control() == mine == seen[2]
    tiny = torch.finfo(dtype).smallest_normal
    assert (torch.tensor(tiny, dtype=dtype) / 2 == 0).item() == flushing


def test_the_mode_is_seen(control):
    kept = control.control()
    if not torch.set_flush_denormal(True):
        pytest.skip("torch cannot flush subnormals on this processor")
    flushed = control.control()
    torch.set_flush_denormal(False)
    assert flushed != kept == control.control()
