"""That the emulation is sharp: every mistake in the order of events that is put into the kernels shows in it. And that
many orders of events, of what is right, give the same bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from emulator import Emulator
from test_cuda_emulated import Emulated, case, check, results

import throughtime as tt

MISTAKES = {
    "one barrier for all exchanges": (
        "cluster:3",
        "exchange.h",
        (("barriers + (exchanges & 1)", "barriers"), ("(exchanges >> 1) & 1", "exchanges & 1")),
    ),
    "pushes to barriers that are not open": ("cluster:3", "exchange.h", (("    cluster_sync();  // nobody pushes", "    //"),)),
    "own numbers sent before they are made": ("cluster:3", "exchange.h", (("    sync();\n    if (thread() == 0) mbarrier_expect", "    if (thread() == 0) mbarrier_expect"),)),
    "numbers used before all have come": ("cluster:3", "exchange.h", (("    mbarrier_wait(barriers + (exchanges & 1), (exchanges >> 1) & 1);\n", ""),)),
    "too few bytes expected": ("cluster:2", "loop.h", (("(shared(k).width - shared(k).count) * active", "(shared(k).width - shared(k).count) * (active - 1)"),)),
    "one place for the values of all steps": ("cluster:3", "call.h", (("? at(w[0]) + side(k, w[1])", "? at(w[0])"),)),
    "one half of the mailbox": ("grid:3", "exchange.h", (("(steps_made & 1) * mailbox_step", "0"),)),
    "words that do not say their step": ("grid:3", "exchange.h", (("while (uint32_t(word) != steps_made)", "while (uint32_t(word) == 0)"),)),
    "a mailbox that is not empty": ("grid:3", "exchange.h", (("uint32_t steps_made = 1", "uint32_t steps_made = 0"),)),
    "numbers of a mailbox used by others too early": ("grid:3", "exchange.h", (("  void finish() { sync(); }\n  void step() { ++", "  void finish() {}\n  void step() { ++"),)),
    "products used before they are made": ("block", "loop.h", (("products{});\n      sync();".replace("products", "Products"), "Products{});"),)),
    "sums used before they are made": ("block", "loop.h", (("    sync();\n    each(0, Phase::totals, [&]", "    each(0, Phase::totals, [&]"),)),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme, file, changes = MISTAKES[name]
    layer, x, lengths, state = case(tt.cells.LayerNormLSTM() if "sums" in name else tt.cells.LSTM())
    wanted = results(layer, x, lengths, state)

    def change(files: dict[str, str]) -> None:
        for right, wrong in changes:
            assert right in files[file]
            files[file] = files[file].replace(right, wrong)

    Emulated(monkeypatch, Emulator(change=change), scheme)
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
