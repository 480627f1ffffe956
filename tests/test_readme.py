"""The README does what it says: every block of Python runs, every command works."""

from __future__ import annotations

import math
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    shlex.split(line, comments=True)
    for language, text in BLOCKS
    if language == "sh"
    for line in text.splitlines()
    if shlex.split(line, comments=True)
]
# Options that make any training small; those given last count.
SMALL = shlex.split("--steps 2 --hidden 8 --batch 2 --bptt 16 --sample-length 20 --threads 1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the files that the README names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for text in PYTHON:
        if named := re.match(r"# (\w+\.py)\n", text):
            (tmp_path / named[1]).write_text(text, encoding="utf-8")
    verse = "The river runs, the river stays,\nThe evening counts the passing days.\n"
    (tmp_path / "poems.txt").write_text(verse * 40, encoding="utf-8")
    (tmp_path / "other.txt").write_text("The days run to the river.\n" * 3, encoding="utf-8")
    return tmp_path


def test_every_block_is_python_or_commands() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "sh"}
    assert len(PYTHON) >= 3
    assert {command[0] for command in COMMANDS} == {"make", "pip", "throughtime"}


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_block_runs(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = folder / f"block{number}.py"
    block.write_text(PYTHON[number], encoding="utf-8")
    torch.manual_seed(0)
    try:
        found: dict[str, Any] = runpy.run_path(str(block))
    finally:
        sys.modules.pop("mgu", None)
    if "torch.randint(8" in PYTHON[number]:
        assert found["loss"].item() < 0.5 * math.log(8), "the example has not learned its task"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "make"], ids=" ".join)
def test_make_target_exists(command: list[str]) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "-n", *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done" not in done.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "pip"], ids=" ".join)
def test_pip_installs_something_that_exists(command: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert command[1] == "install"
    for what in command[2:]:
        found = re.fullmatch(r"\.(?:\[([\w,]+)\])?", what)
        assert found, f"{what} is not this project"
        assert set((found[1] or "").split(",")) - {""} <= set(extras)


@pytest.mark.slow
def test_commands_work_in_their_order(folder: Path) -> None:
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    for command in (c for c in COMMANDS if c[0] == "throughtime"):
        words = [sys.executable, "-W", "error", "-m", "throughtime.cli", *command[1:]]
        words += SMALL if command[1] == "train" else ["--length", "20"] if command[1] == "sample" else []
        done = subprocess.run(
            words,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": source},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip()
    assert (folder / "runs" / "poems" / "model.safetensors").is_file()


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_readme_table_is_there() -> None:
    table = re.search(r"<!-- made by bench/readme_table.py -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert table, "bench/readme_table.py needs its two marks"
    for rival in ("nn.RNN", "nn.GRU", "nn.LSTM", "a Python loop"):
        assert f"against {rival} |" in re.sub(" +", " ", table[1])
