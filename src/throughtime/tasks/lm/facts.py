"""The first screen: what was found in the data, and what will be trained on it."""

from __future__ import annotations

from throughtime.tasks.lm.baselines import Baselines
from throughtime.tasks.lm.corpus import Corpus
from throughtime.tasks.lm.model import LanguageModel
from throughtime.tasks.lm.settings import TrainSettings

Fact = tuple[str, str]  # name and value

CHINESE = {
    "characters": "each Chinese character is a word",
    "segmented": "Chinese words as the spaces divide them",
    "jieba": "Chinese words as jieba divides them",
}


def data_facts(corpus: Corpus) -> list[Fact]:
    """What was found in the text."""
    total = corpus.training.characters + corpus.held_out.characters
    files = f"{corpus.files} {'file' if corpus.files == 1 else 'files'}"
    return [
        ("data", f"{corpus.source}: {files}, {total:,} characters"),
        ("split", f"{corpus.split}; training on {corpus.training.characters:,} characters"),
        ("units", _units(corpus)),
        *(("note", note) for note in [*corpus.notes, *_caution(corpus)]),
    ]


def baseline_fact(guide: Baselines) -> Fact:
    """What simple models need for the same text."""
    figures = f"uniform {guide.uniform:.2f}, unigram {guide.unigram:.2f}, xz -9e of it alone {guide.xz:.2f}"
    return "baselines", f"bits per character of the held-out text: {figures}"


def training_fact(settings: TrainSettings) -> Fact:
    """How it will be trained."""
    limits = [
        f"{value:g} {name}" for name in ("minutes", "epochs", "steps") if (value := getattr(settings, name)) is not None
    ]
    return "training", (
        f"{settings.optimizer}, learning rate {settings.lr:g} ({settings.schedule}), {settings.batch} "
        f"{'lines' if settings.by_line else 'streams'} side by side, windows of {settings.bptt}, "
        f"until {' or '.join(limits)}"
    )


def model_fact(model: LanguageModel, settings: TrainSettings) -> Fact:
    """What will be trained."""
    shape = model.shape
    reading = f"embedding {shape.embedding}" if shape.embedding else "one-hot input"
    sizes = f"{', '.join(map(str, shape.hidden))}, {reading}, {shape.units} outputs"
    return "model", f"{settings.cell} of {sizes}: {model.parameter_count():,} parameters"


def _caution(corpus: Corpus) -> list[str]:
    if corpus.vocabulary.unit != "word":
        return []
    return ["spaces are not predicted, nor how an unknown word is spelt: bits per character look better than they are"]


def _units(corpus: Corpus) -> str:
    vocabulary = corpus.vocabulary
    if vocabulary.unit == "byte":
        return "256 bytes"
    training, held_out = (text.unknown_rate(vocabulary) for text in (corpus.training, corpus.held_out))
    chinese = f", {CHINESE[vocabulary.chinese]}" if vocabulary.unit == "word" else ""
    return (
        f"{vocabulary.size - 1:,} {vocabulary.unit}s and the unknown one{chinese}; unknown: {training:.2%} "
        f"of the training text, {held_out:.2%} of the held-out text"
    )
