"""What the command line says: one frozen dataclass per command. Loads neither torch nor NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

Unit = Literal["char", "word", "byte"]
Optimizer = Literal["sgd", "momentum", "rmsprop", "adagrad", "adam", "adamw"]

# What a continued run may change; everything else is fixed by the first command.
RESUMABLE = ("epochs", "minutes", "steps", "evaluate_every", "sample_length", "threads", "device", "watch")
BUDGET = ("epochs", "minutes", "steps")


@dataclass(frozen=True)
class TrainSettings:
    """Train a language model on text. With no file: the Python standard library's source on this machine."""

    data: Positional[Annotated[tuple[str, ...], arg(metavar="[FILE|FOLDER ...]")]] = ()
    """Text files, or folders searched for text files."""
    held_out: UseAppendAction[tuple[str, ...]] = ()
    """Text never trained on: a file (may be repeated), a fraction (0.05) or a number of characters. Default:
    a tenth, at most 300 000 characters; whole files when there are ten or more, else the end of the text."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not UTF-8: stop and name the place, or read them as U+FFFD."""
    unit: Unit = "char"
    """What the model reads and writes one by one."""
    vocabulary: int | None = None
    """Keep the N most frequent units; the others are read as unknown. Default: 3000 words, all characters."""
    by_line: bool = False
    """Each line is a sequence of its own (a poem, a name): the state starts afresh at each line."""

    cell: str = "lstm"
    """A name of the catalogue (rnn, gru, lstm, mgu, ...) or FILE.py:Name, a cell of your own."""
    hidden: tuple[int, ...] = (256,)
    """Units of the recurrent layers: one width for all, or one per layer. (Name files before this option.)"""
    layers: int | None = None
    """Number of recurrent layers. Default: as many as widths are given."""
    embedding: int | None = None
    """Width of the learned input vectors; 0: one-hot input straight into the recurrent layer.
    Default: 0 for at most 1024 units, else the first hidden width, at most 256."""
    dropout: float = 0.0
    """Probability with which inputs and outputs of the recurrent layers are dropped in training."""

    bptt: int | None = None
    """Steps through which errors flow back; the state is carried on. Default: 64, or 256 with --by-line."""
    batch: int | None = None
    """Sequences side by side. Default: 32, fewer if the text is short."""
    optimizer: Optimizer = "adam"
    """How gradients become updates."""
    lr: float | None = None
    """Largest learning rate. Default: by optimizer (adam 5e-3)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over the budget, after the warm-up: down to zero, or unchanged."""
    warmup: int = 100
    """Steps over which the learning rate rises from zero, at most a twentieth of the budget."""
    clip: float = 1.0
    """Largest norm of the gradient of the mean loss; 0: no clipping."""

    epochs: float | None = None
    """Stop after so many passes over the text."""
    minutes: float | None = None
    """Stop after so many minutes of training. Default, if neither --epochs nor --steps is given: 3, and at
    most 50 epochs."""
    steps: int | None = None
    """Stop after so many updates."""
    evaluate_every: int | None = None
    """Updates between evaluations. Default: ten evaluations, evenly over the budget."""
    sample_length: int = 300
    """Units of sampled text after each evaluation; 0: none."""

    watch: FlagCreatePairsOff[bool] = False
    """Show how far error flows back in time, beside the loss, and warn where it vanishes or explodes."""

    seed: int = 1
    """Starts the initial weights, the order of the data and the dropout."""
    threads: int | None = None
    """CPU threads. Default: torch's choice."""
    device: str = "cpu"
    """Where to compute: cpu, or cuda for an NVIDIA GPU."""
    out: str | None = None
    """Folder of the run, new or empty. Default: runs/lm, runs/lm-2, ..."""
    resume: str | None = None
    """Continue this run, exactly where it was saved last. A new budget may be given."""


@dataclass(frozen=True)
class SampleSettings:
    """Write text with a trained model, to the standard output."""

    run: Positional[str]
    """Folder of the run."""
    prime: str = ""
    """Text to begin with. Default: the beginning of a line."""
    length: int = 500
    """Units (characters, words or bytes) to write."""
    temperature: float = 1.0
    """Below 1: more likely text; above: more surprising; 0: always the likeliest unit."""
    top_k: int | None = None
    """Choose among the K likeliest units only."""
    top_p: float | None = None
    """Choose among the likeliest units that together have probability P."""
    seed: int | None = None
    """Same seed, same text. Default: a new one each time, which is told."""
    stop: str | None = None
    """End before this text appears."""
    weights: Literal["best", "last"] = "best"
    """Weights of the best evaluation, or the newest."""
    device: str = "cpu"
    """Where to compute: cpu, or cuda for an NVIDIA GPU."""


@dataclass(frozen=True)
class InspectSettings:
    """Draw what a trained model does with a text: how error flows back, states, gates, weights and their spectrum,
    which characters decide a prediction, and how surprised the model was."""

    run: Positional[str]
    """Folder of the run."""
    text: Positional[str]
    """A text, or the name of a file with one."""
    kind: Positional[Literal["flow", "states", "gates", "weights", "spectrum", "saliency", "surprise", "page"]]
    """What to draw; page: a web page in which one can point at each character and play the network."""
    out: Annotated[str | None, arg(metavar="FILE")] = None
    """The picture, .png or .svg, or the .html page. Default: the kind, as flow.png."""
    loss_at: str = "last"
    """The predictions whose error flows back: last, all, or the number of a step from 0."""
    lang: Literal["en", "zh"] = "en"
    """Language of what is said around the numbers; the text may be in any."""


@dataclass(frozen=True)
class EvalSettings:
    """Measure a trained model on text: loss, perplexity, bits per character, unknown rate."""

    run: Positional[str]
    """Folder of the run."""
    data: Positional[Annotated[tuple[str, ...], arg(metavar="FILE|FOLDER ...")]]
    """Text files, or folders searched for text files."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not UTF-8: stop and name the place, or read them as U+FFFD."""
    weights: Literal["best", "last"] = "best"
    """Weights of the best evaluation, or the newest."""
    device: str = "cpu"
    """Where to compute: cpu, or cuda for an NVIDIA GPU."""
