"""Rows as a Markdown table and as a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from throughtime.bench.cases import Row, Value
from throughtime.tasks.errors import UsageError
from throughtime.tasks.files import write_atomic

TABLE, CASE, MACHINE = "table", "case", "machine"
"""What every row of a CSV file has too: the first two, by which it is known again, and where it was measured."""


def shown(key: str, value: Value) -> str:
    """A figure as people read it: three digits, or per cent of something."""
    if isinstance(value, str):
        return value
    if key.startswith("of "):
        return f"{value:.0%}"
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def markdown(rows: Sequence[Row]) -> str:
    """A table of all the rows' figures, padded so that it reads in a terminal too; what a row lacks stays empty."""
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in (TABLE, CASE, MACHINE)))
    lines = [keys, *([shown(key, row.get(key, "")) for key in keys] for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(keys))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """All rows under one head; what a row lacks stays empty."""
    head = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())


def read_csv(path: Path) -> list[Row]:
    """The rows that `write_csv` wrote.

    Raises UsageError where the file holds something else.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            found = [{k: _value(v) for k, v in row.items() if v != ""} for row in reader]
            fields = reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read ({error}): give the file of an earlier run, or no --resume") from error
    if found and not {TABLE, CASE} <= set(fields):
        raise UsageError(
            f"{path} has no columns {TABLE!r} and {CASE!r}: give the file of an earlier run, or another one"
        )
    return found


def _value(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text
