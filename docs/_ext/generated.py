"""Sphinx: writes the pages that follow from the code, into docs/generated/, before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import throughtime as tt
from cell_page import cell_page, cells_index
from command_page import command_page


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True}


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "generated"
    pages = {f"cells/{name}.md": cell_page(name) for name in tt.cells.catalogue}
    pages["cells/index.md"] = cells_index()
    pages["command-line.md"] = command_page()
    for name, text in pages.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    for file in folder.rglob("*.md"):
        if str(file.relative_to(folder)) not in pages:
            file.unlink()  # a cell that is no longer there
