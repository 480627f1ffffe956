"""Word numbers as input: the same numbers and gradients as the one-hot vectors that they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import pack_padded_sequence

import throughtime as tt


def gradients(layer: tt.Recurrent, output: Tensor, seed: int = 3) -> list[Tensor]:
    torch.manual_seed(seed)
    return list(torch.autograd.grad(output, list(layer.parameters()), torch.randn(output.shape, dtype=output.dtype)))


def vectors(layer: tt.Recurrent, words: Tensor) -> Tensor:
    return one_hot(words, layer.input_size).to(layer.weight_ih_l0.dtype)  # type: ignore[arg-type, union-attr]


def assert_as_vectors(layer: tt.Recurrent, words: Tensor) -> None:
    output, _ = layer(words)
    expected, _ = layer(vectors(layer, words))
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if output.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(output, expected, **tolerance)
    torch.testing.assert_close(gradients(layer, output), gradients(layer, expected), **tolerance)


def lying_apart(words: Tensor) -> Tensor:
    """The same numbers, each three places behind the one before it."""
    return words.unsqueeze(-1).expand(*words.shape, 3).contiguous()[..., 1]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("steps", "rows"), [(9, 5), (9, 1), (1, 5), (1, 1), (40, 33)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", [tt.RNN, tt.GRU, tt.LSTM])
def test_word_numbers_are_one_hot_vectors(
    kind: type[tt.Recurrent], dtype: torch.dtype, steps: int, rows: int, batch_first: bool
) -> None:
    torch.manual_seed(0)
    layer = kind(13, 37, 2, bidirectional=True, batch_first=batch_first).to(dtype)  # type: ignore[call-arg, arg-type]
    words = torch.randint(13, (rows, steps) if batch_first else (steps, rows))
    assert_as_vectors(layer, words)
    assert_as_vectors(layer, lying_apart(words))
    assert_as_vectors(layer, words.t().contiguous().t())


def test_a_vocabulary_larger_than_the_input_and_one_of_one_word() -> None:
    torch.manual_seed(0)
    assert_as_vectors(tt.GRU(1000, 5).double(), torch.randint(1000, (3, 2)))
    layer = tt.LSTM(1, 4).double()
    assert_as_vectors(layer, torch.zeros(6, 3, dtype=torch.int64))  # vectors and words of the same layer lie alike
    assert_as_vectors(layer, torch.zeros(6, 3, dtype=torch.int64))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    torch.manual_seed(0)
    layer, words = tt.LSTM(50, 150), torch.randint(50, (30, 64))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = layer(words)[0]
        alone = gradients(layer, expected)
        torch.set_num_threads(threads)
        output = layer(words)[0]
        torch.testing.assert_close(output, expected, rtol=0, atol=0)
        torch.testing.assert_close(gradients(layer, output), alone, rtol=0, atol=0)
    finally:
        torch.set_num_threads(before)


def test_padding_takes_no_part_whatever_stands_there() -> None:
    torch.manual_seed(0)
    layer, words = tt.GRU(9, 20, bidirectional=True).double(), torch.randint(9, (7, 4))
    lengths = torch.tensor([7, 2, 5, 1])
    output, _ = layer(words, lengths=lengths)
    packed, _ = layer(pack_padded_sequence(vectors(layer, words), lengths, enforce_sorted=False))
    torch.testing.assert_close(output.sum(), packed.data.sum(), rtol=1e-10, atol=1e-10)
    found = gradients(layer, output)
    words[torch.arange(7).unsqueeze(1) >= lengths] = 8
    torch.testing.assert_close(gradients(layer, layer(words, lengths=lengths)[0]), found, rtol=0, atol=0)


def test_gradients_of_gradients_and_frozen_weights() -> None:
    torch.manual_seed(0)
    layer, words = tt.LSTM(6, 5).double(), torch.randint(6, (4, 3))

    def twice(given: Tensor) -> list[Tensor]:
        first = torch.autograd.grad(layer(given)[0].square().sum(), list(layer.parameters()), create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), list(layer.parameters())))  # type: ignore[arg-type]

    torch.testing.assert_close(twice(words), twice(vectors(layer, words)), rtol=1e-10, atol=1e-10)
    layer.weight_ih_l0.requires_grad_(False)
    layer(words)[0].sum().backward()
    assert layer.weight_ih_l0.grad is None and layer.weight_hh_l0.grad is not None


def test_what_is_made_of_them_is_a_table_of_the_vocabulary() -> None:
    layer = tt.GRU(11, 6)
    of_words = tt.explain(layer, torch.zeros(5, 4, dtype=torch.int64)).layers[0].inference
    assert of_words["net"] == 11 * 3 * 6 * 4
    of_few = tt.explain(layer, torch.zeros(2, 1, dtype=torch.int64)).layers[0].inference
    assert of_few["net"] == 2 * 3 * 6 * 4  # columns are gathered
