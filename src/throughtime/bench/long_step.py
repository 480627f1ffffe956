"""One training step over a very long sequence, alone in its process: python -m throughtime.bench.long_step ..."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch
from torch import nn

import throughtime as tt
from throughtime.bench.long import BATCH, HIDDEN, PIECE, RECOMPUTE, RIVAL, STEPS


def peak_bytes() -> int:
    """The most memory that this process has had so far."""
    try:  # Linux: its getrusage begins with what the parent process had
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


def make(kind: str, way: str) -> nn.Module:
    torch.manual_seed(0)
    if way == RIVAL:
        rival: nn.Module = getattr(nn, kind)(HIDDEN, HIDDEN)
        return rival
    layer: nn.Module = getattr(tt, kind)(HIDDEN, HIDDEN, recompute=PIECE if way == RECOMPUTE else None)
    return layer


def step(layer: nn.Module, steps: int) -> list[torch.Tensor]:
    """The gradients of every weight, of an output whose error is 1 everywhere."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps, BATCH, HIDDEN, generator=generator)
    output = layer(x)[0]
    return list(torch.autograd.grad(output, list(layer.parameters()), torch.ones_like(output)))


def main() -> None:
    kind, way, threads, path = sys.argv[1:]
    torch.set_num_threads(int(threads))
    layer = make(kind, way)
    step(layer, 2 * PIECE)  # kernels are compiled, buffers of libraries are there
    before, begun = peak_bytes(), time.perf_counter()
    gradients = step(layer, STEPS)
    seconds = time.perf_counter() - begun
    torch.save(gradients, path)
    json.dump({"seconds": seconds, "bytes": peak_bytes() - before}, sys.stdout)


if __name__ == "__main__":
    main()
