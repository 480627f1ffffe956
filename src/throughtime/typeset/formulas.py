"""`formulas`: a cell's equations and its derived error recursions, to read or to typeset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from throughtime.cells import catalogue
from throughtime.symbolic.equation import trace
from throughtime.symbolic.graph import EquationError
from throughtime.symbolic.language import Cell
from throughtime.typeset.derivation import Derivation, Line, derive
from throughtime.typeset.spelling import Speller, Style
from throughtime.typeset.symbols import Notation, Symbols
from throughtime.typeset.words import WORDS, Lang


@dataclass(frozen=True)
class Section:
    """Lines under a heading. `key`: "forward", "errors", "in_time", "in_depth", "gradients" or "kept", in every
    language; `lines`: left and right side of each, in LaTeX; `text`: the same as text."""

    key: str
    title: str
    lines: tuple[tuple[str, str], ...]
    text: tuple[tuple[str, str], ...]

    @property
    def latex(self) -> str:
        """The lines as one display, without a heading."""
        rows = " \\\\\n".join(f"{left} &= {right}" if left else f"& {right}" for left, right in self.lines)
        return f"\\begin{{aligned}}\n{rows}\n\\end{{aligned}}"


@dataclass(frozen=True)
class Formulas(Sequence[Section]):
    """What `formulas` returns: sections of lines. `str` is the text; `latex` can be pasted into a document."""

    cell: str
    legend: tuple[str, ...]
    sections: tuple[Section, ...]
    _spelled: dict[Style, tuple[tuple[tuple[str, str], ...], ...]] = field(repr=False)

    def __getitem__(self, index: Any) -> Any:
        return self.sections[index]

    def __len__(self) -> int:
        return len(self.sections)

    def __iter__(self) -> Iterator[Section]:
        return iter(self.sections)

    def __str__(self) -> str:
        parts = []
        for section in self.sections:
            lines = [f"  {left} = {right}" if left else f"  {right}" for left, right in section.text]
            parts.append("\n".join([section.title, *lines]))
        return "\n\n".join([self.cell, *parts, "\n".join(self.legend)]) + "\n"

    @property
    def latex(self) -> str:
        """Headings and displays; Chinese headings need a document class that knows Chinese, such as ctexart."""
        return "\n".join(f"\\subsection*{{{s.title}}}\n\\[\n{s.latex}\n\\]" for s in self.sections) + "\n"

    @property
    def mathtext(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Titles and lines in the part of LaTeX that matplotlib draws."""
        return [(s.title, list(lines)) for s, lines in zip(self.sections, self._spelled["mathtext"], strict=True)]

    def png(self, path: str | None = None) -> bytes:
        """The formulas as a picture, written to `path` if given. Raises ValueError where no installed font has the
        characters of the headings."""
        from throughtime.typeset.picture import draw

        return draw(self, path)


def formulas(
    cell: Cell | str | Any,
    *,
    backward: bool = False,
    notation: Notation = "torch",
    lang: Lang = "en",
    training: bool = False,
) -> Formulas:
    """The equations of a cell; with `backward` also what is derived from them: the error terms of a step, the error
    that flows on in time (horizontal) and in depth (vertical), the gradients of the weights, and what is kept.

    Args:
        cell: a cell, its name in `tt.cells.catalogue`, or a layer that has one.
        notation: "torch" has the letters of torch.nn's documentation, "tutorial" U, W, s and net.
        lang: of the headings.
        training: whether to show the step as it is in training, with its noise.

    Raises:
        ValueError: no such notation, language or cell.
        EquationError: the cell's step cannot be read.
    """
    if notation not in ("torch", "tutorial"):
        raise ValueError(f'notation should be "torch" or "tutorial", got {notation!r}')
    if lang not in ("en", "zh"):
        raise ValueError(f'lang should be "en" or "zh", got {lang!r}')
    if isinstance(cell, str):
        if cell not in catalogue:
            raise ValueError(f"no cell is called {cell!r}: choose one of {', '.join(catalogue)}, or give a Cell")
        cell = catalogue[cell]()
    elif not isinstance(cell, Cell):
        cell = getattr(cell, "cell", cell)
    if not isinstance(cell, Cell):
        raise EquationError(f"formulas was given {type(cell).__name__}, where a tt.Cell or a layer is expected")
    derivation = derive(trace(cell, training), name_maps=notation == "tutorial")
    symbols = Symbols(derivation, notation, cell.biases)
    keys = ["forward", *(["errors", "in_time", "in_depth", "gradients"] if backward else [])]
    groups = [(key, getattr(derivation, key)) for key in keys if getattr(derivation, key)]
    styles: tuple[Style, ...] = ("text", "latex", "mathtext")
    spelled = {style: tuple(_spelled(derivation, symbols, style, groups, backward)) for style in styles}
    keys = [key for key, _ in groups] + (["kept"] if backward else [])
    sections = tuple(
        Section(key, WORDS[key][lang], spelled["latex"][k], spelled["text"][k]) for k, key in enumerate(keys)
    )
    legend = [WORDS["legend"][lang], *([WORDS["legend_backward"][lang]] if backward else [])]
    return Formulas(cell.name, tuple(legend), sections, spelled)


def _spelled(
    derivation: Derivation,
    symbols: Symbols,
    style: Style,
    groups: list[tuple[str, list[Line]]],
    backward: bool,
) -> Iterator[tuple[tuple[str, str], ...]]:
    speller = Speller(derivation, symbols, style)
    for _, lines in groups:
        yield tuple(map(speller.line, lines))
    if backward:
        yield (("", ", ".join(speller.value(node) for node in derivation.kept)),)


__all__ = ["Formulas", "Section", "formulas"]
