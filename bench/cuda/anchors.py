"""Layers on the GPU beside torch.nn's, on shapes for which others have published times.

    python bench/cuda/anchors.py [--schemes block product model model,bfloat16 timed,bfloat16] [--rounds 30]

Milliseconds of a forward pass with gradients wanted, and of forward and backward pass, W x included.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from common import REFUSALS, asked, gpu, milliseconds
from torch import Tensor, nn

import throughtime as tt


@dataclass(frozen=True)
class Anchor:
    """A shape; `rival`: torch.nn's layer, or None where there is none; `lengths`: whether sequences are packed."""

    name: str
    ours: Callable[[], Any]
    rival: Callable[[], Any] | None
    dtype: torch.dtype
    steps: int
    rows: int
    size: int
    lengths: bool = False


def _anchors() -> Iterator[Anchor]:
    half, brain = torch.float16, torch.bfloat16

    def pair(kind: str, size: int, **options: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
        return lambda: getattr(tt, kind)(size, size, **options), lambda: getattr(nn, kind)(size, size, **options)

    yield Anchor("LSTM 768, B 16, float16", *pair("LSTM", 768), half, 1024, 16, 768)
    yield Anchor("LSTM 768, B 16, bfloat16", *pair("LSTM", 768), brain, 1024, 16, 768)
    for heads in (12, 6):
        own = 768 // heads
        make = lambda heads=heads: tt.Recurrent(tt.cells.LSTM(), 768, 768, heads=heads)  # noqa: E731
        yield Anchor(f"LSTM {heads} heads of {own}, B 16, bfloat16", make, None, brain, 1024, 16, 768)
    for dtype in (half, brain):
        yield Anchor(f"GRU 512, B 64, {dtype}", *pair("GRU", 512), dtype, 1024, 64, 512)
    yield Anchor("RNN 1024, B 32, float32", *pair("RNN", 1024), torch.float32, 512, 32, 1024)
    yield Anchor("LSTM 256, B 64, lengths", *pair("LSTM", 256), torch.float32, 512, 64, 256, True)
    yield Anchor("LSTM 256, B 32, two directions", *pair("LSTM", 256, bidirectional=True), torch.float32, 512, 32, 256)
    yield Anchor("LSTM 256, B 32, three layers", *pair("LSTM", 256, num_layers=3), torch.float32, 512, 32, 256)
    yield Anchor("GRU 256, B 1, one step", *pair("GRU", 256), torch.float32, 1, 1, 256)
    for name, cell in (("MGU", tt.cells.MinimalGatedUnit), ("LayerNormLSTM", tt.cells.LayerNormLSTM)):
        make = lambda cell=cell: tt.Recurrent(cell(), 256, 256)  # noqa: E731
        loop = lambda cell=cell: tt.Recurrent(cell(), 256, 256, backend="reference")  # noqa: E731
        yield Anchor(f"{name} 256, B 32 (rival: a Python loop)", make, loop, torch.float32, 100, 32, 256)


def times(layer: Any, anchor: Anchor, x: Tensor, lengths: Tensor, rounds: int) -> tuple[float, float]:
    given: Any = x
    more: dict[str, Any] = {}
    if anchor.lengths and isinstance(layer, nn.RNNBase):
        given = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
    elif anchor.lengths:
        more["lengths"] = lengths

    def forward() -> Tensor:
        output = layer(given, **more)[0]
        return output.data if isinstance(output, nn.utils.rnn.PackedSequence) else output

    def both() -> None:
        forward().sum().backward()

    return milliseconds(forward, rounds), milliseconds(both, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--schemes", nargs="+", default=["block", "product", "model", "model,bfloat16", "timed,bfloat16"]
    )
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    device = gpu()
    for anchor in _anchors():
        torch.manual_seed(0)
        x = torch.randn(anchor.steps, anchor.rows, anchor.size, device=device, dtype=anchor.dtype)
        lengths = torch.randint(1, anchor.steps + 1, (anchor.rows,), device=device)
        if anchor.rival is not None:
            rival = anchor.rival().to(device, anchor.dtype)
            forward, both = times(rival, anchor, x, lengths, options.rounds)
            print(f"{anchor.name}: {type(rival).__name__} of {type(rival).__module__}: {forward:.3f} / {both:.3f} ms")
            if isinstance(rival, tt.Recurrent):
                compiled = torch.compile(rival)
                forward, both = times(compiled, anchor, x, lengths, options.rounds)
                print(f"{anchor.name}: the loop under torch.compile: {forward:.3f} / {both:.3f} ms")
        layer = anchor.ours().to(device, anchor.dtype)
        for scheme in options.schemes:
            with asked(scheme):
                try:
                    forward, both = times(layer, anchor, x, lengths, options.rounds)
                    print(f"{anchor.name}: throughtime, {scheme}: {forward:.3f} / {both:.3f} ms")
                except REFUSALS as refusal:
                    print(f"{anchor.name}: throughtime, {scheme}: {refusal}")


if __name__ == "__main__":
    main()
