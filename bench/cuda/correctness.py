"""Every catalogue cell under every scheme on the GPU against float64 on the CPU; then torch.nn's layers in the place of
ones that compute the same, and sessions.

    python bench/cuda/correctness.py

One line for each: the largest difference of outputs, final states and gradients, relative to the largest value of each.
Ends with status 1 if one is larger than rounding explains.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from common import REFUSALS, asked, gpu
from torch import Tensor

import throughtime as tt

SCHEMES = ("block", "cluster:2", "cluster:8", "cluster:16", "grid:4", "grid:32", "product", "model")
BOUNDS = {"float": 2e-5, "tfloat32": 2e-2, "float16": 2e-2, "bfloat16": 1e-1}
"""Relative; errors grow over the time steps. The products' operands are rounded to 24, 11, 11 and 8 bits."""
STEPS, ROWS, INPUT, HIDDEN = 50, 19, 20, 70


def results(layer: Any, x: Tensor, lengths: Tensor | None, errors: list[Tensor]) -> list[Tensor]:
    x = x.detach().requires_grad_()
    output, ends = layer(x, lengths=lengths)
    made = [output, *(ends if isinstance(ends, tuple) else (ends,))]
    loss = sum((e.to(m) * m).sum() for e, m in zip(errors, made, strict=False))
    found = torch.autograd.grad(loss, [x, *layer.parameters()])  # type: ignore[arg-type]
    return [t.detach().double().cpu() for t in (*made, *found)]


def relative(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(float((f - w).abs().max() / w.abs().max()) for f, w in zip(found, wanted, strict=True))


def reported(what: str, worst: float, bound: float) -> bool:
    """Whether it is more than the bound."""
    bad = not worst <= bound
    print(f"{what}: {worst:.1e}{f' MORE THAN {bound:.0e}' if bad else ''}")
    return bad


def twins_and_sessions(device: torch.device) -> Iterator[tuple[str, float]]:
    """What is compared, and its largest difference."""
    for kind in (tt.RNN, tt.GRU, tt.LSTM):
        torch.manual_seed(0)
        layer = kind(INPUT, HIDDEN, num_layers=2, dtype=torch.float64)
        x, errors = torch.randn(STEPS, ROWS, INPUT).double(), [torch.randn(STEPS, ROWS, HIDDEN)]
        wanted = results(layer, x, None, errors)
        layer.float().to(device)
        given = x.float().to(device)
        with asked("cudnn"):
            yield f"{kind.__name__} cudnn float", relative(results(layer, given, None, errors), wanted)
        with asked("block"):
            session = layer.session(ROWS)
            made = torch.stack([session.step(given[t]).clone() for t in range(STEPS)])
            yield f"{kind.__name__} session float", relative([made.double().cpu()], wanted[:1])


def main() -> None:
    device = gpu()
    bad = 0
    for name, make in tt.cells.catalogue.items():
        torch.manual_seed(0)
        layer = tt.Recurrent(make(), INPUT, HIDDEN, bidirectional=True, dtype=torch.float64)
        x, lengths = torch.randn(STEPS, ROWS, INPUT).double(), torch.randint(0, STEPS + 1, (ROWS,))
        errors = [torch.randn(STEPS, ROWS, 2 * HIDDEN), *(torch.randn(2, ROWS, HIDDEN) for _ in range(2))]
        wanted = results(layer, x, lengths, errors)
        layer.float().to(device)
        for scheme in SCHEMES:
            for product, bound in BOUNDS.items():
                with asked(f"{scheme},{product}"):
                    try:
                        found = results(layer, x.float().to(device), lengths.to(device), errors)
                    except REFUSALS as refusal:
                        print(f"{name} {scheme} {product}: {refusal}")
                        continue
                bad += reported(f"{name} {scheme} {product}", relative(found, wanted), bound)
        layer.cpu()
    for what, worst in twins_and_sessions(device):
        bad += reported(what, worst, BOUNDS["float"])
    raise SystemExit(bad > 0)


if __name__ == "__main__":
    main()
