"""`throughtime bench`: measures the cases of the tables asked for, and prints, writes and draws what it found."""

from __future__ import annotations

import importlib
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from throughtime.bench.cases import Bench, Case, Row, Table
from throughtime.bench.machine import Machine
from throughtime.bench.report import CASE, MACHINE, TABLE, markdown, read_csv, write_csv
from throughtime.bench.settings import BenchSettings
from throughtime.tasks.errors import UsageError

HOMES = {
    "layers": "layers",
    "inference": "layers",
    "dtypes": "layers",
    "grid": "grid",
    "cells": "cells",
    "lengths": "lengths",
    "stream": "stream",
    "busy": "busy",
    "long": "long",
    "subnormals": "subnormals",
    "parts": "parts",
    "rivals": "rivals",
    "limits": "limits",
}
"""Table -> the module of this package that has it, under its name."""


def run(given: BenchSettings) -> None:
    """Runs the command. Ctrl-C ends the measuring; what there is by then is printed and written all the same."""
    given.check()
    names: Sequence[str] = tuple(dict.fromkeys(given.tables)) or ("layers", "inference")
    for path in (given.csv, given.png):
        if path is not None and not (Path(path).resolve().parent.is_dir() and not Path(path).is_dir()):
            raise UsageError(f"{path}: give the name of a file in a folder that exists")
    import torch

    if given.threads is not None:
        torch.set_num_threads(given.threads)
    tables = {name: load(name) for name in names}
    chosen = {name: choose(table.cases, given) for name, table in tables.items()}
    if not any(chosen.values()):
        raise UsageError(
            f"--only {' --only '.join(map(repr, given.only))}: no case of {', '.join(names)} has all these words; "
            f"one of them is {tables[names[0]].cases[0].name!r}"
        )
    book = Book(given)
    bench = Bench(Machine(torch.get_num_threads()), given.rounds, given.seconds)
    try:
        book.measure(bench, chosen)
    finally:
        for name, table in tables.items():
            book.print(name, table)
        print(bench.machine.about())
        if given.png is not None:
            draw(given.png, tables, book.rows, bench.machine.about())


def load(name: str) -> Table:
    module = importlib.import_module(f"throughtime.bench.{HOMES[name]}")
    table = getattr(module, name)
    assert isinstance(table, Table)
    return table


def choose(cases: list[Case], given: BenchSettings) -> list[Case]:
    """The cases that `--only` leaves, in the order that `--seed` gives."""
    wanted = [set(words.split()) for words in given.only]
    found = [case for case in cases if not wanted or any(words <= set(case.name.split()) for words in wanted)]
    if given.seed is not None:
        random.Random(given.seed).shuffle(found)
    return found


class Book:
    """The rows found so far, of all tables, and the CSV file that holds them."""

    def __init__(self, given: BenchSettings) -> None:
        self.path = None if given.csv is None else Path(given.csv)
        self.rows: list[Row] = []
        if given.resume and self.path is not None and self.path.exists():
            self.rows = read_csv(self.path)
        self.deadline = None if given.minutes is None else time.monotonic() + 60 * given.minutes

    def measure(self, bench: Bench, chosen: dict[str, list[Case]]) -> None:
        """Measures what is missing until the time is over."""
        have = {(row[TABLE], row[CASE]) for row in self.rows}
        todo = [(name, case) for name, cases in chosen.items() for case in cases if (name, case.name) not in have]
        for count, (name, case) in enumerate(todo, 1):
            if self.deadline is not None and time.monotonic() > self.deadline:
                tell(f"time is over: {count - 1} of {len(todo)} cases measured")
                return
            tell(f"{count}/{len(todo)}  {name}: {case.name}")
            # The best of many moments: another program may be running at any of them.
            bench.machine.look()
            if count % 8 == 1:
                bench.machine.look_at_products()
            found = case.measure(bench)
            about = bench.machine.about()
            self.rows += [{TABLE: name, CASE: case.name, **row, MACHINE: about} for row in found]
            if self.path is not None:
                write_csv(self.path, self.rows)

    def print(self, name: str, table: Table) -> None:
        rows = table.shown(self.of(name))
        print(f"## {name}\n\n{table.title}\n")
        print(f"{markdown(rows)}\n" if rows else "(nothing was measured)\n")

    def of(self, name: str) -> list[Row]:
        return [row for row in self.rows if row[TABLE] == name]


def draw(path: str, tables: dict[str, Table], rows: list[Row], about: str) -> None:
    from throughtime.bench.picture import draw_table

    for name, table in tables.items():
        own = [row for row in rows if row[TABLE] == name]
        target = Path(path) if len(tables) == 1 else Path(path).with_stem(f"{Path(path).stem}-{name}")
        if own:
            draw_table(target, name, table, own, about)


def tell(text: str) -> None:
    """Progress: one line that is written over on a terminal, a line each elsewhere."""
    if sys.stderr.isatty():
        width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
        print(f"\r{text[:width]:<{width}}", end="\r", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)
