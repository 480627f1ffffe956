"""Tokens per second of language models in training: throughtime's loop against an ordinary one of torch.nn layers.

    python bench/language_speed.py [--only "gru 150"] [--rounds 7] [--threads 2] [--memory] [--csv FILE]

Both models have the same first weights and see the same units (drawn from a Zipf distribution: speed does not depend on
what they say), with truncated back-propagation through 64 steps, a carried state, clipping and Adam. They take turns,
and their losses must agree. `--memory` runs each model in a process of its own and prints its peak instead.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import throughtime as tt
from throughtime.bench.machine import multiply_add_rate, processor, versions
from throughtime.bench.report import markdown, write_csv
from throughtime.bench.timing import interleaved, once
from throughtime.tasks.lm.batches import Reading, Streams, Window
from throughtime.tasks.lm.checkpoint import Progress, Training
from throughtime.tasks.lm.model import LanguageModel, Shape
from throughtime.tasks.lm.training import make_optimizer, update

PLAIN = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
STEPS, CLIP, LR = 64, 1.0, 1e-3


class Case(NamedTuple):
    """A model and its batch; embedding 0: one-hot input."""

    cell: str
    hidden: int
    batch: int
    units: int
    embedding: int

    def __str__(self) -> str:
        return (
            f"{self.cell} {self.hidden}, batch {self.batch}, {self.units} {'words' if self.embedding else 'characters'}"
        )


CASES = [Case(cell, hidden, batch, 100, 0) for batch in (32, 1) for hidden in (150, 512) for cell in ("rnn", "gru")]
CASES += [Case(cell, 150, batch, units, 150) for units in (3000, 33000) for batch in (32, 1) for cell in ("rnn", "gru")]


class TorchModel(nn.Module):
    """The ordinary torch program. Its weights have the same names."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.units = case.units
        self.embedding = nn.Embedding(case.units, case.embedding) if case.embedding else None
        self.recurrent = nn.ModuleList([PLAIN[case.cell](case.embedding or case.units, case.hidden)])
        self.output = nn.Linear(case.hidden, case.units)

    def forward(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        one_hot = self.embedding is None
        vectors = functional.one_hot(inputs, self.units).float() if one_hot else self.embedding(inputs)
        features, state = self.recurrent[0](vectors, state)
        return self.output(features), state


class TorchLoop:
    """The ordinary loop."""

    def __init__(self, model: TorchModel) -> None:
        self.model, self.state = model, None
        self.optimizer = torch.optim.Adam(model.parameters(), LR, betas=(0.9, 0.99), fused=True)

    def update(self, window: Window) -> float:
        inputs, targets = torch.from_numpy(window.inputs), torch.from_numpy(window.targets)
        logits, state = self.model(inputs, self.state)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
        return loss.item()


class OurLoop:
    """The loop of `throughtime train lm`."""

    def __init__(self, model: LanguageModel) -> None:
        self.training = Training(model, make_optimizer("adam", model, LR), Progress())

    def update(self, window: Window) -> float:
        return update(self.training, window, CLIP)


def mine(case: Case) -> LanguageModel:
    shape = Shape(case.units, case.embedding, (case.hidden,), dropout=0.0)
    return LanguageModel(tt.cells.catalogue[case.cell](), shape)


class Feed:
    """Windows of a random text, one after the other."""

    def __init__(self, case: Case) -> None:
        likely = 1 / np.arange(1, case.units + 1)
        ids = np.random.default_rng(1).choice(case.units, 20 * STEPS * case.batch, p=likely / likely.sum())
        self.streams = Streams(Reading(ids.astype(np.int32), 0, rare_unknown=False), case.batch, STEPS, seed=1)
        self.index = 0

    def next(self) -> Window:
        self.index += 1
        return self.streams.window(0, 1 + self.index % (self.streams.windows_in(0) - 1))


def roofline(case: Case, flops: float, threads: int) -> tuple[float, float]:
    """Seconds that one step of training takes at least, and the part of its output layer: three products each, at the
    machine's peak; with batch 1 the recurrent matrix read forward and backward at each step."""
    tokens, gates = STEPS * case.batch, GATES[case.cell]
    output = 6 * tokens * case.hidden * case.units / flops
    others = 6 * tokens * gates * case.hidden * (case.hidden + case.embedding) / flops
    if case.batch == 1:
        others = max(others, 2 * STEPS * 4 * gates * case.hidden**2 / (threads * reading_speed(gates * case.hidden**2)))
    return output + others, output


def reading_speed(numbers: int) -> float:
    """Bytes per second that one core reads from the cache that holds so many float32 numbers."""
    few, many = torch.randn(numbers // 2), torch.randn(numbers)
    times = [min(once(lambda v=v: torch.dot(v, v), 200).wall for _ in range(15)) for v in (few, many)]
    return 4 * (len(many) - len(few)) / (times[1] - times[0])


def measured(case: Case, rounds: int) -> dict[str, float]:
    """Median seconds of a step of each."""
    torch.manual_seed(1)
    model, torchs_model = mine(case), TorchModel(case)
    torchs_model.load_state_dict(model.state_dict())
    both, feed = {"torch.nn": TorchLoop(torchs_model), "throughtime": OurLoop(model)}, Feed(case)
    for _ in range(3):
        window = feed.next()
        losses = [side.update(window) for side in both.values()]
        assert abs(losses[0] - losses[1]) < 1e-4 * losses[0], f"{case}: losses {losses}"
    feeds = {name: Feed(case) for name in both}
    calls = {name: lambda n=name: both[n].update(feeds[n].next()) for name in both}
    return {name: timing.wall for name, timing in interleaved(calls, rounds, seconds=60).items()}


def row(case: Case, times: dict[str, float], flops: float, threads: int) -> dict[str, str | int | float]:
    torchs, ours = times["torch.nn"], times["throughtime"]
    least, output = roofline(case, flops, threads)
    tokens = STEPS * case.batch
    return {
        "model": str(case),
        "torch.nn tokens/s": f"{tokens / torchs:,.0f}",
        "throughtime tokens/s": f"{tokens / ours:,.0f}",
        "ratio": f"{torchs / ours:.2f}",
        "step, ms": f"{1e3 * ours:.2f}",
        "of roofline": f"{least / ours:.0%}",
        "output layer at peak, ms": f"{1e3 * output:.2f}",
    }


def memory(case: Case, threads: int) -> dict[str, str | int | float]:
    """Peak memory of each in a process of its own, MB: all of it, and above what the process had before the model."""
    found: dict[str, str | int | float] = {"model": str(case)}
    for name in ("torch.nn", "throughtime"):
        command = [sys.executable, __file__, "--only", str(case), "--peak-of", name, "--threads", str(threads)]
        before, after = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        found |= {f"{name} peak, MB": after // 1024, f"{name} above import, MB": (after - before) // 1024}
    return found


def print_peak(case: Case, name: str) -> None:
    """KiB before the model is made, and at the peak."""
    torch.mm(torch.randn(64, 64), torch.randn(64, 64))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    side, feed = OurLoop(mine(case)) if name == "throughtime" else TorchLoop(TorchModel(case)), Feed(case)
    for _ in range(3):
        side.update(feed.next())
    print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="models whose name holds this text")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true", help="peak memory instead of speed")
    parser.add_argument("--peak-of", choices=("torch.nn", "throughtime"), help=argparse.SUPPRESS)
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    cases = [case for case in CASES if given.only in str(case)]
    if given.peak_of:
        print_peak(cases[0], given.peak_of)
        return
    print(f"{processor()}, {versions()}, {given.threads} threads, {STEPS} steps")
    if given.memory:
        rows = [memory(case, given.threads) for case in cases]
    else:
        times, flops = {}, multiply_add_rate(given.threads)
        for case in cases:
            times[case] = measured(case, given.rounds)
            flops = max(flops, multiply_add_rate(given.threads))  # the best moment of the run
        print(f"peak {flops / 1e9:.0f} GFLOP/s")
        rows = [row(case, found, flops, given.threads) for case, found in times.items()]
    print(markdown(rows))
    if given.csv:
        write_csv(given.csv, rows)


if __name__ == "__main__":
    main()
