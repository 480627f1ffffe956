"""Sessions of a layer on a GPU, which the CPU plays: step by step, the numbers of the whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import throughtime as tt
from emulator import Emulator
from throughtime.nn.cuda_session import GpuSession

pytest_plugins = ["test_cuda_emulated"]

T, B, IN, H = 6, 3, 5, 7

CASES: dict[str, Callable[[], Any]] = {
    "lstm": lambda: tt.LSTM(IN, H, 2, dtype=torch.float64),
    "projection": lambda: tt.LSTM(IN, H, 2, proj_size=3, dtype=torch.float64),
    "mgu": lambda: tt.Recurrent(tt.cells.MinimalGatedUnit(), IN, H, dtype=torch.float64, batch_first=True),
    "sizes": lambda: tt.Recurrent(tt.cells.LSTM(), IN, [H, 4], 2, dtype=torch.float64),
    "learned": lambda: tt.Recurrent(tt.cells.GRU(), IN, H, learn_initial_state=True, dtype=torch.float64),
    "time": lambda: tt.Recurrent(Clocked(), IN, H, dtype=torch.float64),
}


class Clocked(tt.Cell):
    """A step that knows its number."""

    def step(self, x: Any, h: Any) -> Any:
        return tt.tanh(tt.affine("net", x, h) + 0.1 * tt.time())


def flat(state: Any) -> list[torch.Tensor]:
    return [state] if isinstance(state, torch.Tensor) else [t for part in state for t in flat(part)]


def same(found: Any, wanted: Any) -> None:
    for a, b in zip(flat(found), flat(wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_steps_are_the_sequence(name: str, emulated: Callable[..., Emulator]) -> None:
    torch.manual_seed(0)
    layer = CASES[name]()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.4)
    x = torch.randn(T, B, IN, dtype=torch.float64)
    with torch.no_grad():
        wanted, last = layer(x.transpose(0, 1) if layer.batch_first else x)
        wanted = wanted.transpose(0, 1) if layer.batch_first else wanted
    emulator = emulated("block")
    session = GpuSession(layer, B)
    place = session.output.data_ptr()
    made = [session.step(x[t]).clone() for t in range(4)]
    rest = session.run(x[4:].transpose(0, 1) if layer.batch_first else x[4:])
    same([*made, *(rest.transpose(0, 1) if layer.batch_first else rest)], list(wanted))
    same(session.state, last)
    assert session.output.data_ptr() == place and len(emulator.schemes) == layer.num_layers * 5
    session.reset()
    same(session.step(x[0]), wanted[0])
    if name != "time":  # which begins at step 0 again
        session.reset(last)
        with torch.no_grad():
            more = layer(x.transpose(0, 1) if layer.batch_first else x, last)[0]
        same(session.step(x[0]), (more.transpose(0, 1) if layer.batch_first else more)[0])


def test_words_and_new_weights(emulated: Callable[..., Emulator]) -> None:
    torch.manual_seed(0)
    layer = tt.GRU(IN, H, dtype=torch.float64)
    words = torch.randint(IN, (T, 1))
    with torch.no_grad():
        wanted = layer(words)[0]
    emulated("block")
    session = layer_session = GpuSession(layer)
    same([session.step(int(w)).clone() for w in words[:3]], list(wanted[:3]))
    same([session.step(w).clone() for w in words[3:5]], list(wanted[3:5]))
    same(session.run(words[5:]), wanted[5:])
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(-1)
        session.reset()
        same(session.step(words[0]), wanted[0])  # of the weights that it was opened with
        session.refresh()
        session.reset()
        same(session.step(words[0]), layer(words[:1])[0][0])
    assert all(not p.requires_grad for p in layer_session._own.parameters())
    assert all(p.requires_grad for p in layer.parameters())


def test_sixteen_bits_are_stored_and_float32_computed(emulated: Callable[..., Emulator]) -> None:
    torch.manual_seed(0)
    layer = tt.LSTM(IN, H, dtype=torch.bfloat16)
    x = torch.randn(T, B, IN, dtype=torch.bfloat16)
    with torch.no_grad():
        wanted = tt.LSTM(IN, H)
        wanted.load_state_dict(layer.state_dict())
        expected = wanted(x.float())[0]
    emulated("block")
    session = GpuSession(layer, B)
    found = torch.stack([session.step(x[t]).clone() for t in range(T)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert {s.dtype for s in session.state} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (torch.zeros(2, IN), ValueError, r"a step expects x as \(1, 5\), got \(2, 5\)"),
        (torch.zeros(2).long(), ValueError, r"a step expects word numbers as \(1,\), got \(2,\)"),
        ("word", TypeError, "a step expects a tensor or a word number, got str"),
        (IN, IndexError, r"word numbers must lie in \[0, 5\), the vocabulary, got 5 to 5"),
        (
            torch.zeros(1, IN, device="meta"),
            RuntimeError,
            r"the session is on cpu, the input on meta: move it with .to\(\)",
        ),
    ],
)
def test_refusals(given: Any, error: type[Exception], message: str, emulated: Callable[..., Emulator]) -> None:
    emulated("block")
    session = GpuSession(tt.GRU(IN, H))
    with pytest.raises(error, match=message):
        session.step(given)
    with pytest.raises(ValueError, match=r"run expects x as \(T, 1, 5\), got \(4, 2, 5\)"):
        session.run(torch.zeros(4, 2, IN))
    with pytest.raises(TypeError, match="run expects a tensor, got int"):
        session.run(3)  # type: ignore[arg-type]


def test_layers_that_have_no_session() -> None:
    with pytest.raises(NotImplementedError, match="it has no place for both directions"):
        GpuSession(tt.GRU(IN, H, bidirectional=True))
    with pytest.raises(NotImplementedError, match="on the CPU and on NVIDIA GPUs, not on meta"):
        tt.GRU(IN, H, device="meta").session()
