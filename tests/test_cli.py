"""The command line: quick to answer, one sentence for every mistake, the right exit status."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from throughtime.cli import main

HELP = [["--help"], ["train", "lm", "--help"], ["sample", "--help"], ["eval", "--help"]]
TEXT = "the quick brown fox jumps over the lazy dog\n" * 40


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return "text.txt"


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys, contextlib\n"
        "from throughtime.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        f"    main({arguments!r})\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'rich.console'} & set(sys.modules)\n"
        "sys.exit(','.join(heavy) or None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "train" in done.stdout or "RUN" in done.stdout


def test_help_answers_in_half_a_second() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "throughtime.cli", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.5


def test_no_command_and_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["paint"]) == 2
    assert "no command 'paint'" in capsys.readouterr().err


MISTAKES = [
    (["missing.txt"], 2, "missing.txt: no such file or folder"),
    (["text.txt", "--cell", "gruu", "--steps", "1"], 2, "did you mean gru?"),
    (["text.txt", "--cell", "cell.py", "--steps", "1"], 2, "say which class in it"),
    (["text.txt", "--cell", "none.py:Cell", "--steps", "1"], 2, "no such file none.py"),
    (["text.txt", "--hidden", "4", "5", "--layers", "3"], 2, "one width for all layers"),
    (["text.txt", "--hidden", "0"], 2, "--hidden: give one width"),
    (["text.txt", "--dropout", "1"], 2, "--dropout 1.0: give a probability"),
    (["text.txt", "--lr", "nan"], 2, "--lr nan: give a number above 0"),
    (["text.txt", "--minutes", "0"], 2, "--minutes 0.0: give a number above 0"),
    (["text.txt", "--batch", "0"], 2, "--batch 0: give at least 1"),
    (["text.txt", "--held-out", "2000"], 2, "has only 1760 characters"),
    (["text.txt", "--held-out", "-3"], 2, "a fraction between 0 and 1"),
    (["text.txt", "--out", "text.txt"], 2, "this is a file"),
    (["text.txt", "--out", "."], 2, "this folder is not empty"),
    (["--resume", "nowhere"], 2, "nowhere: no such run folder"),
    (["--resume", "."], 2, "is not a run"),
]


@pytest.mark.parametrize(("arguments", "status", "sentence"), MISTAKES, ids=lambda value: str(value)[:40])
def test_every_mistake_is_one_sentence(
    arguments: list[str], status: int, sentence: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "lm", *arguments]) == status
    told = capsys.readouterr().err
    assert sentence in told
    assert told.startswith("throughtime: ")
    assert told.count("\n") == 1
    assert not Path("runs").exists(), "a refused command must leave nothing behind"


def test_an_unknown_option_is_a_usage_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "lm", text, "--learning-rte", "1"])
    assert ended.value.code == 2
    assert "learning-rte" in capsys.readouterr().err


CELLS = {
    "1 / 0": "failed in line 1: ZeroDivisionError",
    "def f(:": "failed in line 1: SyntaxError",
    "Other = 1": "defines no Mine",
    "class Mine: pass": "is not a throughtime.Cell",
    "def Mine(): return [][0]": "Mine() failed: IndexError",
}


@pytest.mark.parametrize(("source", "sentence"), CELLS.items(), ids=CELLS)
def test_a_file_with_a_broken_cell(source: str, sentence: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(source + "\n")
    assert main(["train", "lm", text, "--cell", "mine.py:Mine", "--steps", "1"]) == 2
    assert sentence in capsys.readouterr().err


def test_an_equation_that_cannot_be_is_told_without_a_traceback(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(
        "import throughtime as tt\nclass Mine(tt.Cell):\n    def step(self, x, h):\n        return h if h > 0 else x\n"
    )
    assert main(["train", "lm", text, "--cell", "mine.py:Mine", "--steps", "1"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("throughtime: ")
    assert "Traceback" not in told
    assert not Path("runs").exists()


def test_a_closed_pipe_ends_quietly(text: str) -> None:
    assert main(["train", "lm", text, "--hidden", "4", "--steps", "1", "--out", "run"]) == 0
    sample = f"{sys.executable} -m throughtime.cli sample run --length 3000 --seed 1"
    done = subprocess.run(f"{sample} | head -c 5", shell=True, capture_output=True, text=True, check=True)
    assert len(done.stdout) == 5
    assert done.stderr == ""
