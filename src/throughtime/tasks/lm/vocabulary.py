"""Text <-> numbers, for characters, words and bytes."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from throughtime.tasks.errors import Failure
from throughtime.tasks.lm.settings import Unit
from throughtime.tasks.lm.words import Chinese, chinese_mode, separator, split_words

Ids = NDArray[np.int32]

UNKNOWN = 0  # the number of the unknown unit, for characters and words
DEFAULT_WORDS = 3000


@dataclass(frozen=True)
class Vocabulary:
    """The units a model knows. For characters and words, number 0 is the unknown unit; bytes know all 256.

    tokens: the unit of each number; "" at the unknown one. Empty for bytes.
    """

    unit: Unit
    tokens: tuple[str, ...] = ()
    chinese: Chinese = "characters"

    @property
    def size(self) -> int:
        """Number of units, the unknown one included."""
        return 256 if self.unit == "byte" else len(self.tokens)

    @property
    def start(self) -> int:
        """The unit read before the first one: the line end."""
        return 10 if self.unit == "byte" else self._numbers["\n"]

    def __contains__(self, token: str) -> bool:
        """Whether the unit is known (not for bytes)."""
        return token in self._numbers

    def split(self, text: str) -> list[str]:
        """The units of `text` as strings (not for bytes)."""
        return split_words(text, self.chinese) if self.unit == "word" else list(text)

    def encode(self, text: str) -> Ids:
        """The numbers of the units of `text`."""
        if self.unit == "byte":
            return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8).astype(np.int32)
        if self.unit == "char":
            return self._number_of_code_point[_code_points(text)]
        return np.fromiter((self._numbers.get(word, UNKNOWN) for word in self.split(text)), np.int32)

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of `numbers`; the unknown unit reads as U+FFFD."""
        return "".join(self.stream(numbers))

    def stream(self, numbers: Iterable[int], before: str | None = None) -> Iterator[str]:
        """Pieces of valid text as the numbers come in; half a UTF-8 character is held back.

        before: the last word written before these, for the space between.
        """
        if self.unit == "byte":
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            for number in numbers:
                yield decoder.decode(bytes([number]))
            return
        for number in numbers:
            token = self.tokens[number] if number != UNKNOWN else "\ufffd"
            if self.unit == "word":
                yield separator(before, token, self.chinese)
                before = token
            yield token

    def to_json(self) -> bytes:
        """The file vocabulary.json."""
        content = {"unit": self.unit, "chinese": self.chinese, "tokens": self.tokens}
        return json.dumps(content, ensure_ascii=False, indent=0).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> Vocabulary:
        """Read vocabulary.json back."""
        try:
            fields = json.loads(content)
            return cls(fields["unit"], tuple(fields["tokens"]), fields["chinese"])
        except (ValueError, KeyError, TypeError) as error:
            raise Failure("vocabulary.json is damaged: it does not hold unit, chinese and tokens") from error

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens) if number != UNKNOWN}

    @cached_property
    def _number_of_code_point(self) -> Ids:
        table = np.full(0x110000, UNKNOWN, np.int32)
        for token, number in self._numbers.items():
            table[ord(token)] = number
        return table


def build_vocabulary(text: str, unit: Unit, limit: int | None) -> Vocabulary:
    """The `limit` most frequent units of the training text, most frequent first; the line end is always one.

    limit: default all characters, the 3000 most frequent words. Equal counts are ordered by code point.
    """
    if unit == "byte":
        return Vocabulary("byte")
    chinese: Chinese = "characters"
    counts: dict[str, int]
    if unit == "char":
        points, numbers = np.unique(_code_points(text), return_counts=True)
        counts = {chr(point): int(count) for point, count in zip(points, numbers, strict=True)}
    else:
        chinese = chinese_mode(text)
        counts = Counter(split_words(text, chinese))
        limit = limit or DEFAULT_WORDS
    ranked = sorted(counts, key=lambda token: (-counts[token], token))[:limit]
    if "\n" not in ranked:
        ranked = [*ranked[: limit - 1 if limit else None], "\n"]
    return Vocabulary(unit, ("", *ranked), chinese)


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
