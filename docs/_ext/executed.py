"""Sphinx: runs the code of the pages listed in `executed_pages` and shows below each block what it printed,
drew and wrote."""

from __future__ import annotations

import fnmatch
import html
import tempfile
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from running import Block, BlockFailed, Outcome, blocks_of, essence, run

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
    blocks = [Block(n["language"], n.astext().rstrip("\n") + "\n", (n.line or 1) + 1) for n in places]
    try:
        outcomes = _outcomes(blocks, page, Path(app.srcdir))
    except BlockFailed as error:
        logger.warning("%s", error)
        return
    for place, outcome in zip(places, outcomes, strict=True):
        parent, index = place.parent, place.parent.index(place)
        parent[index + 1 : index + 1] = [*_printed(outcome), *_drawn(outcome), *_written(outcome)]
        for name, content in outcome.written.items():
            file = Path(app.outdir, page).parent / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


_known: dict[tuple[str, str], list[Outcome]] = {}


def _outcomes(blocks: list[Block], page: str, docs: Path) -> list[Outcome]:
    """Both languages of a page are run at once, and what is the same in both only once."""
    text = "".join(block.text for block in blocks)
    if (page, text) not in _known:
        pages = {page: blocks}
        other = page.replace("/en/", "/zh/")
        if other != page:
            translated = blocks_of((docs / f"{other}.md").read_text(encoding="utf-8"))
            if list(map(essence, translated)) == list(map(essence, blocks)):
                pages[other] = translated
        logger.info("running the %d blocks of %s", len(blocks), page)
        with tempfile.TemporaryDirectory() as folder:
            for name, outcomes in run(pages, Path(folder).resolve()).items():
                _known[name, "".join(block.text for block in pages[name])] = outcomes
    return _known[page, text]


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


def _written(outcome: Outcome) -> list[nodes.Node]:
    return [
        nodes.raw("", f'<p class="written"><a href="{name}" target="_blank">{name}</a></p>', format="html")
        for name in sorted(outcome.written)
    ]
