"""Where the model's kernels come from: compiled just now, or from the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from throughtime.runtime import CompileEvent, subscribe
from throughtime.tasks.lm.model import LanguageModel


def prepare_kernels(model: LanguageModel, by_line: bool, tell: Callable[[str], None]) -> str:
    """Run the model once, forward and back, so that everything is compiled before the clock starts.

    Returns:
        One sentence: what was compiled and how long it took, or that the cache had it all.
    """
    compiled: list[CompileEvent] = []
    with listening(tell, compiled):
        started = time.monotonic()
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            inputs = torch.zeros(2, 2, dtype=torch.int64)
            features, _ = model(inputs, lengths=torch.tensor([2, 1]) if by_line else None)
            torch.autograd.backward(model.loss(features, inputs)[0])
            with torch.no_grad():
                model(inputs)
        model.zero_grad(set_to_none=True)
        seconds = time.monotonic() - started
    if not compiled:
        return f"from the cache, ready in {seconds:.2f} s"
    spent = sum(event.seconds for event in compiled)
    return f"compiled just now in {spent:.1f} s by {compiled[0].compiler}, kept for the next time"


@contextmanager
def listening(tell: Callable[[str], None], finished: list[CompileEvent]) -> Iterator[None]:
    """Within the context, `tell` says when a compiler first starts, and `finished` collects what it made."""
    told = False

    def heard(event: CompileEvent) -> None:
        nonlocal told
        if event.stage == "started" and not told:
            told = True
            tell(f"Compiling the kernels of this model with {event.compiler}; this happens once ...")
        elif event.stage == "finished":
            finished.append(event)

    end = subscribe(heard)
    try:
        yield
    finally:
        end()
