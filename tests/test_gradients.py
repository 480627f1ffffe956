"""Every cell against its oracle: output, final states and all gradients, in every arrangement.

`python tests/test_gradients.py --table` prints the largest gradient error of each arrangement.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch

import oracles
import throughtime as tt
from gradient_check import TOLERANCE, check

CELLS: dict[str, tuple[Callable[[], Any], oracles.Step, int]] = {
    "rnn": (tt.cells.Elman, oracles.STEPS["rnn"], 1),
    "gru": (tt.cells.GRU, oracles.STEPS["gru"], 1),
    "gru-reset-before": (partial(tt.cells.GRU, reset="before"), oracles.STEPS["gru-reset-before"], 1),
    "lstm": (tt.cells.LSTM, oracles.STEPS["lstm"], 2),
    "lstm-peephole": (partial(tt.cells.LSTM, peepholes=True), oracles.STEPS["lstm-peephole"], 2),
    "mgu": (tt.cells.MinimalGatedUnit, oracles.STEPS["mgu"], 1),
    "lstm-layernorm": (tt.cells.LayerNormLSTM, oracles.STEPS["lstm-layernorm"], 2),
    "lstm-mogrifier": (tt.cells.MogrifierLSTM, oracles.STEPS["lstm-mogrifier"], 2),
    "lstm-mogrifier-2": (partial(tt.cells.MogrifierLSTM, rounds=2), oracles.lstm_mogrifier(2), 2),
}
"""Name -> how to make the cell, its oracle, its number of states."""

ACTIVATIONS = {f"rnn {name}": (partial(tt.cells.Elman, name), oracles.elman(name), 1) for name in oracles.ACTIVATIONS}
DTYPES = (torch.float64, torch.float32)
# Odd sizes: 5 is below the width of a vector register, 17 and 34 leave tails.
WHOLE = [(1, 1, 5), (2, 3, 34), (9, 1, 17), (1, 7, 17), (9, 3, 5)]
RAGGED = [(2, 3, 5), (9, 3, 17), (9, 7, 5), (2, 7, 34), (9, 3, 34)]
"""(T, B, H), dealt out in turn."""


@dataclass(frozen=True)
class Case:
    """One arrangement of one cell."""

    name: str
    layers: int
    directions: int
    dtype: torch.dtype
    ragged: bool
    T: int
    B: int
    H: int

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        lengths = "ragged" if self.ragged else "whole"
        sizes = f"L{self.layers}-D{self.directions}-T{self.T}-B{self.B}-H{self.H}"
        return f"{self.name}-{sizes}-{lengths}-{kind}"

    @property
    def lengths(self) -> list[int] | None:
        """Ragged lengths begin with the whole length and 0."""
        return [self.T, 0, *(min(n, self.T) for n in range(1, 6))][: self.B] if self.ragged else None

    def run(self, seed: int = 2, words: bool = False, **options: Any) -> dict[str, float]:
        """See `check`. This seed draws no ill-conditioned case; seed 0, for one, draws a layer norm of 5 units for
        which the oracle itself is off by 3e-6 in float32.
        """
        make, step, states = (CELLS | ACTIVATIONS)[self.name]
        layer = tt.Recurrent(
            make(), 3, self.H, self.layers, bidirectional=self.directions == 2, dtype=self.dtype, **options
        )
        sizes = {"T": self.T, "B": self.B, "lengths": self.lengths}
        return check(layer, step, states=states, seed=seed, words=words, **sizes)


def cases() -> Iterator[Case]:
    """Every cell × layers × directions × lengths × dtype; every activation × two arrangements × dtype."""
    arrangements = [(n, *rest) for n in CELLS for rest in product((1, 2, 3), (1, 2), (False, True))]
    arrangements += [(n, *rest) for n in ACTIVATIONS for rest in ((1, 1, False), (2, 2, True))]
    for k, (name, layers, directions, ragged) in enumerate(arrangements):
        T, B, H = (RAGGED if ragged else WHOLE)[k // 2 % 5]
        for dtype in DTYPES:
            yield Case(name, layers, directions, dtype, ragged, T, B, H)


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_output_states_and_gradients(case):
    case.run()


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])
@pytest.mark.parametrize("T, B, H", [(3, 8, 8), (5, 9, 48), (3, 10, 24), (4, 11, 40), (4, 12, 16), (2, 13, 112)])
def test_panels_that_are_partly_full(name, dtype, T, B, H):
    """Panels of one, two and four vectors of units, some of them with units in their first half alone, times as many
    sequences as a tile holds and fewer."""
    Case(name, 1, 1, dtype, False, T, B, H).run()


def test_every_cell_of_the_catalogue_and_every_activation_has_an_oracle():
    assert set(tt.cells.catalogue) == set(oracles.STEPS)
    assert set(tt.symbolic.activations.ACTIVATIONS) == set(oracles.ACTIVATIONS)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])
def test_words_as_input(name, dtype):
    """Integers are one-hot vectors; the first layer's weight gradient is a scatter-add."""
    Case(name, 2, 2, dtype, True, T=9, B=3, H=5).run(words=True)


@pytest.mark.parametrize("name", CELLS)
def test_without_bias(name):
    Case(name, 2, 2, torch.float64, True, T=9, B=3, H=5).run(bias=False)


@pytest.mark.parametrize("name", CELLS)
def test_no_step_at_all(name):
    """Every length 0: the output is 0, the final state the initial one, and its error passes unchanged."""
    make, step, states = CELLS[name]
    layer = tt.Recurrent(make(), 3, 5, 2, bidirectional=True, dtype=torch.float64)
    check(layer, step, states=states, lengths=[0, 0, 0])


@pytest.mark.parametrize("name", [*CELLS, *ACTIVATIONS])
def test_the_reference(name):
    """The equation run step by step on tensors: an error here is in the equation, not in its derivation."""
    Case(name, 2, 2, torch.float64, True, T=9, B=3, H=5).run(backend="reference")


@pytest.mark.parametrize("name", CELLS)
def test_recompute(name):
    """States kept at every 4th step only, the rest run again: the same gradients."""
    Case(name, 2, 2, torch.float64, True, T=9, B=3, H=5).run(recompute=4)


def print_table() -> int:
    """Largest gradient error of every arrangement, a column for each number of layers and directions."""
    from rich.console import Console
    from rich.table import Table

    columns = list(product((1, 2, 3), (1, 2)))
    table = Table(title="Largest ‖gradient − oracle‖ / ‖oracle‖ of input, initial states and parameters")
    for heading in ("cell", "dtype", "lengths"):
        table.add_column(heading)
    for layers, directions in columns:
        table.add_column(f"L={layers} D={directions}", justify="right")
    rows: dict[tuple[str, str, str], dict[tuple[int, int], float]] = {}
    for case in cases():
        key = case.name, str(case.dtype).removeprefix("torch."), "ragged" if case.ragged else "whole"
        gradients = {name: e for name, e in case.run().items() if name.startswith("∂")}
        rows.setdefault(key, {})[case.layers, case.directions] = max(gradients.values())
    for key, errors in sorted(rows.items()):
        table.add_row(*key, *(f"{errors[c]:.1e}" if c in errors else "" for c in columns))
    Console(width=120).print(table)
    for dtype in DTYPES:
        kind = str(dtype).removeprefix("torch.")
        largest = max(max(errors.values()) for key, errors in rows.items() if key[1] == kind)
        print(f"{kind}: largest {largest:.1e}, allowed {TOLERANCE[dtype]:.0e}")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] != ["--table"]:
        sys.exit("usage: python tests/test_gradients.py --table")
    sys.exit(print_table())
