"""Text -> units -> windows: encodings, vocabularies, splits, and the order of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughtime.tasks.errors import Failure, UsageError
from throughtime.tasks.lm.batches import IGNORED, Lines, Reading, Streams
from throughtime.tasks.lm.corpus import load_corpus, load_text, whole_lines
from throughtime.tasks.lm.settings import TrainSettings
from throughtime.tasks.lm.text import read_documents
from throughtime.tasks.lm.vocabulary import UNKNOWN, Vocabulary, build_vocabulary
from throughtime.tasks.lm.words import Chinese, chinese_mode, split_words


def write(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


# --- reading


def test_the_place_of_a_wrong_byte_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "latin.txt", b"caf\xe9 au lait")
    with pytest.raises(Failure, match=r"latin.txt is not UTF-8: byte 0xe9 at offset 3 .*--errors replace"):
        read_documents((file,), "char", "strict")
    documents = read_documents((file,), "char", "replace")
    assert documents.items[0].text == "caf� au lait"
    assert "1 undecodable places" in documents.notes[0]


def test_byte_order_marks(tmp_path: Path) -> None:
    marked = write(tmp_path, "marked.txt", b"\xef\xbb\xbfhi\xef\xbb\xbf!")
    assert read_documents((marked,), "char", "strict").items[0].text == "hi\ufeff!"
    wide = write(tmp_path, "wide.txt", "你好".encode("utf-16"))
    assert read_documents((wide,), "char", "strict").items[0].text == "你好"
    broken = write(tmp_path, "broken.txt", b"\xef\xbb\xbfa\xff")
    with pytest.raises(Failure, match="byte 0xff at offset 4"):
        read_documents((broken,), "char", "strict")


def test_any_bytes_are_text_of_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 2
    file = write(tmp_path, "any.bin", content)
    ids = load_text((file,), Vocabulary("byte"), "strict", by_line=False).ids
    assert bytes(ids.astype(np.uint8)) == content


def test_a_folder_gives_its_text_files_in_order(tmp_path: Path) -> None:
    write(tmp_path, "b.txt", b"two")
    write(tmp_path, "a/z.md", b"one\n")
    write(tmp_path, "picture.png", b"\x89PNG\0\0")
    write(tmp_path, ".hidden", b"no")
    write(tmp_path, "latin.txt", b"\xe9")
    write(tmp_path, "empty.txt", b"")
    documents = read_documents((str(tmp_path),), "char", "strict")
    assert [item.name for item in documents.items] == ["a/z.md", "b.txt"]
    assert "1 files left out, not UTF-8: latin.txt" in documents.notes[0]
    assert "1 binary files left out" in documents.notes[1]


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    empty = write(tmp_path, "empty.txt", b"")
    with pytest.raises(Failure, match="is empty"):
        read_documents((empty,), "char", "strict")
    one = write(tmp_path, "one.txt", b"x")
    with pytest.raises(Failure, match="fewer than two characters"):
        read_documents((one,), "char", "strict")
    (tmp_path / "folder").mkdir()
    with pytest.raises(Failure, match="holds no text file"):
        read_documents((str(tmp_path / "folder"),), "char", "strict")
    with pytest.raises(UsageError, match="no such file"):
        read_documents((str(tmp_path / "missing"),), "char", "strict")


# --- units


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1))
def test_characters_and_bytes_come_back(text: str) -> None:
    for unit in ("char", "byte"):
        if unit == "byte" and any("\ud800" <= c <= "\udfff" for c in text):
            continue
        vocabulary = build_vocabulary(text, unit, None)  # type: ignore[arg-type]
        assert vocabulary.decode(vocabulary.encode(text).tolist()) == text
        assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


def test_the_most_frequent_characters_are_kept() -> None:
    vocabulary = build_vocabulary("aaabbc\n", "char", 2)
    assert vocabulary.tokens == ("", "a", "\n")
    assert vocabulary.encode("abz\n").tolist() == [1, UNKNOWN, UNKNOWN, 2]
    assert "a" in vocabulary
    assert "b" not in vocabulary


def test_half_a_character_is_held_back() -> None:
    vocabulary = Vocabulary("byte")
    pieces = list(vocabulary.stream("é你😀".encode()))
    assert pieces == ["", "é", "", "", "你", "", "", "", "😀"]


WORDS = [
    ("It's 5 o'clock, (really)!\n", ["It's", "5", "o'clock", ",", "(", "really", ")", "!", "\n"]),
    ("床前明月光，\n", ["床", "前", "明", "月", "光", "，", "\n"]),
    ("用RNN写诗", ["用", "RNN", "写", "诗"]),
]


def join_words(words: list[str], chinese: Chinese) -> str:
    """What a model of these words writes for them."""
    vocabulary = Vocabulary("word", ("", *dict.fromkeys(words)), chinese)
    return vocabulary.decode([vocabulary.tokens.index(word) for word in words])


@pytest.mark.parametrize(("text", "words"), WORDS)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text, "characters") == words
    assert join_words(words, "characters") == text


def test_segmented_chinese_keeps_its_words() -> None:
    text = "我 昨天 上学 迟到 了 ， 老师 批评 了 我 。\n"
    assert chinese_mode(text) == "segmented"
    assert split_words(text, "segmented")[:3] == ["我", "昨天", "上学"]
    assert join_words(["我", "昨天", "，", "我"], "segmented") == "我 昨天，我"
    assert chinese_mode("hello world") == "characters"


def test_words_are_the_most_frequent() -> None:
    vocabulary = build_vocabulary("a b b c c c\n", "word", 2)
    assert vocabulary.tokens == ("", "c", "\n")
    assert vocabulary.encode("c b\n").tolist() == [1, UNKNOWN, 2]


# --- the split


def test_the_tail_is_held_out(tmp_path: Path) -> None:
    file = write(tmp_path, "text.txt", b"0123456789" * 10)
    corpus = load_corpus(TrainSettings(data=(file,)))
    assert (corpus.training.characters, corpus.held_out.characters) == (90, 10)
    assert corpus.held_out_text == "0123456789"
    corpus = load_corpus(TrainSettings(data=(file,), held_out=("25",)))
    assert corpus.held_out.characters == 25


def test_whole_files_are_held_out(tmp_path: Path) -> None:
    for k in range(20):
        write(tmp_path, f"{k}.txt", f"file {k:02} ".encode() * 10)
    corpus = load_corpus(TrainSettings(data=(str(tmp_path),)))
    assert "2 whole files" in corpus.split
    held = {line for line in corpus.held_out_text.split("\n") if line}
    assert len(held) == 2
    again = load_corpus(TrainSettings(data=(str(tmp_path),)))
    assert again.fingerprint == corpus.fingerprint


def test_held_out_files_and_unknown_rate(tmp_path: Path) -> None:
    train, held = write(tmp_path, "train.txt", b"aabb" * 10), write(tmp_path, "held.txt", b"aaxx")
    corpus = load_corpus(TrainSettings(data=(train,), held_out=(held,)))
    assert corpus.training.characters == 40
    assert corpus.held_out.unknown_rate(corpus.vocabulary) == 0.5


def test_lines_are_made_whole() -> None:
    assert whole_lines("a\n\nbc") == "a\nbc\n"


def test_the_standard_library_is_the_default_and_always_the_same() -> None:
    first, second = load_corpus(TrainSettings()), load_corpus(TrainSettings())
    assert first.fingerprint == second.fingerprint
    assert first.held_out.characters == 300_000
    assert first.training.characters > 2_000_000
    assert "import" in first.held_out_text


# --- windows


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 300), st.integers(1, 9), st.integers(1, 40), st.integers(0, 3))
def test_streams_show_every_unit_once(count: int, batch: int, bptt: int, epoch: int) -> None:
    batch = min(batch, count)
    ids = np.arange(1, count + 1, dtype=np.int32)
    streams = Streams(Reading(ids, start=0, rare_unknown=False), batch, bptt, seed=3)
    windows = [streams.window(epoch, k) for k in range(streams.windows_in(epoch))]
    inputs = np.concatenate([window.inputs for window in windows])
    targets = np.concatenate([window.targets for window in windows])
    assert max(len(window.inputs) for window in windows) <= bptt
    assert [window.fresh for window in windows] == [True] + [False] * (len(windows) - 1)
    assert inputs.size == batch * (count // batch)
    assert len(np.unique(inputs)) == inputs.size
    assert (targets == inputs % count + 1).all(), "each target is the unit after its input, in a ring"
    assert (inputs[1:] == targets[:-1]).all(), "a stream goes on from window to window"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=20),
    st.integers(1, 6),
    st.integers(1, 8),
    st.integers(0, 2),
)
def test_lines_show_every_unit_once(lengths: list[int], batch: int, bptt: int, epoch: int) -> None:
    # Line k holds the number k + 2 repeatedly and ends in 1.
    ids = np.concatenate([[k + 2] * (n - 1) + [1] for k, n in enumerate(lengths)]).astype(np.int32)
    lines = Lines(Reading(ids, start=1, rare_unknown=False), batch, bptt, seed=3)
    seen: list[int] = []
    for index in range(lines.windows_in(epoch)):
        window = lines.window(epoch, index)
        assert window.lengths is not None
        assert len(window.inputs) == window.lengths.max() <= bptt
        for b, length in enumerate(window.lengths):
            column = window.targets[:, b]
            assert (column[length:] == IGNORED).all()
            seen.extend(column[:length].tolist())
            assert (window.inputs[1:length, b] == column[: max(0, length - 1)]).all()
            if window.fresh:
                assert window.inputs[0, b] == 1
    assert sorted(seen) == sorted(ids.tolist())


def test_the_order_of_lines_depends_on_seed_and_epoch_alone() -> None:
    ids = np.array([2, 1, 3, 1, 4, 1, 5, 1, 6, 1], np.int32)

    def order(seed: int, epoch: int) -> list[int]:
        lines = Lines(Reading(ids, 1, rare_unknown=False), 5, 8, seed)
        return lines.window(epoch, 0).targets[0].tolist()

    assert order(1, 1) == order(1, 1)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) > 5


def test_rare_units_are_unknown_in_turns() -> None:
    reading = Reading(np.array([5, 5, 6, 7, 8, 1], np.int32), start=1, rare_unknown=True)
    even, odd = reading.in_epoch(0).tolist(), reading.in_epoch(1).tolist()
    assert even == [5, 5, UNKNOWN, 7, UNKNOWN, 1]
    assert odd == [5, 5, 6, UNKNOWN, 8, 1]
