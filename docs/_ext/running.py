"""Runs the code of a page: its ```python and ```sh blocks, in their order, in one namespace and one folder.

`throughtime` in an sh block is this project's command line. A block that ends in a figure, as a notebook's cell does,
shows it; HTML files that a block writes are shown as links.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

SOURCES = Path(__file__).parents[2] / "src"
TEXTS = Path(__file__).parents[1] / "tutorial"
FENCE = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """`line`: where the block's text begins in the page, counted from 1."""

    language: str
    text: str
    line: int


@dataclass
class Outcome:
    """What a block printed, its figure as SVG with what it shows in words, and the HTML files that it wrote."""

    printed: str = ""
    figures: list[tuple[str, str]] = field(default_factory=list)
    written: dict[str, bytes] = field(default_factory=dict)


class BlockFailed(Exception):
    """A block that did not run; the message names the page, the line and the error."""


def blocks_of(markdown: str) -> list[Block]:
    """The executable blocks of a page."""
    return [Block(m[1], m[2], markdown.count("\n", 0, m.start()) + 2) for m in FENCE.finditer(markdown)]


def spoken(block: Block) -> str:
    """The code without its comments and docstrings: equal where two languages show the same."""
    return block.text if block.language == "sh" else ast.unparse(_Comments().visit(ast.parse(block.text)))


def essence(block: Block) -> str:
    """The same without the language it asks for and the words in its pictures: equal for the same code in a page and in
    its translation."""
    if block.language == "sh":
        return re.sub(r" --lang (en|zh)\b", "", block.text)
    return ast.unparse(_Words().visit(ast.parse(block.text)))


class _Comments(ast.NodeTransformer):
    """Takes docstrings out."""

    def _documented(self, node: Any) -> Any:
        if ast.get_docstring(node) is not None:
            node.body[:1] = []
        return self.generic_visit(node)

    visit_FunctionDef = visit_ClassDef = _documented


class _Words(_Comments):
    """Takes out `lang=` and, in calls that draw or write a page, every text but those that choose something."""

    _labels = False

    def visit_Call(self, node: ast.Call) -> Any:
        before = self._labels
        name = ast.unparse(node.func)
        self._labels |= name.startswith("draw_") or name == "page_data"
        node.keywords = [k for k in node.keywords if k.arg != "lang"]
        self.generic_visit(node)
        self._labels = before
        return node

    def visit_keyword(self, node: ast.keyword) -> Any:
        return node if node.arg == "log" else self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        node.value = self.visit(node.value)
        return node

    def visit_Constant(self, node: ast.Constant) -> Any:
        return ast.Constant("") if self._labels and isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> Any:
        if self._labels:
            node.values = [part for part in node.values if isinstance(part, ast.FormattedValue)]
        return node


def run(pages: Mapping[str, Sequence[Block]], folder: Path) -> dict[str, list[Outcome]]:
    """Runs the blocks of a page in the folder, into which the texts beside the tutorial are copied. Further pages are
    its translations: where they say something else, that block is run too, right after the first page's.
    Raises BlockFailed."""
    for text in TEXTS.glob("*.txt"):
        shutil.copy(text, folder)
    found: dict[str, list[Outcome]] = {page: [] for page in pages}
    first = next(iter(pages))
    with contextlib.chdir(folder), _page_as_module(folder) as namespace:
        for versions in zip(*pages.values(), strict=True):
            for page, block in zip(pages, versions, strict=True):
                same = page != first and spoken(block) == spoken(versions[0])
                found[page].append(found[first][-1] if same else _run(block, page, namespace, folder))
    return found


def _run(block: Block, page: str, namespace: dict[str, Any], folder: Path) -> Outcome:
    try:
        outcome = _run_sh(block) if block.language == "sh" else _run_python(block, page, namespace)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise BlockFailed(f"{page}: the block at line {block.line} failed: {told}") from error
    for file in folder.glob("*.html"):
        outcome.written[file.name] = file.read_bytes()
        file.unlink()
    return outcome


def _run_python(block: Block, page: str, namespace: dict[str, Any]) -> Outcome:
    from matplotlib.figure import Figure

    tree = ast.parse(block.text)
    ast.increment_lineno(tree, block.line - 1)  # so that a traceback names the line of the page
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, page, "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), page, "eval"), namespace)
    return Outcome(printed.getvalue(), [_svg(value)] if isinstance(value, Figure) else [])


def _run_sh(block: Block) -> Outcome:
    command = f'throughtime() {{ "{sys.executable}" -m throughtime.cli "$@"; }}\nset -e\n{block.text}'
    path = os.pathsep.join([str(SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "PYTHONPATH": path, "NO_COLOR": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return Outcome(done.stdout)


def _svg(figure: Any) -> tuple[str, str]:
    titles = [figure.get_suptitle(), *(axes.get_title("left") for axes in figure.axes)]
    stream = io.StringIO()
    # Text stays text: a reader can search it, and the browser has the letters of every language.
    with matplotlib_settings():
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = stream.getvalue()
    return "; ".join(filter(None, titles)), svg[svg.index("<svg") :]


def matplotlib_settings() -> Any:
    import matplotlib

    return matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "throughtime"})


@contextlib.contextmanager
def _page_as_module(folder: Path) -> Iterator[dict[str, Any]]:
    """The namespace of a page, which can import the files it writes; everything it loaded from there is forgotten."""
    page = ModuleType("page")
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    sys.modules["page"] = page  # dataclasses look their module up
    try:
        yield page.__dict__
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if name == "page" or (file and Path(file).is_relative_to(folder)):
                del sys.modules[name]
