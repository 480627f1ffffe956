"""Puts the README's table of speed together from what `throughtime bench` has measured.

throughtime bench layers inference --csv speed.csv
python bench/readme_table.py speed.csv README.md
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from throughtime.bench.cases import Row, number
from throughtime.bench.report import MACHINE, TABLE, markdown, read_csv

MARKS = "<!-- made by bench/readme_table.py -->", "<!-- end -->"


def table(rows: list[Row]) -> str:
    """One line for each cell: how many times faster than its rival, inference / training."""
    ratios = {(row["cell"], row["point"], row[TABLE]): number(row["ratio"]) for row in rows}
    rivals = {row["cell"]: row["rival"] for row in rows}
    points = list(dict.fromkeys(row["point"] for row in rows))
    lines: list[Row] = []
    for cell, rival in rivals.items():
        line: Row = {"": f"{cell} against {rival}"}
        for point in points:
            pair = [ratios.get((cell, point, name)) for name in ("inference", "layers")]
            line[str(point)] = " / ".join("–" if ratio is None else f"{ratio:.1f}" for ratio in pair)
        lines.append(line)
    return markdown(lines)


def put_into(text: str, made: str) -> str:
    """The text with what stands between the two marks replaced."""
    pattern = re.compile(f"({re.escape(MARKS[0])}\n).*?({re.escape(MARKS[1])})", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"there is no place for the table: put the lines {MARKS[0]} and {MARKS[1]} into the file")
    return pattern.sub(lambda found: f"{found[1]}{made}\n{found[2]}", text)


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    source, target = map(Path, sys.argv[1:])
    rows = [row for row in read_csv(source) if row[TABLE] in ("layers", "inference")]
    about = f"B batch, H hidden, T = 100 unless said, inputs as wide as hidden, float32; {rows[-1][MACHINE]}."
    made = put_into(target.read_text(encoding="utf-8"), f"{table(rows)}\n\n{about}")
    target.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
