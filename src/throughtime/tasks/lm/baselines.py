"""What simple models need for the held-out text, in bits per character, so that a figure means something."""

from __future__ import annotations

import lzma
from dataclasses import dataclass

import numpy as np

from throughtime.tasks.lm.corpus import Corpus

XZ_CHARACTERS = 4_000_000  # more would take longer than anybody waits


@dataclass(frozen=True)
class Baselines:
    """Bits per character of the held-out text.

    uniform: every unit equally likely. unigram: the training text's frequencies, each count plus one.
    xz: the size of the held-out text alone, compressed by xz -9e (its first 4 million characters).
    """

    uniform: float
    unigram: float
    xz: float


def baselines(corpus: Corpus) -> Baselines | None:
    """The baselines, or None without held-out text."""
    held_out, size = corpus.held_out, corpus.vocabulary.size
    if not len(held_out.ids):
        return None
    counts = np.bincount(corpus.training.ids, minlength=size) + 1
    bits = -np.log2(counts / counts.sum())
    text = corpus.held_out_text[:XZ_CHARACTERS]
    compressed = lzma.compress(text.encode("utf-8", "surrogateescape"), preset=9 | lzma.PRESET_EXTREME)
    return Baselines(
        uniform=float(np.log2(size)) * len(held_out.ids) / held_out.characters,
        unigram=float(bits[held_out.ids].sum()) / held_out.characters,
        xz=8 * len(compressed) / len(text),
    )
