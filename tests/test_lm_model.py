"""The language model against plain torch: loss and gradients, evaluation, sampling."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional

import throughtime as tt
from throughtime.tasks.errors import UsageError
from throughtime.tasks.lm.corpus import Text
from throughtime.tasks.lm.evaluation import evaluate, thinned
from throughtime.tasks.lm.model import LanguageModel, Shape
from throughtime.tasks.lm.sampling import Choice, generate, until
from throughtime.tasks.lm.schedule import Budget, learning_rate
from throughtime.tasks.lm.training import clip_gradients
from throughtime.tasks.lm.vocabulary import Vocabulary, build_vocabulary

LETTERS = build_vocabulary("abcdefg\n", "char", None)


def small_model(hidden: tuple[int, ...] = (6, 6, 5), embedding: int = 0) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(tt.cells.catalogue["gru"](), Shape(LETTERS.size, embedding, hidden, 0.0)).eval()


def test_padding_does_not_count() -> None:
    model = small_model()
    features = torch.randn(3, 2, 5)
    targets = torch.tensor([[1, 2], [3, -1], [-1, -1]])
    mean, count = model.loss(features, targets)
    rows = features[[0, 0, 1], [0, 1, 0]]
    expected = functional.cross_entropy(model.output(rows), torch.tensor([1, 2, 3]), reduction="sum")
    assert count == 3
    assert mean.item() * 3 == pytest.approx(expected.item(), rel=1e-6)
    assert model.nats(features, targets) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("largest", [0.1, 50.0, math.inf])
def test_gradients_are_clipped_as_torch_clips_them(largest: float) -> None:
    models = [small_model(), small_model()]
    for model in models:
        model.loss(torch.ones(3, 2, 5) * torch.arange(5.0), torch.ones(3, 2, dtype=torch.int64))[0].backward()
    mine, torchs = models
    norm = clip_gradients(torch.optim.SGD(mine.parameters(), 1.0), largest)
    expected = torch.nn.utils.clip_grad_norm_(torchs.parameters(), largest)
    assert 0.1 < norm < 50.0
    assert norm == pytest.approx(expected.item(), rel=1e-6)
    for p, q in zip(mine.parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=0)


def nats_one_by_one(model: LanguageModel, ids: list[int], by_line: bool) -> float:
    """The obvious evaluation: one unit at a time, in one stream."""
    state, previous, nats = None, LETTERS.start, 0.0
    for number in ids:
        with torch.no_grad():
            features, state = model(torch.tensor([[previous]]), state)
            nats -= float(model.logits(features[0, 0]).log_softmax(0)[number])
        previous = number
        if by_line and number == LETTERS.start:
            state = None
    return nats


@pytest.mark.parametrize("by_line", [False, True])
@pytest.mark.parametrize("embedding", [0, 3])
def test_evaluation_is_the_obvious_one(by_line: bool, embedding: int) -> None:
    model = small_model(embedding=embedding)
    text = "abcab\ngfedcba\n" + "ab\n" * 80 + "d" * 200 + "\n"
    ids = LETTERS.encode(text)
    score = evaluate(model, Text(ids, len(text)), LETTERS, by_line)
    assert score.units == len(ids)
    assert score.nats == pytest.approx(nats_one_by_one(model, ids.tolist(), by_line), rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(score.loss))
    assert score.bits_per_character == pytest.approx(score.nats / math.log(2) / len(text))


def test_reading_in_pieces_side_by_side_changes_next_to_nothing() -> None:
    model = small_model(hidden=(6,))
    generator = np.random.Generator(np.random.PCG64(0))
    ids = generator.integers(1, LETTERS.size, 5000).astype(np.int32)
    score = evaluate(model, Text(ids, 5000), LETTERS, by_line=False)
    assert score.nats == pytest.approx(nats_one_by_one(model, ids.tolist(), by_line=False), rel=1e-5)


def test_a_part_stands_for_a_long_text() -> None:
    ids = LETTERS.encode("abc\nabcdef\nab\n" * 80)
    lines = thinned(Text(ids, len(ids)), LETTERS, 300, by_line=True)
    assert 200 < len(lines.ids) == lines.characters <= 400
    assert lines.ids[-1] == LETTERS.start
    assert LETTERS.decode(lines.ids.tolist()).split("\n")[0] == "abc"
    assert len(thinned(Text(ids, len(ids)), LETTERS, 300, by_line=False).ids) == 300
    assert len(thinned(Text(ids, len(ids)), LETTERS, 2000, by_line=False).ids) == len(ids)


def test_learning_starts_at_the_unigram_loss() -> None:
    model = small_model()
    torch.nn.init.zeros_(model.output.weight)
    counts = torch.tensor([0, 8, 4, 2, 1, 1, 0, 0, 0])
    model.start_from_frequencies(counts)
    expected = (counts + 1) / (counts + 1).sum()
    torch.testing.assert_close(model.logits(torch.zeros(5)).softmax(0), expected)


# --- sampling

SCORES = np.log(np.array([0.5, 0.3, 0.15, 0.05]))


def drawn(choice: Choice) -> list[float]:
    generator = np.random.Generator(np.random.PCG64(1))
    numbers = [choice.draw(SCORES, generator) for _ in range(4000)]
    return [numbers.count(k) / 4000 for k in range(4)]


def test_draws_follow_the_distribution() -> None:
    assert drawn(Choice()) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert drawn(Choice(top_k=2)) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert drawn(Choice(top_p=0.6)) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert drawn(Choice(top_p=1e-9)) == [1, 0, 0, 0]
    assert drawn(Choice(temperature=0)) == [1, 0, 0, 0]
    assert drawn(Choice(temperature=1e-300)) == [1, 0, 0, 0]
    squares = np.array([0.25, 0.09, 0.0225, 0.0025])
    assert drawn(Choice(temperature=0.5)) == pytest.approx((squares / squares.sum()).tolist(), abs=0.03)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": -1.0}, "--temperature -1.0"),
        ({"temperature": math.nan}, "--temperature nan"),
        ({"temperature": math.inf}, "--temperature inf"),
        ({"top_k": 0}, "--top-k 0"),
        ({"top_p": 0.0}, r"--top-p 0\.0"),
        ({"top_p": math.nan}, "--top-p nan"),
    ],
)
def test_impossible_choices_are_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Choice(**options)  # type: ignore[arg-type]


def sample(model: LanguageModel, prime: str, by_line: bool = False, count: int = 60) -> list[int]:
    generator = np.random.Generator(np.random.PCG64(5))
    return list(islice(generate(model, LETTERS, prime, Choice(), generator, by_line), count))


def test_sampling_is_repeatable_and_never_draws_the_unknown() -> None:
    model = small_model()
    with torch.no_grad():
        model.output.bias[0] = 100.0
    first = sample(model, "abc")
    assert first == sample(model, "abc")
    assert 0 not in first


def test_a_long_prime_is_read_whole() -> None:
    model = small_model()
    with torch.no_grad():
        model.output.weight.mul_(20)
    prime = "abcdefg" * 100
    state = None
    for number in [LETTERS.start, *LETTERS.encode(prime).tolist()]:
        features, state = model(torch.tensor([[number]]), state)
    likeliest = int(model.logits(features[0, 0])[1:].argmax()) + 1
    generator = np.random.Generator(np.random.PCG64(5))
    assert next(generate(model, LETTERS, prime, Choice(temperature=0), generator, by_line=False)) == likeliest


def test_by_line_only_the_line_at_hand_matters() -> None:
    model = small_model()
    assert sample(model, "gg\nab", by_line=True) == sample(model, "ab", by_line=True)
    assert sample(model, "gg\nab") != sample(model, "ab")


def test_the_stop_text_is_not_written() -> None:
    assert "".join(until(iter(["ab", "cS", "TO", "Px"]), "STOP")) == "abc"
    assert "".join(until(iter(["ab", "cS", "TO"]), "STOP")) == "abcSTO"
    assert list(until(iter("aab"), "ab"))[:2] == ["", "a"], "what may be the beginning of the stop is held back"


def test_bytes_sample_as_valid_text() -> None:
    torch.manual_seed(0)
    model = LanguageModel(tt.cells.catalogue["rnn"](), Shape(256, 0, (4,), 0.0))
    generator = np.random.Generator(np.random.PCG64(5))
    vocabulary = Vocabulary("byte")
    text = vocabulary.decode(islice(generate(model, vocabulary, "é", Choice(), generator, False), 100))
    assert text.encode("utf-8")


# --- schedule


def test_the_first_limit_ends_a_run() -> None:
    budget = Budget(epochs=2, minutes=1, steps=None)
    assert budget.fraction(epochs=1, seconds=15, steps=9) == 0.5
    assert budget.fraction(epochs=0.1, seconds=45, steps=9) == 0.75
    assert Budget(None, None, 10).fraction(99, 99, 20) == 1


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(1.0, "cosine", 10, step / 1000, step) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates.index(max(rates)) == 10
    assert rates[1000] == 0
    short = [learning_rate(1.0, "constant", 100, step / 20, step) for step in range(20)]
    assert short[1:] == [1.0] * 19, "a short run does not spend itself in the warm-up"
