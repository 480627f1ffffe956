"""The documentation: nothing public is missing, generated pages hold what they are made from, code on pages runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import throughtime as tt

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import command_page  # noqa: E402
from cell_page import cell_page, cells_index  # noqa: E402
from running import Block, BlockFailed, blocks_of, run  # noqa: E402


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\.\. auto\w+:: throughtime\.(\w+)$", text, re.MULTILINE))
    assert set(tt.__all__) - {"cells"} <= documented  # the cells have pages of their own


@pytest.mark.parametrize("name", tt.cells.catalogue)
def test_a_cell_s_page_has_its_parameters_and_its_kernels(name: str) -> None:
    page = cell_page(name)
    layer = tt.Recurrent(tt.cells.catalogue[name](), 3, 5)
    for parameter in layer.derived.layout.parameters:
        assert f"| `{parameter.name}` |" in page
    assert "def step(" in page
    assert page.count("struct Cell") == 2
    assert f"[{name}]({name}.md)" in cells_index()


def test_shapes_in_a_cell_s_table() -> None:
    assert "| `weight_ih` | [4H, I] | `i`, `f`, `g`, `o` |" in cell_page("lstm")
    assert "| `weight_q` | [I, H] | `q` |" in cell_page("lstm-mogrifier")


def test_every_command_is_on_the_command_line_s_page() -> None:
    assert {("train", "lm"), ("sample",), ("eval",)} <= set(command_page.commands())
    page = command_page.command_page()
    for words in command_page.commands():
        assert f"## throughtime {' '.join(words)}\n" in page
    assert "--hidden" in page


PAGES = ["how-it-works.md", "add-a-cell.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    blocks = blocks_of((DOCS / page).read_text(encoding="utf-8"))
    assert len(blocks) >= 4
    run({page: blocks}, tmp_path)


def test_a_block_that_fails_is_found(tmp_path: Path) -> None:
    drawing = "from throughtime.inspect.pictures import draw_lines\nprint('é')\ndraw_lines({'a': [1, 2]}, 'rise')"
    good = Block("python", drawing, 3)
    writing = Block("sh", "echo 是\necho page > a.html", 9)
    (outcomes,) = run({"page.md": [good, writing]}, tmp_path).values()
    assert [outcome.printed for outcome in outcomes] == ["é\n", "是\n"]
    assert outcomes[0].figures[0][0] == "rise"
    assert outcomes[0].figures[0][1].startswith("<svg")
    assert [outcome.written for outcome in outcomes] == [{}, {"a.html": b"page\n"}]
    for bad in (Block("python", "assert False", 20), Block("sh", "false\ntrue", 20)):
        with pytest.raises(BlockFailed, match="the block at line 20 failed"):
            run({"page.md": [good, bad]}, tmp_path)


def test_blocks_of_a_page() -> None:
    page = "one\n\n```python\na = 1\n```\n\n```{formulas} rnn\n```\n\n```sh\nls\n```\n"
    assert blocks_of(page) == [Block("python", "a = 1\n", 4), Block("sh", "ls\n", 11)]


def test_formulas_are_typeset_whole() -> None:
    pytest.importorskip("latex2mathml", reason="comes with the extra docs")
    pytest.importorskip("sphinx", reason="comes with the extra docs")
    from mathml import mathml

    for name in tt.cells.catalogue:
        for section in tt.formulas(name, backward=True):
            # The rows are lines of their own, with the sign of equality in a column.
            assert mathml(section.latex, "block").count("<mtr>") == len(section.lines), (name, section.key)
    for unknown in (r"\begin{flalign} a &= b \end{flalign}", r"\unheard{a}"):
        with pytest.raises(ValueError, match="not understood in the formula"):
            mathml(unknown)
