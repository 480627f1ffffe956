"""Sphinx: ```{formulas} CELL``` has the library print a cell's formulas; no page holds one that could go stale."""

from __future__ import annotations

from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from sphinx.application import Sphinx

import throughtime as tt


class Formulas(Directive):
    """`CELL`: a name of the catalogue. Options: `backward`, what is derived too; `notation`: torch or tutorial;
    `lang`: en or zh; `only`: keys of the sections to show, without their titles if there is one."""

    required_arguments = 1
    option_spec: ClassVar = {
        "backward": directives.flag,
        "notation": directives.unchanged,
        "lang": directives.unchanged,
        "only": lambda text: directives.unchanged(text).split(),
    }

    def run(self) -> list[nodes.Node]:
        given = {name: self.options[name] for name in ("notation", "lang") if name in self.options}
        only = self.options.get("only")
        found = tt.formulas(self.arguments[0], backward="backward" in self.options or only is not None, **given)
        sections = [s for s in found if only is None or s.key in only]
        if only is not None and [s.key for s in sections] != only:
            raise self.error(f"{self.arguments[0]} has the sections {', '.join(s.key for s in found)}, not {only}")
        shown: list[nodes.Node] = []
        for section in sections:
            if len(sections) > 1:
                shown.append(nodes.paragraph("", "", nodes.strong("", section.title)))
            shown.append(nodes.math_block(section.latex, section.latex, nowrap=True, number=None))
        if only is None:
            shown += [nodes.paragraph("", line, classes=["legend"]) for line in found.legend]
        return shown


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("formulas", Formulas)
    return {"parallel_read_safe": True}
