"""Runs test files of torch's own with our classes in place of torch.nn's recurrent ones.

    python tests/peers.py PATH/TO/pytorch/test/test_modules.py -k "RNN or GRU or LSTM"
    python tests/peers.py PATH/TO/pytorch/test/test_nn.py -k "rnn or gru or lstm or RNN or GRU or LSTM"

torch's test files come with its sources, not with its wheels; they need expecttest and hypothesis. Everything after the
name of this script goes to pytest. What a test reaches through `torch.nn.GRU`, `from torch.nn import GRU`,
`torch.nn.modules.rnn.GRU` or torch's table of modules is then ours.
"""

from __future__ import annotations

import sys

import pytest
import torch

import throughtime as tt

NAMES = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")


def replace_torch_classes() -> None:
    """To be called before anything imports the classes by name."""
    for name in NAMES:
        for place in (torch.nn, torch.nn.modules, torch.nn.modules.rnn):
            setattr(place, name, getattr(tt, name))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    replace_torch_classes()
    sys.exit(pytest.main([*sys.argv[1:], "-c", "/dev/null", "-p", "no:cacheprovider"]))
