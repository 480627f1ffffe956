"""The tutorial does what it says: every block of code runs, and both languages are the same tutorial."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

import throughtime as tt

DOCS = Path(__file__).parents[1] / "docs"
TUTORIAL = DOCS / "tutorial"
sys.path.insert(0, str(DOCS / "_ext"))

from running import blocks_of, essence, run  # noqa: E402

CHAPTERS = re.findall(r"^([a-z-]+)$", (TUTORIAL / "en" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
MARKER = re.compile(r"^```\{formulas\} (\S+)\n((?::\w+:.*\n)*)```$", re.MULTILINE)


def page(language: str, name: str) -> str:
    return (TUTORIAL / language / f"{name}.md").read_text(encoding="utf-8")


def test_the_chapters_are_the_files() -> None:
    assert len(CHAPTERS) == 13
    for language in ("en", "zh"):
        assert {path.stem for path in (TUTORIAL / language).glob("*.md")} == {"index", *CHAPTERS}
        assert re.findall(r"^([a-z-]+)$", page(language, "index"), re.MULTILINE) == CHAPTERS


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_block_runs_and_every_claim_holds(name: str, tmp_path: Path) -> None:
    text = page("en", name)
    assert re.search(r"^ *assert ", text, re.MULTILINE), "a chapter proves what it says"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outcomes = run(blocks_of(text), f"tutorial/en/{name}.md", tmp_path)
    finally:
        torch.set_num_threads(threads)
    drawing = [o for o, b in zip(outcomes, blocks_of(text), strict=True) if "plt.subplots" in b.text]
    assert all(len(outcome.figures) == 1 for outcome in drawing)


def skeleton(text: str) -> list[str]:
    """What both languages must share: levels of headings, code, formulas, tables and links, in their order."""
    pattern = r"^(#+) |^```.*?^```$|\]\(([^)]+)\)|^\| *---[^\n]*$"
    found = []
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        part = match[0]
        if part.startswith("```"):
            blocks = blocks_of(part)
            part = essence(blocks[0]) if blocks else re.sub(r":(lang|caption):.*\n", "", part)
        found.append(match[1] or match[2] or part)
    return found


@pytest.mark.parametrize("name", ["index", *CHAPTERS])
def test_both_languages_are_the_same_tutorial(name: str) -> None:
    assert skeleton(page("zh", name)) == skeleton(page("en", name))
    assert not re.search(r"[\u4e00-\u9fff]{6}", re.sub(r"```.*?```", "", page("en", name), flags=re.DOTALL))
    assert len(re.findall(r"[\u4e00-\u9fff]", page("zh", name))) > 100


@pytest.mark.parametrize("language", ["en", "zh"])
def test_formulas_are_printed_from_the_cell(language: str) -> None:
    markers = [m for name in CHAPTERS for m in MARKER.findall(page(language, name))]
    assert len(markers) >= 5
    for cell, lines in markers:
        options = dict(re.findall(r"^:(\w+): *(.*)$", lines, re.MULTILINE))
        assert options.get("lang", "en") == language
        wanted = options.pop("only", None)
        found = tt.formulas(cell, backward=True, **{k: v for k, v in options.items() if k != "backward"})
        assert set((wanted or "").split()) <= {section.key for section in found}
