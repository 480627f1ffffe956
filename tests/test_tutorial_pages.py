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

from running import Block, blocks_of, essence, run  # noqa: E402

CHAPTERS = re.findall(r"^([a-z-]+)$", (TUTORIAL / "en" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
LANGUAGES = ("en", "zh")
HAN = re.compile(r"[\u4e00-\u9fff]")
MARKER = re.compile(r"^```\{formulas\} (\S+)\n((?::\w+:.*\n)*)```$", re.MULTILINE)


def page(language: str, name: str) -> str:
    return (TUTORIAL / language / f"{name}.md").read_text(encoding="utf-8")


def test_the_chapters_are_the_files() -> None:
    assert len(CHAPTERS) == 13
    for language in LANGUAGES:
        assert {path.stem for path in (TUTORIAL / language).glob("*.md")} == {"index", *CHAPTERS}
        assert re.findall(r"^([a-z-]+)$", page(language, "index"), re.MULTILINE) == CHAPTERS


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_block_runs_and_every_claim_holds(name: str, tmp_path: Path) -> None:
    assert re.search(r"^ *assert ", page("en", name), re.MULTILINE), "a chapter proves what it says"
    pages = {f"{language}/{name}": blocks_of(page(language, name)) for language in LANGUAGES}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = run(pages, tmp_path)
    finally:
        torch.set_num_threads(threads)
    for language, outcomes in zip(LANGUAGES, found.values(), strict=True):
        own = pages[f"{language}/{name}"]
        drawing = [o for o, b in zip(outcomes, own, strict=True) if re.search(r"^draw_\w+\(", b.text, re.MULTILINE)]
        for outcome in drawing:
            ((told, svg),) = outcome.figures
            letters = set(HAN.findall(svg)) - set("种子记得去年的春")  # the text that is read
            assert bool(HAN.search(told)) == bool(letters) == (language == "zh")
        written = {file for outcome in outcomes for file in outcome.written}
        assert written == WRITTEN.get(name, set())
        for outcome in outcomes:
            for content in outcome.written.values():
                assert f'"lang":"{language}"' in content.decode()


WRITTEN = {"horizontal": {"error-flow.html"}, "language-model": {"reading.html"}}


def test_links_to_pages_that_blocks_write() -> None:
    """Sphinx does not see these links, which are HTML."""
    pages = {f"tutorial/{language}/{file}" for language in ("en", "zh") for files in WRITTEN.values() for file in files}
    linked = set()
    for path in DOCS.rglob("*.md"):
        for link in re.findall(r'<a href="([^":]+)"', path.read_text(encoding="utf-8")):
            linked.add(str((path.parent / link).resolve().relative_to(DOCS.resolve())))
    assert linked
    assert linked <= pages


def test_what_translations_may_differ_in() -> None:
    def same(one: str, other: str, kind: str = "python") -> bool:
        return essence(Block(kind, one, 1)) == essence(Block(kind, other, 1))

    assert same("draw_lines({'loss': a}, 'the loss')", "draw_lines({'损失': a}, '损失', lang='zh')")
    assert same("draw_heat({f'layer {k}': a})", "draw_heat({f'第 {k} 层': a}, lang=\"zh\")")
    assert same("print(flow.summary())", "print(flow.summary(lang='zh'))  # 总结")
    assert same("throughtime inspect r x page --lang en", "throughtime inspect r x page --lang zh", "sh")
    assert not same("print('loss')", "print('损失')")
    assert not same("draw_lines({'loss': a})", "draw_lines({'损失': b})")
    assert not same("draw_lines(t['h'])", "draw_lines(t['c'])")
    assert not same("draw_lines({'a': b}, log='x')", "draw_lines({'a': b}, log='y')")
    assert not same("throughtime inspect r x page", "throughtime inspect r y page", "sh")


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
