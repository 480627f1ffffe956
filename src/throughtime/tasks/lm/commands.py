"""train, sample, evaluate: what the command line calls. torch is loaded here and not before."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughtime.tasks.errors import Failure, UsageError
from throughtime.tasks.lm.device import check_device
from throughtime.tasks.lm.places import check_out, locked, new_folder
from throughtime.tasks.lm.resolve import check, resolve, resumed
from throughtime.tasks.lm.settings import EvalSettings, SampleSettings, TrainSettings

if TYPE_CHECKING:
    from throughtime.tasks.lm.corpus import Corpus
    from throughtime.tasks.lm.model import LanguageModel
    from throughtime.tasks.lm.run import Run


def train(settings: TrainSettings, parse: Callable[[TrainSettings], TrainSettings]) -> None:
    """`throughtime train lm`. parse: reads the same command line again with other defaults, for --resume."""
    check(settings)
    check_device(settings.device)
    if settings.resume is not None:
        _continue(settings.resume, parse)
    else:
        check_out(settings.out)
        _start(settings)


def sample(settings: SampleSettings) -> None:
    """`throughtime sample`: text to the standard output, everything else to the standard error."""
    from throughtime.tasks.lm.kernels import listening
    from throughtime.tasks.lm.report import visible, warn
    from throughtime.tasks.lm.run import Run
    from throughtime.tasks.lm.sampling import Choice, generate, unknown_in, until

    choice = Choice(settings.temperature, settings.top_k, settings.top_p)
    if settings.length < 1:
        raise UsageError(f"--length {settings.length}: give at least 1")
    if settings.seed is not None and settings.seed < 0:
        raise UsageError(f"--seed {settings.seed}: give at least 0")
    check_device(settings.device)
    prime = os.fsencode(settings.prime).decode("utf-8", "replace")
    run = Run.open(Path(settings.run))
    vocabulary, model = run.vocabulary(), _model(run, settings.weights).to(settings.device)
    unknown = unknown_in(prime, vocabulary)
    if unknown:
        warn(f"the model does not know {', '.join(map(repr, unknown))}: read as unknown")
    seed = secrets.randbits(32) if settings.seed is None else settings.seed
    if settings.seed is None and settings.temperature > 0:
        warn(f"seed {seed}")
    import numpy as np

    by_line = bool(run.config["settings"]["by_line"])
    generator = np.random.Generator(np.random.PCG64(seed))
    numbers = islice(generate(model, vocabulary, prime, choice, generator, by_line), settings.length)
    before = vocabulary.split(prime)[-1:] if vocabulary.unit == "word" else []
    safe = visible if sys.stdout.isatty() else str
    sys.stdout.write(safe(prime))
    with listening(warn, []):
        for piece in until(vocabulary.stream(numbers, before[0] if before else None), settings.stop):
            sys.stdout.write(safe(piece))
            sys.stdout.flush()
    sys.stdout.write("\n")


def evaluate(settings: EvalSettings) -> None:
    """`throughtime eval`: one line for each figure."""
    from throughtime.tasks.lm.corpus import load_text
    from throughtime.tasks.lm.evaluation import evaluate as score_of
    from throughtime.tasks.lm.kernels import listening
    from throughtime.tasks.lm.report import Screen, warn
    from throughtime.tasks.lm.run import Run

    if not settings.data:
        raise UsageError("eval: give the text to measure, as in: throughtime eval RUN FILE")
    check_device(settings.device)
    run = Run.open(Path(settings.run))
    vocabulary, model = run.vocabulary(), _model(run, settings.weights).to(settings.device)
    by_line = bool(run.config["settings"]["by_line"])
    text = load_text(settings.data, vocabulary, settings.errors, by_line)
    if not len(text.ids):
        raise Failure(f"{', '.join(settings.data)}: no {vocabulary.unit} in this text")
    with listening(warn, []):
        score = score_of(model, text, vocabulary, by_line)
    Screen().facts(
        [
            ("loss", f"{score.loss:.4f} nats per {vocabulary.unit}"),
            ("perplexity", f"{score.perplexity:.4f} per {vocabulary.unit}"),
            ("bits per character", f"{score.bits_per_character:.4f}"),
            ("unknown", f"{score.unknown_rate:.4%} of {score.units:,} {vocabulary.unit}s"),
            ("characters", f"{score.characters:,}"),
        ]
    )


def _start(settings: TrainSettings) -> None:
    from throughtime.tasks.lm.baselines import baselines
    from throughtime.tasks.lm.corpus import load_corpus

    corpus = load_corpus(settings)
    resolved, notes = resolve(settings, corpus)
    guide = baselines(corpus)

    import torch

    from throughtime.symbolic import save_cell
    from throughtime.tasks.cell.choice import choose_cell
    from throughtime.tasks.lm.model import LanguageModel, Shape
    from throughtime.tasks.lm.report import Screen
    from throughtime.tasks.lm.run import Run, new_config
    from throughtime.tasks.lm.session import Session, first_screen

    cell = choose_cell(settings.cell)
    _use_threads(resolved.threads)
    torch.manual_seed(resolved.seed)
    assert resolved.embedding is not None
    shape = Shape(corpus.vocabulary.size, resolved.embedding, resolved.hidden, resolved.dropout)
    model = _built(lambda: LanguageModel(cell, shape))
    model.start_from_frequencies(torch.from_numpy(corpus.training.ids).bincount(minlength=shape.units))
    model.to(resolved.device)
    screen = Screen()
    first_screen(screen, corpus, resolved, notes, guide, model)
    folder = new_folder(settings.out)
    with locked(folder):
        check_out(settings.out)  # another training may have begun, and ended, there meanwhile
        config = new_config(asdict(resolved), asdict(shape), corpus)
        run = Run.create(folder, config, corpus.vocabulary, save_cell(cell))
        session = Session(run, corpus, resolved, model, guide, screen)
        session.begin()
        session.train()


def _continue(given: str, parse: Callable[[TrainSettings], TrainSettings]) -> None:
    from throughtime.tasks.lm.baselines import baselines
    from throughtime.tasks.lm.corpus import load_corpus
    from throughtime.tasks.lm.report import Screen
    from throughtime.tasks.lm.run import Run, json_bytes
    from throughtime.tasks.lm.session import Session, first_screen

    folder = Path(given)
    run = Run.open(folder)
    settings, new_budget = resumed(_stored_settings(run.config), given, parse)
    check_device(settings.device)
    with locked(folder):
        corpus = load_corpus(settings, run.vocabulary())
        _same_text(run, corpus)
        _use_threads(settings.threads)
        model, guide, screen = run.empty_model().to(settings.device), baselines(corpus), Screen()
        first_screen(screen, corpus, settings, [], guide, model)
        session = Session(run, corpus, settings, model, guide, screen)
        session.restore(new_budget)
        run.config["settings"] = asdict(settings)
        run.publish("config.json", json_bytes(run.config))
        session.train()


def _built(build: Callable[[], LanguageModel]) -> LanguageModel:
    """The model, or one sentence when it is too large for this machine."""
    try:
        return build()
    except (RuntimeError, MemoryError) as error:
        if "allocate memory" in str(error) or isinstance(error, MemoryError):
            advice = "give smaller --hidden, --layers or --embedding"
            raise Failure(f"the model does not fit into memory: {advice}") from error
        raise


def _same_text(run: Run, corpus: Corpus) -> None:
    stored = run.config["data"]
    if corpus.fingerprint != stored["sha256"]:
        raise UsageError(
            f"--resume {run.folder}: the text is not the one this run began with "
            f"({stored['training_characters']:,} + {stored['held_out_characters']:,} characters then, "
            f"{corpus.training.characters:,} + {corpus.held_out.characters:,} now); give the old text, or "
            "start a new run"
        )


def _stored_settings(config: dict[str, Any]) -> TrainSettings:
    stored: dict[str, Any] = config["settings"]
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    return TrainSettings(**values)


def _model(run: Run, weights: str) -> LanguageModel:
    from throughtime.tasks.lm.checkpoint import load_last_weights

    if weights == "best":
        return run.model()
    model = run.empty_model()
    load_last_weights(run.folder, model)
    return model


def _use_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
