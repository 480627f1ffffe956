"""The node tests of RNN, GRU and LSTM that the ONNX package carries: weights loaded, outputs as expected."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest
import torch

import throughtime as tt

helper = pytest.importorskip("onnx.helper", reason="the onnx package, which carries the cases, is not installed")


def node_cases():
    """The cases that importing these modules of the package registers, without the operators around them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = importlib.import_module("onnx.backend.test.case.node")
        for name in ("rnn", "gru", "lstm"):
            importlib.import_module(f"onnx.backend.test.case.node.{name}")
    return {
        case.name: case
        for case in node._NodeTestCases
        if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in ("RNN", "GRU", "LSTM")
    }


CASES = node_cases()


def test_there_are_18_cases():
    assert len(CASES) == 18


@pytest.mark.parametrize("name", CASES)
def test_a_node_gives_the_expected_outputs(name):
    """Within the tolerance of the case itself."""
    case = CASES[name]
    (node,) = case.model.graph.node
    ((inputs, expected),) = case.data_sets
    given = dict(zip([n for n in node.input if n], inputs, strict=True))
    tensors = {n: torch.tensor(v) for n, v in given.items()}
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    attributes = {n: v.decode() if isinstance(v, bytes) else v for n, v in attributes.items()}
    # The operator's inputs by place: X, W, R, B, sequence_lens, initial_h, initial_c, P.
    places = [tensors.get(n) for n in node.input] + [None] * (8 - len(node.input))
    x, W, R, B, lengths, h, c, P = places
    module = tt.from_onnx(node.op_type, W, R, B, P, **attributes)
    with torch.no_grad():
        outputs = module(x, lengths, h, c)
    wanted = dict(zip([n for n in node.output if n], expected, strict=True))
    assert wanted
    for output, title in zip(outputs, node.output, strict=False):
        if title:
            np.testing.assert_allclose(output, wanted[title], rtol=case.rtol, atol=case.atol)
            assert output.shape == wanted[title].shape


def test_the_tolerance_of_the_cases_is_narrow_enough_to_fail():
    """Most cases have the same weights in all gates; the peepholes tell at least that one is read wrongly."""
    case = CASES["test_lstm_with_peepholes"]
    ((inputs, expected),) = case.data_sets
    x, W, R, B, lengths, h, c, P = map(torch.tensor, inputs)
    with torch.no_grad():
        _, end, _ = tt.from_onnx("LSTM", W, R, B, -P)(x, lengths, h, c)
    assert not np.allclose(end, expected[0], rtol=case.rtol, atol=case.atol)
