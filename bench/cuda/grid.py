"""Every scheme on a grid of cells, sizes and batches, beside the model's estimate: what its guesses are corrected by.

    python bench/cuda/grid.py [--cells LSTM GRU Elman] [--hidden 64 128 256 512 768 1024] [--batches 1 16 64 256]
                              [--product float] > grid.csv

One line for each: cell, hidden size, batch, scheme, nanoseconds of a step of the recurrence alone, estimated cycles.
"""

from __future__ import annotations

import argparse

import torch
from common import REFUSALS, asked, gpu, milliseconds

import throughtime as tt
from throughtime.nn import cuda_model
from throughtime.nn.cuda_device import machine_of
from throughtime.nn.cuda_kernels import problem
from throughtime.nn.cuda_wish import PRODUCTS

STEPS = 256
NAMES = {"Alone": "block", "Cluster": "cluster", "Grid": "grid", "Product": "product"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=["LSTM", "GRU", "Elman"])
    parser.add_argument("--hidden", nargs="+", type=int, default=[64, 128, 256, 512, 768, 1024])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64, 256])
    parser.add_argument("--product", default="float", choices=PRODUCTS)
    options = parser.parse_args()
    device = gpu()
    facts = machine_of(device).facts
    print("cell,hidden,batch,scheme,nanoseconds a step,estimated cycles")
    for name in options.cells:
        for hidden in options.hidden:
            layer = tt.Recurrent(getattr(tt.cells, name)(), 1, hidden, device=device)
            kind = layer.derived.kind(layer.sizes(0), (False,), (0,), True)
            recurrence = kind.program.forward(False)
            numbers = kind.plan(False, torch.float32).numbers_of(recurrence)
            for rows in options.batches:
                x = torch.randn(STEPS, rows, 1, device=device)
                given = problem(recurrence, numbers, torch.float32, rows, 1)
                for scheme in cuda_model.candidates(given, facts, PRODUCTS[options.product]):
                    text = NAMES[scheme.exchange] + (f":{scheme.members}" if scheme.members > 1 else "")
                    with asked(f"{text},{options.product}"), torch.no_grad():
                        try:
                            took = milliseconds(lambda: layer(x)) / STEPS * 1e6  # noqa: B023
                        except REFUSALS as refusal:
                            print(f"# {name} {hidden} {rows} {text}: {refusal}")
                            continue
                    print(f"{name},{hidden},{rows},{text},{took:.0f},{cuda_model.cycles(given, facts, scheme):.0f}")


if __name__ == "__main__":
    main()
