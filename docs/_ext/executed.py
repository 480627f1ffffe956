"""Sphinx: runs the code of the pages listed in `executed_pages` and shows below each block what it printed and drew."""

from __future__ import annotations

import fnmatch
import html
import tempfile
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from running import Block, BlockFailed, Outcome, essence, run

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("executed_pages", [], "env", list)
    app.connect("doctree-read", _execute)
    return {"parallel_read_safe": False}


def _execute(app: Sphinx, doctree: nodes.document) -> None:
    page = app.env.docname
    if not any(fnmatch.fnmatch(page, pattern) for pattern in app.config.executed_pages):
        return
    places = [n for n in doctree.findall(nodes.literal_block) if n.get("language") in ("python", "sh")]
    blocks = [Block(n["language"], n.astext() + "\n", (n.line or 1) + 1) for n in places]
    try:
        outcomes = _outcomes(blocks, page)
    except BlockFailed as error:
        logger.warning("%s", error)
        return
    for place, outcome in zip(places, outcomes, strict=True):
        parent, index = place.parent, place.parent.index(place)
        parent[index + 1 : index + 1] = [*_printed(outcome), *_drawn(outcome)]


_known: dict[tuple[str, ...], list[Outcome]] = {}


def _outcomes(blocks: list[Block], page: str) -> list[Outcome]:
    """The same code in another language's page is not run a second time."""
    key = tuple(essence(block) for block in blocks)
    if key not in _known:
        logger.info("running the %d blocks of %s", len(blocks), page)
        with tempfile.TemporaryDirectory() as folder:
            _known[key] = run(blocks, page, Path(folder).resolve())
    return _known[key]


def _printed(outcome: Outcome) -> list[nodes.Node]:
    if not outcome.printed.strip():
        return []
    return [nodes.literal_block(outcome.printed, outcome.printed.rstrip("\n"), language="text", classes=["printed"])]


def _drawn(outcome: Outcome) -> list[nodes.Node]:
    return [
        nodes.raw(
            "", f'<figure class="drawn" role="img" aria-label="{html.escape(told)}">{svg}</figure>', format="html"
        )
        for told, svg in outcome.figures
    ]
