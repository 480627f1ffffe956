"""That the emulation is sharp: a mistake in the order of events that is put into the kernels shows in it. And that what
is right gives the same bits in many orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

import throughtime as tt
from emulator import Emulator
from test_cuda_emulated import Emulated, case, check, results


class Mistake(NamedTuple):
    """What in a file of the skeletons becomes what, and under which scheme it must show."""

    scheme: str
    file: str
    changes: dict[str, str]


EXPECT = "    if (thread() == 0) mbarrier_expect"
WAIT = "    mbarrier_wait(barriers + (exchanges & 1), (exchanges >> 1) & 1);\n"
MADE = "(typename Phase::Products{});\n"
ADDED = "    each(0, Phase::totals, [&]"
BYTES = "(shared(k).width - shared(k).count) * "
FETCHED = "void finish() { sync(); }\n  void step() { ++"
CLUSTER = {
    "one barrier": {"barriers + (exchanges & 1)": "barriers", "(exchanges >> 1) & 1": "exchanges & 1"},
    "pushes to barriers that are not open": {"cluster_sync();  // nobody pushes": "//"},
    "sent before it is made": {"    sync();\n" + EXPECT: EXPECT},
    "used before all has come": {WAIT: ""},
}
GRID = {
    "one half of the mailbox": {"(steps_made & 1) * mailbox_step": "0"},
    "words that do not say their step": {"uint32_t(word) != steps_made": "uint32_t(word) == 0"},
    "a step that is like an empty mailbox": {"steps_made = 1": "steps_made = 0"},
    "used before others have fetched it": {FETCHED: FETCHED.replace(" sync(); ", "")},
}
MISTAKES = {
    **{name: Mistake("cluster:3", "exchange.h", changes) for name, changes in CLUSTER.items()},
    **{name: Mistake("grid:3", "exchange.h", changes) for name, changes in GRID.items()},
    "too few bytes expected": Mistake("cluster:2", "loop.h", {BYTES + "active": BYTES + "(active - 1)"}),
    "one place for all steps": Mistake("cluster:3", "call.h", {"? at(w[0]) + side(k, w[1])": "? at(w[0])"}),
    "nets used before they are made": Mistake("block", "loop.h", {MADE + "      sync();\n": MADE}),
    "sums used before they are made": Mistake("block", "loop.h", {"    sync();\n" + ADDED: ADDED}),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake = MISTAKES[name]
    layer, x, lengths, state = case(tt.cells.LayerNormLSTM() if "sums" in name else tt.cells.LSTM())
    wanted = results(layer, x, lengths, state)

    def change(files: dict[str, str]) -> None:
        for right, wrong in mistake.changes.items():
            assert right in files[mistake.file]
            files[mistake.file] = files[mistake.file].replace(right, wrong)

    Emulated(monkeypatch, Emulator(change=change), mistake.scheme)
    with pytest.raises(AssertionError):
        for _ in range(60):
            check(results(layer, x, lengths, state), wanted)


@pytest.mark.parametrize("scheme", ["cluster:4", "grid:4"])
@pytest.mark.parametrize("cell", [tt.cells.LSTM, tt.cells.MinimalGatedUnit, tt.cells.LayerNormLSTM])
def test_many_orders_give_the_same_bits(
    cell: Callable[[], tt.Cell], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x, lengths, state = case(cell())
    Emulated(monkeypatch, Emulator(processors=4, threads=32), scheme)  # one team, which takes one tile after the other
    wanted = results(layer, x, lengths, state)
    for _ in range(8):
        for a, b in zip(results(layer, x, lengths, state), wanted, strict=True):
            assert torch.equal(a, b)
