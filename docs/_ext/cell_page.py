"""The page of a cell of the catalogue, made from the cell: what it is, its formulas, its parameters, its kernels."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import fields, is_dataclass

import throughtime as tt
from throughtime.codegen.source import kernel_source
from throughtime.nn.parameters import Parameter
from throughtime.symbolic.adjoint import adjoint

LETTERS = {"input": "I", "hidden": "H", "projection": "P", 1: "1"}


def cells_index() -> str:
    names = "\n".join(tt.cells.catalogue)
    rows = "\n".join(f"| [{n}]({n}.md) | {one_line(n)} |" for n in tt.cells.catalogue)
    return f"""# The cells

Every page here is made from the cell itself. `tt.cells.catalogue` holds them by name; the command line takes the name
as `--cell NAME`, and `tt.Recurrent(tt.cells.catalogue["{next(iter(tt.cells.catalogue))}"](), I, H)` makes a layer.

| name | what it is |
| --- | --- |
{rows}

```{{toctree}}
:hidden:

{names}
```
"""


def one_line(name: str) -> str:
    return " ".join((inspect.getdoc(tt.cells.catalogue[name]()) or "").split())


def cell_page(name: str) -> str:
    cell = tt.cells.catalogue[name]()
    layer = tt.Recurrent(cell, 1, 1)
    parts = [
        f"# {name}",
        one_line(name),
        "## Equation",
        "As it is written in the package:",
        fenced("py", textwrap.dedent(inspect.getsource(type(cell).step))),
        *options(cell),
        "## Formulas",
        f"```{{formulas}} {name}\n:backward:\n```",
        "## Parameters",
        "I numbers in the input, H in the state. Rows are blocks in the order given, each as long as the width says.",
        parameters(layer.derived.layout.parameters),
        f"States: {', '.join(f'`{s}`' for s in layer.derived.state_names)}; the first is the layer's output.",
        "## Kernels",
        "The text that is compiled for float32, printed from the derivation of this cell. The loop over time around it "
        "is the same for every cell.",
    ]
    found = adjoint(layer.derived.programs[True].recurrence)
    for title, recurrence in (("Forward", found.forward), ("Backward", found.backward)):
        parts += [f"### {title}", fenced("cpp", kernel_source(recurrence, "float32"))]
    return "\n\n".join(parts) + "\n"


def options(cell: tt.Cell) -> list[str]:
    if not is_dataclass(cell) or not fields(cell):
        return []
    rows = "\n".join(f"| `{f.name}` | `{getattr(cell, f.name)!r}` |" for f in fields(cell))
    return ["## Options", f"| field | value here |\n| --- | --- |\n{rows}"]


def parameters(table: list[Parameter]) -> str:
    lines = ["| name | shape | rows |", "| --- | --- | --- |"]
    for p in table:
        widths = [LETTERS[w] for _, w in p.rows]
        rows = " + ".join(f"{widths.count(w)}{w}" if widths.count(w) > 1 else w for w in dict.fromkeys(widths))
        shape = rows if p.columns is None else f"{rows}, {LETTERS[p.columns]}"
        blocks = ", ".join(f"`{block}`" for block, _ in p.rows)
        lines.append(f"| `{p.name}` | [{shape}] | {blocks} |")
    return "\n".join(lines)


def fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"
