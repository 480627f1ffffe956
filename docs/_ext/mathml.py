"""Sphinx: formulas as MathML, which browsers draw themselves: no script, no network, no picture."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)
# latex2mathml leaves what it does not know as it is: a command, or the & of an environment.
LEFT_OVER = re.compile(r"<m[io]>(&|&amp;|&#x00026;|\\[^<]*)</m[io]>")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def mathml(latex: str, display: str = "inline") -> str:
    """The formula as a <math> element. Raises ValueError for LaTeX that is not understood as a whole."""
    # The same to a reader, and the one that latex2mathml knows.
    known = re.sub(r"(\\(?:begin|end)){aligned}", r"\1{align*}", latex)
    found: str = convert(known, display=display)
    if left := LEFT_OVER.search(found):
        raise ValueError(f"{left[1]} is not understood in the formula {latex}")
    return found


def _visit_inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(_converted(node, "inline"))
    raise nodes.SkipNode


def _visit_block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="formula">{_converted(node, "block")}</div>\n')
    raise nodes.SkipNode


def _converted(node: nodes.Element, display: str) -> str:
    try:
        return mathml(node.astext(), display)
    except ValueError as error:
        logger.warning("%s", error, location=node)
        return ""
