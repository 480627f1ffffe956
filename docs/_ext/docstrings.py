"""Sphinx: docstrings are written as plain text with `code` and indented examples; this makes them reStructuredText."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

# A paragraph, an empty line, then deeper lines: an example, unless the paragraph is a heading such as "Args:".
HEADINGS = ("Args:", "Raises:", "Returns:")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _process, priority=1)
    return {"parallel_read_safe": True}


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    text = "\n".join(lines)
    text = re.sub(r"^( *)(\S[^\n]*)\n\n(?=\1    \S)", _example, text, flags=re.MULTILINE)
    # |λ| is a length here, not the name of a substitution.
    lines[:] = re.sub(r"`[^`]*`|\|", lambda m: r"\|" if m[0] == "|" else m[0], text).split("\n")


def _example(match: re.Match[str]) -> str:
    if match[2] in HEADINGS:
        return match[0]
    return f"{match[1]}{match[2]}\n\n{match[1]}.. code-block:: python\n\n"
