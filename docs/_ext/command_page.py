"""The page of the command line: what the parser itself says about every command."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from running import SOURCES
from throughtime.cli import USAGE


def command_page() -> str:
    parts = ["# The command line", "Every text on this page is printed by the program itself.", _console("--help")]
    for words in commands():
        parts += [f"## throughtime {' '.join(words)}", _console(*words, "--help")]
    return "\n\n".join(parts) + "\n"


def commands() -> list[tuple[str, ...]]:
    """The words of each command of the usage text, up to its first argument."""
    lines = re.findall(r"^  throughtime ((?:[a-z]+ )+)", USAGE, re.MULTILINE)
    return list(dict.fromkeys(tuple(line.split()) for line in lines))


def _console(*words: str) -> str:
    environment = {**os.environ, "COLUMNS": "96", "NO_COLOR": "1", "PYTHONPATH": str(SOURCES)}
    program = [sys.executable, "-m", "throughtime.cli", *words]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    return f"```text\n{done.stdout.rstrip()}\n```"
