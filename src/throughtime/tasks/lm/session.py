"""A training with its run folder and its screen: what happens around the loop."""

from __future__ import annotations

import dataclasses
import json
import os
from itertools import islice
from typing import Any

import numpy as np

from throughtime.tasks.errors import Interrupted, UsageError
from throughtime.tasks.files import append_line, explained
from throughtime.tasks.interrupt import StopRequest
from throughtime.tasks.lm import checkpoint
from throughtime.tasks.lm.baselines import Baselines
from throughtime.tasks.lm.batches import Lines, Reading, Source, Streams
from throughtime.tasks.lm.checkpoint import Progress, Training
from throughtime.tasks.lm.corpus import Corpus
from throughtime.tasks.lm.curve import draw_curve
from throughtime.tasks.lm.device import described
from throughtime.tasks.lm.evaluation import Score, evaluate, thinned
from throughtime.tasks.lm.facts import baseline_fact, data_facts, model_fact, training_fact
from throughtime.tasks.lm.kernels import prepare_kernels
from throughtime.tasks.lm.model import LanguageModel
from throughtime.tasks.lm.report import Screen, progress_line
from throughtime.tasks.lm.run import WEIGHTS, Run, json_bytes, weights_bytes
from throughtime.tasks.lm.sampling import Choice, generate
from throughtime.tasks.lm.schedule import Budget
from throughtime.tasks.lm.settings import TrainSettings
from throughtime.tasks.lm.training import Measures, fraction_used, make_optimizer, run_training
from throughtime.tasks.lm.watching import ErrorWatch

QUICK_UNITS = 100_000  # of the held-out text are read at the evaluations on the way; all of it at the end
METRICS, SAMPLES, CURVE, RESULT = "metrics.jsonl", "samples.txt", "loss-curve.png", "result.json"


class Session:
    """One training: implements the loop's Watcher."""

    def __init__(
        self,
        run: Run,
        corpus: Corpus,
        settings: TrainSettings,
        model: LanguageModel,
        guide: Baselines | None,
        screen: Screen,
    ) -> None:
        assert settings.lr is not None
        self._run, self._corpus, self._settings, self._guide, self._screen = (
            run,
            corpus,
            settings,
            guide,
            screen,
        )
        self._training = Training(model, make_optimizer(settings.optimizer, model, settings.lr), Progress())
        self._source = _source(corpus, settings)
        assert settings.bptt is not None
        self._watch = ErrorWatch(model, corpus.training.ids, settings.bptt) if settings.watch else None
        self._quick = thinned(corpus.held_out, corpus.vocabulary, QUICK_UNITS, settings.by_line)

    def begin(self) -> None:
        """Save the state before the first step, so that a run can always be continued."""
        self._screen.facts([("run", f"{self._run.folder} (Ctrl-C stops and saves)")])
        for name in (METRICS, SAMPLES):
            append_line(self._run.folder / name, "")
        self.save()

    def restore(self, new_budget: bool) -> None:
        """Go back to the newest checkpoint, and cut the logs to what it knows."""
        checkpoint.load(self._run.folder, self._training, self._screen.line)
        progress = self._training.progress
        for name, size in ((METRICS, progress.metrics_bytes), (SAMPLES, progress.samples_bytes)):
            with explained(self._run.folder / name):
                os.truncate(self._run.folder / name, size)
        budget = Budget(self._settings.epochs, self._settings.minutes, self._settings.steps)
        if fraction_used(progress, budget, self._source) >= 1:
            what = "the new budget is used up already" if new_budget else "it has finished"
            raise UsageError(
                f"--resume {self._run.folder}: {what} (step {progress.step}, epoch {progress.epoch}, "
                f"{progress.seconds / 60:.2f} minutes); give a larger budget, for instance "
                f"--minutes {progress.seconds / 60 + 5:.0f}"
            )
        self._screen.line(f"Continuing at step {progress.step}, after {progress.seconds / 60:.2f} minutes.")

    def train(self) -> None:
        """Run the loop, then tell the result; when stopped by a signal, say how to continue."""
        folder = self._run.folder
        if self._watch is not None:
            self._watch.look()  # compiles its kernels before the clock runs
            self._tell_error_flow(self._watch)
        self._screen.start()
        try:
            with StopRequest() as stop:
                run_training(self._training, self._source, self._settings, self._measure, self, stop)
        except Interrupted as error:
            self._screen.stop()
            draw_curve(folder / METRICS, folder / CURVE, self._guide, self._title())
            resume = f"continue with: throughtime train lm --resume {folder}"
            raise Interrupted(f"{error}; {resume}", error.exit_code - 128) from None
        finally:
            self._screen.stop()
        self._finish()

    def _tell_error_flow(self, watch: ErrorWatch) -> None:
        for line in watch.lines:
            self._screen.line(line)
        for sentence in watch.warnings():
            self._screen.line(f"warning: {sentence}", "yellow", wrap=True)

    def advanced(self, fraction: float, epoch: float, loss: float, units_per_second: float) -> None:
        told = f"epoch {epoch:.2f}  loss {loss:.3f}  {units_per_second:,.0f} {self._settings.unit}s/s "
        if self._watch is not None:
            if self._watch.due and self._screen.interactive:
                self._watch.look()
            told += f"\nerror flow {self._watch.strip}"
        self._screen.advance(fraction, told)

    def evaluated(self, measures: Measures, best: bool) -> None:
        folder, progress = self._run.folder, self._training.progress
        if best:
            self._run.publish(WEIGHTS, weights_bytes(self._training.model))
        self._screen.line(progress_line(measures, self._settings.unit, best), wrap=True)
        append_line(folder / METRICS, json.dumps(_metrics(measures)) + "\n")
        if self._watch is not None:
            self._watch.look()
            self._tell_error_flow(self._watch)
        text = self._sample(progress.step)
        if text:
            self._screen.sample(text)
            append_line(folder / SAMPLES, f"--- step {progress.step}\n{text}\n")

    def save(self) -> None:
        folder, progress = self._run.folder, self._training.progress
        progress.metrics_bytes = (folder / METRICS).stat().st_size
        progress.samples_bytes = (folder / SAMPLES).stat().st_size
        checkpoint.save(folder, self._training)

    def _measure(self) -> Score | None:
        if not len(self._quick.ids):
            return None
        return evaluate(self._training.model, self._quick, self._corpus.vocabulary, self._settings.by_line)

    def _sample(self, step: int) -> str:
        """Text of --sample-length units; has its own random numbers, so that training does not notice."""
        vocabulary, model = self._corpus.vocabulary, self._training.model
        generator = np.random.Generator(np.random.PCG64([self._settings.seed, step]))
        numbers = generate(model, vocabulary, "", Choice(), generator, self._settings.by_line)
        text = vocabulary.decode(islice(numbers, self._settings.sample_length))
        model.train()
        return text

    def _finish(self) -> None:
        folder, progress, screen = self._run.folder, self._training.progress, self._screen
        result: dict[str, Any] = {
            "steps": progress.step,
            "seconds": progress.seconds,
            "best_step": progress.best_step,
        }
        screen.line(f"Done: {progress.step:,} steps in {progress.seconds / 60:.2f} minutes.", "bold")
        if self._guide is not None:
            score = evaluate(self._run.model(), self._corpus.held_out, self._corpus.vocabulary, self._settings.by_line)
            result["held_out"] = score_fields(score)
            result["baselines"] = dataclasses.asdict(self._guide)
            screen.line(
                f"Held-out text, all {score.units:,} {self._settings.unit}s, weights of step "
                f"{progress.best_step}: {score.bits_per_character:.4f} bits per character "
                f"(xz {self._guide.xz:.2f}, unigram {self._guide.unigram:.2f}), "
                f"loss {score.loss:.4f} nats, perplexity {score.perplexity:.4g}",
                "bold",
            )
        self._run.publish(RESULT, json_bytes(result))
        if draw_curve(folder / METRICS, folder / CURVE, self._guide, self._title()):
            screen.line(f"Loss curve: {folder / CURVE}")
        screen.line(f"Write text with: throughtime sample {folder}")

    def _title(self) -> str:
        widths = "-".join(map(str, self._settings.hidden))
        title = f"{self._settings.cell.rpartition(':')[2]} {widths}"
        source = self._corpus.source
        # The font of the picture has no Chinese.
        return f"{title}, {source}" if source.isascii() and len(source) < 70 else title


def score_fields(score: Score) -> dict[str, float]:
    """A score as JSON has it."""
    return {
        "loss": score.loss,
        "perplexity": score.perplexity,
        "bits_per_character": score.bits_per_character,
        "unknown_rate": score.unknown_rate,
        "units": score.units,
        "characters": score.characters,
    }


def first_screen(
    screen: Screen,
    corpus: Corpus,
    settings: TrainSettings,
    notes: list[str],
    guide: Baselines | None,
    model: LanguageModel,
) -> None:
    """Tell everything there is to know before the first step; compiles what is not compiled yet."""
    facts = data_facts(corpus)
    if guide is not None:
        facts.append(baseline_fact(guide))
    facts += [model_fact(model, settings), training_fact(settings), *(("note", note) for note in notes)]
    screen.facts(facts)
    kernel = prepare_kernels(model, settings.by_line, screen.line)
    screen.facts(
        [
            ("device", described(model.device)),
            ("kernel", kernel),
        ]
    )


def _source(corpus: Corpus, settings: TrainSettings) -> Source:
    assert settings.batch is not None
    assert settings.bptt is not None
    vocabulary = corpus.vocabulary
    reading = Reading(corpus.training.ids, vocabulary.start, rare_unknown=vocabulary.unit != "byte")
    kind = Lines if settings.by_line else Streams
    return kind(reading, settings.batch, settings.bptt, settings.seed)


def _metrics(measures: Measures) -> dict[str, Any]:
    row = {name: value for name, value in vars(measures).items() if name != "score"}
    score = measures.score
    return row | {
        "held_out_loss": score and score.loss,
        "perplexity": score and score.perplexity,
        "bits_per_character": score and score.bits_per_character,
    }
