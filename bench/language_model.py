"""The same language model twice: from throughtime and from torch.nn, with the same weights, data and order.

    python bench/language_model.py TEXT [--cell lstm] [--hidden 256] [--steps 1000] [--threads 1]

The two are trained in turns, step by step, so that whatever else the machine does disturbs both alike. Prints the
training losses side by side, the held-out losses and the time each took.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import throughtime as tt
from throughtime.bench.machine import processor, versions
from throughtime.tasks.lm.batches import Reading, Streams, Window
from throughtime.tasks.lm.corpus import load_corpus
from throughtime.tasks.lm.evaluation import evaluate
from throughtime.tasks.lm.model import LanguageModel, Shape, map_state
from throughtime.tasks.lm.schedule import learning_rate
from throughtime.tasks.lm.settings import TrainSettings

PLAIN = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
EMBEDDING = 64


class TorchModel(nn.Module):
    """The ordinary torch program: embedding, recurrent layer, linear. Its weights have the same names."""

    def __init__(self, kind: str, units: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(units, EMBEDDING)
        self.recurrent = nn.ModuleList([PLAIN[kind](EMBEDDING, hidden, layers)])
        self.output = nn.Linear(hidden, units)

    def forward(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        features, state = self.recurrent[0](self.embedding(inputs), state)
        return self.output(features), state


class Side:
    """One of the two trainings."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        self.model, self.state = model, None
        self.optimizer = torch.optim.Adam(model.parameters(), lr, betas=(0.9, 0.99), fused=True)
        self.seconds, self.cpu_seconds, self.losses = 0.0, 0.0, []

    def step(self, window: Window, lr: float) -> None:
        """One update on a window, timed."""
        inputs, targets = torch.from_numpy(window.inputs), torch.from_numpy(window.targets)
        self.optimizer.param_groups[0]["lr"] = lr
        wall, cpu = time.perf_counter(), time.process_time()
        loss, state = self.loss(inputs, targets, None if window.fresh else self.state)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.state = detached(state)
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu
        self.losses.append(float(loss.detach()))

    def loss(self, inputs: Tensor, targets: Tensor, state: Any) -> tuple[Tensor, Any]:
        if isinstance(self.model, LanguageModel):
            features, state = self.model(inputs, state)
            return self.model.loss(features, targets)[0], state
        logits, state = self.model(inputs, state)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten()), state


def detached(state: Any) -> Any:
    if isinstance(state, list):
        return map_state(Tensor.detach, state)
    return state.detach() if isinstance(state, Tensor) else tuple(part.detach() for part in state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--cell", choices=PLAIN, default="lstm")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--bptt", type=int, default=64)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    corpus = load_corpus(TrainSettings(data=(given.text,)))
    units = corpus.vocabulary.size
    shape = Shape(units, EMBEDDING, (given.hidden,) * given.layers, 0.0)
    mine = LanguageModel(tt.cells.catalogue[given.cell](), shape)
    torchs = TorchModel(given.cell, units, given.hidden, given.layers)
    torchs.load_state_dict(mine.state_dict())
    sides = {"throughtime": Side(mine, given.lr), "torch.nn": Side(torchs, given.lr)}
    reading = Reading(corpus.training.ids, corpus.vocabulary.start, rare_unknown=True)
    streams = Streams(reading, given.batch, given.bptt, given.seed)

    print(f"{processor()}; {versions()}")
    print(f"{given.cell} {given.hidden} x {given.layers}, {units} units, {given.threads} threads; mean loss in nats")
    print(f"{'steps':>12}  {'throughtime':>12}  {'torch.nn':>12}")
    epoch = index = 0
    for step in range(given.steps):
        window = streams.window(epoch, index)
        lr = learning_rate(given.lr, "cosine", 100, step / given.steps, step)
        for side in sides.values() if step % 2 else reversed(sides.values()):
            side.step(window, lr)
        index += 1
        if index == streams.windows_in(epoch):
            epoch, index = epoch + 1, 0
        every = max(1, given.steps // 10)
        if (step + 1) % every == 0:
            means = [sum(side.losses[-every:]) / every for side in sides.values()]
            print(f"{step + 2 - every:>5} - {step + 1:>4}  {means[0]:>12.5f}  {means[1]:>12.5f}", flush=True)

    # Both are evaluated by the same code: torch's weights in our model.
    scores = [evaluate(mine, corpus.held_out, corpus.vocabulary, by_line=False)]
    mine.load_state_dict(torchs.state_dict())
    scores.append(evaluate(mine, corpus.held_out, corpus.vocabulary, by_line=False))
    print(f"{'held out':>12}  {scores[0].loss:>12.5f}  {scores[1].loss:>12.5f}")
    for name in ("seconds", "cpu_seconds"):
        values = [getattr(side, name) for side in sides.values()]
        print(
            f"{name:>12}  {values[0]:>12.1f}  {values[1]:>12.1f}   torch.nn / throughtime {values[1] / values[0]:.2f}"
        )


if __name__ == "__main__":
    main()
