"""Who may know whom, what is loaded when, and the size of files: the architecture, held by tests."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "throughtime"
SOURCES = sorted(PACKAGE.rglob("*.py"))
KERNEL_SOURCES = sorted([*PACKAGE.rglob("*.h"), *PACKAGE.rglob("*.cpp")])

# Room -> the rooms it may import. "public" is the package's own front door, `import throughtime as tt`.
ALLOWED = {
    "symbolic": set(),
    "runtime": set(),
    "cells": {"symbolic"},
    "codegen": {"symbolic"},
    "nn": {"cells", "symbolic", "codegen", "runtime"},
    "tutorial": set(),
    "bench": {"public", "nn", "cells", "symbolic", "runtime", "tasks"},
    "fonts": set(),
    "typeset": {"cells", "symbolic", "fonts"},
    "inspect": {"public", "nn", "cells", "symbolic", "fonts"},
    "tasks": {"public", "nn", "cells", "symbolic", "codegen", "runtime", "typeset", "fonts", "inspect"},
    "cli": {"tasks", "bench"},
    "__init__": set(),
}
# Room -> what it must not import at all, not even inside a function.
FORBIDDEN = {
    "symbolic": {"torch", "matplotlib"},
    "codegen": {"torch", "numpy", "matplotlib"},
    "cells": {"torch", "numpy", "matplotlib"},
    "runtime": {"torch", "numpy", "matplotlib"},
    "nn": {"matplotlib"},
    "typeset": {"torch", "numpy"},
    "tutorial": {"torch", "matplotlib"},
}


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path, text: str | None = None) -> Iterator[str]:
    """The full name of every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8") if text is None else text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(PACKAGE.parent).parent.parts
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def trespasses(path: Path, text: str | None = None) -> list[str]:
    """What a file imports and must not."""
    room, found = room_of(path), []
    for name in imported(path, text):
        top, *rest = name.split(".")
        if top == "throughtime":
            target = rest[0] if rest and rest[0] in ALLOWED else "public"
            if target != room and target not in ALLOWED[room]:
                found.append(name)
        elif top in FORBIDDEN.get(room, ()):
            found.append(name)
    return found


def test_every_room_is_known() -> None:
    assert {room_of(path) for path in SOURCES} <= set(ALLOWED)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_keep_to_the_dependency_rule(path: Path) -> None:
    assert trespasses(path) == []


@pytest.mark.parametrize(
    ("file", "line", "name"),
    [
        ("symbolic/graph.py", "from throughtime.codegen import source", "throughtime.codegen.source"),
        ("symbolic/graph.py", "def f():\n    import torch.nn", "torch.nn"),
        ("runtime/cache.py", "from throughtime import symbolic", "throughtime.symbolic"),
        ("runtime/cache.py", "import throughtime", "throughtime"),
        ("cells/gru.py", "from ..nn.recurrent import Recurrent", "throughtime.nn.recurrent.Recurrent"),
        ("cli.py", "from throughtime import nn", "throughtime.nn"),
    ],
)
def test_the_rule_finds_trespasses(file: str, line: str, name: str) -> None:
    assert trespasses(PACKAGE / file, line) == [name]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_say_what_they_are_and_fit_one_sitting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{path} begins without a docstring"
    lines = text.count("\n")
    assert lines <= 300, f"{path} has {lines} lines: divide it"


@pytest.mark.parametrize("path", KERNEL_SOURCES, ids=lambda path: path.name)
def test_kernel_sources_say_what_they_are_and_fit_one_sitting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("//"), f"{path} begins without a comment that says what it holds"
    lines = text.count("\n")
    assert lines <= 300, f"{path} has {lines} lines: divide it"


def test_nothing_names_a_place_of_one_machine() -> None:
    places = ["/" + name + "/" for name in ("work", "root", "home", "Users")]
    files = [ROOT / "Makefile", ROOT / ".ci" / "run", *KERNEL_SOURCES]
    files += [path for path in ROOT.iterdir() if path.suffix in (".md", ".toml", ".txt")]
    for folder in ("src", "tests", "bench", "docs"):
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".svg")]
    assert len(files) > 60
    found = [
        f"{path.relative_to(ROOT)}: {place}"
        for path in files
        for place in places
        if place in path.read_text(encoding="utf-8")
    ]
    assert found == []


def python(code: str) -> str:
    """What a fresh Python, in which every warning is an error, prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = "('torch', 'matplotlib', 'numpy', 'sympy', 'rich')"


def test_importing_the_package_loads_nothing_heavy_and_starts_no_program() -> None:
    code = f"""
import sys
started = []
starts = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.system")
sys.addaudithook(lambda name, _: started.append(name) if name in starts else None)
import throughtime
assert started == [], started
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert python(code).strip() == "[]"


def test_help_loads_nothing_heavy_and_answers() -> None:
    code = f"""
import sys
from throughtime.cli import main
status = main(["--help"])
print(status, [name for name in {HEAVY} if name in sys.modules])
"""
    *answer, last = python(code).splitlines()
    assert last == "0 []"
    assert {"train", "sample", "eval"} <= set(" ".join(answer).split())


def test_help_of_a_command_loads_no_torch() -> None:
    code = """
import sys
from throughtime.cli import main
try:
    main(["train", "lm", "--help"])
except SystemExit as end:
    print(end.code, [name for name in ("torch", "matplotlib", "numpy") if name in sys.modules])
"""
    *answer, last = python(code).splitlines()
    assert last == "0 []"
    assert "--hidden" in " ".join(answer)


def test_every_public_name_can_be_had() -> None:
    code = """
import throughtime as tt
for name in tt.__all__:
    getattr(tt, name)
print(dir(tt) == sorted(tt.__all__))
"""
    assert python(code).strip() == "True"
