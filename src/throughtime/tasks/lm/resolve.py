"""Settings as given -> settings as used: values are checked, defaults that depend on the data filled in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from throughtime.tasks.errors import UsageError
from throughtime.tasks.lm.corpus import Corpus
from throughtime.tasks.lm.schedule import DEFAULT_LR
from throughtime.tasks.lm.settings import BUDGET, RESUMABLE, TrainSettings

ONE_HOT_UNITS = 1024  # up to so many units, one-hot input costs less than an embedding
LARGEST_EMBEDDING = 256
DEFAULT_MINUTES, DEFAULT_EPOCHS = 3.0, 50.0
# Where the text is may change; what it says is compared by its checksum.
_PLACES = ("data", "held_out", "out", "resume")


def check(settings: TrainSettings) -> None:
    """Refuse values that cannot be, before anything is read."""
    least: dict[str, float] = {
        "vocabulary": 1, "layers": 1, "embedding": 0, "bptt": 1, "batch": 1, "warmup": 0, "clip": 0,
        "steps": 1, "evaluate_every": 1, "sample_length": 0, "threads": 1, "seed": 0,
    }  # fmt: skip
    for name, bound in least.items():
        value = getattr(settings, name)
        if value is not None and not value >= bound:
            raise UsageError(f"{_flag(name)} {value}: give at least {bound:g}")
    for name in ("lr", "epochs", "minutes"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{_flag(name)} {value}: give a number above 0")
    if not 0 <= settings.dropout < 1:
        raise UsageError(f"--dropout {settings.dropout}: give a probability from 0 to below 1")
    if settings.watch and settings.device != "cpu":
        raise UsageError(f"--watch with --device {settings.device}: error flow is shown on the CPU only; leave one out")
    if not settings.hidden or min(settings.hidden) < 1:
        raise UsageError("--hidden: give one width, or one for each layer, each at least 1")
    if settings.layers is not None and len(settings.hidden) not in (1, settings.layers):
        raise UsageError(
            f"--layers {settings.layers} with {len(settings.hidden)} widths in --hidden: give one width for "
            "all layers, or as many as layers"
        )


def resolve(settings: TrainSettings, corpus: Corpus) -> tuple[TrainSettings, list[str]]:
    """Every setting with its value, and what had to be made smaller to fit the text."""
    hidden = settings.hidden * settings.layers if settings.layers and len(settings.hidden) == 1 else settings.hidden
    units = len(corpus.training.ids)
    notes: list[str] = []
    embedding = settings.embedding
    if embedding is None:
        embedding = 0 if corpus.vocabulary.size <= ONE_HOT_UNITS else min(hidden[0], LARGEST_EMBEDDING)
    bptt = settings.bptt or (256 if settings.by_line else 64)
    batch = settings.batch or 32
    if not settings.by_line and batch * bptt > units:
        before = batch, bptt
        bptt = min(bptt, units)
        batch = max(1, min(batch, units // bptt))
        notes.append(
            f"the training text has only {units} {settings.unit}s: {batch} streams with windows of {bptt}, "
            f"instead of {before[0]} with {before[1]}"
        )
    minutes, epochs = settings.minutes, settings.epochs
    if minutes is None and epochs is None and settings.steps is None:
        minutes, epochs = DEFAULT_MINUTES, DEFAULT_EPOCHS
    lr = settings.lr if settings.lr is not None else DEFAULT_LR[settings.optimizer]
    resolved = replace(
        settings, hidden=hidden, layers=len(hidden), embedding=embedding, bptt=bptt, batch=batch, lr=lr,
        minutes=minutes, epochs=epochs, data=tuple(map(_absolute, settings.data)),
        held_out=tuple(map(_absolute, settings.held_out)), out=None, resume=None,
    )  # fmt: skip
    return resolved, notes


def resumed(
    stored: TrainSettings, folder: str, parse: Callable[[TrainSettings], TrainSettings]
) -> tuple[TrainSettings, bool]:
    """The settings of a continued run: those stored, with what the command line may and does change.

    parse: reads the same command line again, with other defaults.

    Returns:
        The settings, and whether there is a new budget.
    """
    base = replace(stored, epochs=None, minutes=None, steps=None, held_out=())
    again = parse(base)
    new_budget = any(getattr(again, name) is not None for name in BUDGET)
    for field in fields(TrainSettings):
        old, new = getattr(base, field.name), getattr(again, field.name)
        if old != new and field.name not in (*RESUMABLE, *_PLACES):
            raise UsageError(
                f"--resume {folder}: {_flag(field.name)} was {_said(old)} and cannot become {_said(new)}; "
                f"only {', '.join(map(_flag, RESUMABLE))} may change; start a new run for anything else"
            )
    if not new_budget:
        again = replace(again, **{name: getattr(stored, name) for name in BUDGET})
    check(again)
    held_out = again.held_out or stored.held_out
    data, held_out = tuple(map(_absolute, again.data)), tuple(map(_absolute, held_out))
    return replace(again, resume=None, out=None, data=data, held_out=held_out), new_budget


def _absolute(path: str) -> str:
    """A path that still holds from another folder; what is no path (a fraction, a number) stays."""
    return str(Path(path).absolute()) if Path(path).exists() else path


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
