"""Documents -> training text and held-out text, as numbers, with what there is to say about them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from throughtime.tasks.errors import Failure, UsageError
from throughtime.tasks.lm.settings import TrainSettings
from throughtime.tasks.lm.text import Document, Documents, read_documents
from throughtime.tasks.lm.vocabulary import UNKNOWN, Ids, Vocabulary, build_vocabulary

HELD_OUT_CHARACTERS = 300_000
WHOLE_FILES = 10  # from so many files on, whole files are held out


@dataclass(frozen=True)
class Text:
    """One text as numbers.

    ids: [N]; for by-line text every line ends in its line end. characters: of the text it was made from.
    """

    ids: Ids
    characters: int

    def unknown_rate(self, vocabulary: Vocabulary) -> float:
        """Share of units the vocabulary does not know."""
        if vocabulary.unit == "byte" or not len(self.ids):
            return 0.0
        return float(np.mean(self.ids == UNKNOWN))


@dataclass(frozen=True)
class Corpus:
    """Everything training needs from the data."""

    source: str
    files: int
    vocabulary: Vocabulary
    training: Text
    held_out: Text
    held_out_text: str
    split: str
    notes: tuple[str, ...]
    fingerprint: str  # SHA-256 of both texts


def load_corpus(settings: TrainSettings, vocabulary: Vocabulary | None = None) -> Corpus:
    """Read, split and number the text of `settings`; a resumed run brings its vocabulary."""
    documents = read_documents(settings.data, settings.unit, settings.errors)
    training, held_out, split = _split(documents, settings)
    if settings.by_line:
        training, held_out = whole_lines(training), whole_lines(held_out)
    if vocabulary is None:
        vocabulary = build_vocabulary(training, settings.unit, settings.vocabulary)
    corpus = Corpus(
        source=documents.source,
        files=len(documents.items),
        vocabulary=vocabulary,
        training=Text(vocabulary.encode(training), len(training)),
        held_out=Text(vocabulary.encode(held_out), len(held_out)),
        held_out_text=held_out,
        split=split,
        notes=tuple(documents.notes),
        fingerprint=_fingerprint(training, held_out),
    )
    if len(corpus.training.ids) < 2:
        raise Failure(
            f"the training text has {len(corpus.training.ids)} {settings.unit}s: at least 2 are needed to predict one"
        )
    return corpus


def load_text(paths: tuple[str, ...], vocabulary: Vocabulary, errors: str, by_line: bool) -> Text:
    """The text of `paths` for an evaluation, as the model's vocabulary reads it."""
    text = _joined(read_documents(paths, vocabulary.unit, errors).items)
    if by_line:
        text = whole_lines(text)
    return Text(vocabulary.encode(text), len(text))


def whole_lines(text: str) -> str:
    """The non-empty lines, each with its line end."""
    return "".join(f"{line}\n" for line in text.split("\n") if line)


def _split(documents: Documents, settings: TrainSettings) -> tuple[str, str, str]:
    """Training text, held-out text, and the sentence that says how they were divided."""
    share, characters, paths = _held_out_wish(settings.held_out)
    items = documents.items
    if paths:
        held = read_documents(paths, settings.unit, settings.errors)
        documents.notes.extend(held.notes)
        return _joined(items), _joined(held.items), f"held out: {held.source}"
    total = sum(len(item.text) for item in items)
    wanted = characters if characters is not None else min(int(share * total), HELD_OUT_CHARACTERS)
    if wanted >= total:
        raise UsageError(f"--held-out {wanted}: the text has only {total} characters; hold out fewer")
    if len(items) >= WHOLE_FILES:
        chosen = _choose_files(items, wanted)
        held_text = _joined([item for item in items if item.name in chosen])
        rest = [item for item in items if item.name not in chosen]
        if rest:
            cut = held_text[:wanted]
            return (
                _joined(rest),
                cut,
                f"held out: {len(cut):,} characters of {len(chosen)} whole files (by name hash)",
            )
    text = _joined(items)
    at = len(text) - wanted
    if settings.by_line:
        at = text.rfind("\n", 0, at) + 1 or at
    return text[:at], text[at:], f"held out: the last {len(text) - at:,} characters"


def _held_out_wish(given: tuple[str, ...]) -> tuple[float, int | None, tuple[str, ...]]:
    if not given:
        return 0.1, None, ()
    if len(given) == 1 and not Path(given[0]).exists():
        try:
            number = float(given[0])
        except ValueError:
            return 0.0, None, given
        if 0 < number < 1:
            return number, None, ()
        if number >= 1 and number.is_integer():
            return 0.0, int(number), ()
        raise UsageError(f"--held-out {given[0]}: give files, a fraction between 0 and 1, or a number of characters")
    return 0.0, None, given


def _choose_files(items: list[Document], wanted: int) -> set[str]:
    """Names of files, in the order of their names' hashes, until `wanted` characters are reached."""
    chosen: set[str] = set()
    characters = 0
    for item in sorted(items, key=lambda item: hashlib.sha256(item.name.encode()).hexdigest()):
        if characters >= wanted:
            break
        chosen.add(item.name)
        characters += len(item.text)
    return chosen


def _fingerprint(training: str, held_out: str) -> str:
    total = hashlib.sha256(training.encode("utf-8", "surrogateescape"))
    total.update(b"\xff")  # never part of UTF-8: separates the two
    total.update(held_out.encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _joined(items: list[Document]) -> str:
    """One text; a file that does not end its last line gets its line end."""
    texts = [item.text if item.text.endswith("\n") or len(items) == 1 else f"{item.text}\n" for item in items]
    return "".join(texts)
