"""Runs the code of a page: its ```python and ```sh blocks, in their order, in one namespace and one folder.

`throughtime` in an sh block is this project's command line. Figures that a block leaves open are its pictures.
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
from collections.abc import Iterator, Sequence
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
    """What a block printed, and its figures as SVG with what each shows in words."""

    printed: str = ""
    figures: list[tuple[str, str]] = field(default_factory=list)


class BlockFailed(Exception):
    """A block that did not run; the message names the page, the line and the error."""


def blocks_of(markdown: str) -> list[Block]:
    """The executable blocks of a page."""
    return [Block(m[1], m[2], markdown.count("\n", 0, m.start()) + 2) for m in FENCE.finditer(markdown)]


def essence(block: Block) -> str:
    """The code without its comments and docstrings: equal for the same code explained in two languages."""
    if block.language == "sh":
        return block.text
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            node.body[:1] = []
    return ast.unparse(tree)


def run(blocks: Sequence[Block], page: str, folder: Path) -> list[Outcome]:
    """Runs the blocks in the folder, into which the texts beside the tutorial are copied. Raises BlockFailed."""
    import matplotlib

    matplotlib.use("agg")
    for text in TEXTS.glob("*.txt"):
        shutil.copy(text, folder)
    found = []
    with contextlib.chdir(folder), _page_as_module(folder) as namespace:
        for block in blocks:
            try:
                found.append(_run_sh(block) if block.language == "sh" else _run_python(block, page, namespace))
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
                raise BlockFailed(f"{page}: the block at line {block.line} failed: {told}") from error
    return found


def _run_python(block: Block, page: str, namespace: dict[str, Any]) -> Outcome:
    # Empty lines before it, so that a traceback names the line of the page.
    code = compile("\n" * (block.line - 1) + block.text, page, "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, namespace)
    return Outcome(printed.getvalue(), _figures())


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


def _figures() -> list[tuple[str, str]]:
    from matplotlib import pyplot

    found = []
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
        stream = io.StringIO()
        # Text stays text: a reader can search it, and the browser has the letters of every language.
        with matplotlib_settings():
            figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
        svg = stream.getvalue()
        found.append(("; ".join(filter(None, titles)), svg[svg.index("<svg") :]))
    pyplot.close("all")
    return found


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
