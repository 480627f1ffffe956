"""Tokens a second of a language model in training, beside the same model of torch.nn's layers.

    python bench/cuda/language.py [--cell lstm] [--hidden 1024] [--layers 2] [--batch 64] [--bptt 64] [--units 10000]
                                  [--schemes block product model model,bfloat16]

Both train on the same random words, with Adam, with float32 weights; the loss after the last update is printed too.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import REFUSALS, asked, gpu, milliseconds
from torch import Tensor, nn

import throughtime as tt
from throughtime.tasks.lm.model import LanguageModel, Shape

RIVALS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Rival(nn.Module):
    """Embedding, torch.nn's layers, and a linear layer whose logits are kept."""

    def __init__(self, kind: str, units: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(units, hidden)
        self.recurrent = RIVALS[kind](hidden, hidden, num_layers=layers)
        self.output = nn.Linear(hidden, units)

    def loss_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        features, _ = self.recurrent(self.embedding(inputs))
        return nn.functional.cross_entropy(self.output(features).flatten(0, 1), targets.flatten())


class Ours(LanguageModel):
    def loss_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        features, _ = self(inputs)
        return tt.linear_cross_entropy(features, self.output.weight, targets, linear_bias=self.output.bias)


def measured(model: Any, words: Tensor, rounds: int) -> str:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    last: list[Tensor] = []

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = model.loss_of(words[:-1], words[1:])
        loss.backward()
        optimizer.step()
        last[:] = [loss.detach()]

    took = milliseconds(update, rounds)
    return f"{words[1:].numel() / took * 1000:,.0f} tokens/s, {took:.2f} ms an update, loss {float(last[0]):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", default="lstm", choices=RIVALS)
    for name, default in (("hidden", 1024), ("layers", 2), ("batch", 64), ("bptt", 64), ("units", 10000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--schemes", nargs="+", default=["block", "product", "model", "model,bfloat16"])
    parser.add_argument("--rounds", type=int, default=30)
    o = parser.parse_args()
    device = gpu()
    torch.manual_seed(0)
    words = torch.randint(0, o.units, (o.bptt + 1, o.batch), device=device)
    print(f"torch.nn: {measured(Rival(o.cell, o.units, o.hidden, o.layers).to(device), words, o.rounds)}")
    for scheme in o.schemes:
        torch.manual_seed(0)
        shape = Shape(o.units, o.hidden, (o.hidden,) * o.layers, 0.0)
        model = Ours(tt.cells.catalogue[o.cell](), shape).to(device)
        with asked(scheme):
            try:
                print(f"throughtime, {scheme}: {measured(model, words, o.rounds)}")
            except REFUSALS as refusal:
                print(f"throughtime, {scheme}: {refusal}")


if __name__ == "__main__":
    main()
