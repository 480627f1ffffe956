"""RNN, GRU and LSTM as ONNX's own operators, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ORDER = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}
"""ONNX's gate k is torch's gate ORDER[k]: z r h of r z n, i o f c of i f g o."""
OPSET, IR_VERSION = 14, 8
"""The oldest that have these operators as they are today, so that every version of the runtime reads the model."""


def make(
    kind: str, what: str, weights: Sequence[Tensor], x: Tensor, cotangent: Tensor, threads: int
) -> tuple[Callable[[], Any], Callable[[Any], list[Tensor]]]:
    """The call, and what turns its result into our layer's. `weights`: W [G·H, I], R [G·H, H] and their biases."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    order, hidden = ORDER[kind], weights[1].shape[1]

    def gates(tensor: Tensor) -> Tensor:
        blocks = tensor.chunk(len(order))
        return torch.cat([blocks[k] for k in order])

    w, r, *biases = (gates(t) for t in weights)
    arrays = {"W": w, "R": r, "B": torch.cat(biases)}
    # With one direction in front.
    constants = [numpy_helper.from_array(t[None].contiguous().numpy(), name) for name, t in arrays.items()]
    node = helper.make_node(kind, ["x", "W", "R", "B"], ["y"], hidden_size=hidden)
    if kind == "GRU":
        node.attribute.append(helper.make_attribute("linear_before_reset", 1))
    graph = helper.make_graph(
        [node],
        kind,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [x.shape[0], 1, x.shape[1], hidden])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {"x": x.numpy()}
    return lambda: session.run(None, given), lambda found: [torch.from_numpy(found[0]).squeeze(1)]
