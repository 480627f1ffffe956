"""The run folder: movable, without pickle, and never half written or silently wrong."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from throughtime.cli import main

TEXT = "the quick brown fox jumps over the lazy dog, 快狐狸\n" * 60
SMALL = ["--hidden", "8", "--steps", "20", "--evaluate-every", "10", "--sample-length", "20", "--batch", "4"]
CELL = """
import throughtime as tt

class Mine(tt.Cell):
    def step(self, x, h):
        keep = tt.sigmoid(tt.affine("keep", x, h))
        return keep * h + (1 - keep) * tt.tanh(tt.affine("new", x, h))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made with a cell of one's own; its file and its text are gone afterwards."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "mine.py").write_text(CELL)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    out = str(folder / "run")
    assert (
        main(
            [
                "train",
                "lm",
                str(folder / "text.txt"),
                "--cell",
                f"{folder}/mine.py:Mine",
                "--out",
                out,
                *SMALL,
            ]
        )
        == 0
    )
    (folder / "mine.py").unlink()
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """The same run, moved elsewhere."""
    return Path(shutil.copytree(trained, tmp_path / "moved 到这里"))


def sample(run: Path, *more: str) -> int:
    return main(["sample", str(run), "--length", "30", "--seed", "1", *more])


def test_a_run_is_whole_and_has_no_pickle(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "config.json", "vocabulary.json", "cell.txt", "model.safetensors", "manifest.json", "metrics.jsonl",
        "samples.txt", "loss-curve.png", "result.json", "checkpoints",
    }  # fmt: skip
    assert (run / "loss-curve.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]
    assert lines[1]["held_out_loss"] < lines[0]["held_out_loss"] < 4
    assert (run / "samples.txt").read_text("utf-8").startswith("--- step 10\n")
    for path in run.rglob("*"):
        if path.is_file():
            assert path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"PK"), path


def test_sample_is_repeatable_without_the_cells_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(run, "--prime", "the 快") == 0
    first = capsys.readouterr()
    assert first.out.startswith("the 快")
    assert len(first.out) == len("the 快") + 30 + 1
    assert first.err == ""
    assert sample(run, "--prime", "the 快") == 0
    assert capsys.readouterr().out == first.out
    assert sample(run, "--weights", "last", "--temperature", "0") == 0


def test_sample_says_what_it_does_not_know(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(run, "--prime", "Zoë") == 0
    assert "does not know 'Z', 'ë': read as unknown" in capsys.readouterr().err
    assert main(["sample", str(run), "--length", "5"]) == 0
    assert "throughtime: seed " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--temperature=-1"], "--temperature -1.0"),
        (["--top-k", "0"], "--top-k 0"),
        (["--length", "0"], "--length 0"),
    ],
)
def test_sample_refuses_impossible_wishes(
    more: list[str], sentence: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(run, *more) == 2
    assert sentence in capsys.readouterr().err


def test_eval_gives_the_figures_of_training(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = TEXT[-int(0.1 * len(TEXT)) :]
    (tmp_path / "held.txt").write_text(held_out, encoding="utf-8")
    assert main(["eval", str(run), str(tmp_path / "held.txt")]) == 0
    told = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    result = json.loads((run / "result.json").read_text())["held_out"]
    assert float(told["bits per character"]) == pytest.approx(result["bits_per_character"], abs=6e-5)
    assert told["unknown"].strip() == f"0.0000% of {len(held_out)} chars"
    (tmp_path / "strange.txt").write_text("ЖЖЖЖ", encoding="utf-8")
    assert main(["eval", str(run), str(tmp_path / "strange.txt")]) == 0
    assert "100.0000% of 4 chars" in capsys.readouterr().out


PARTS = ["config.json", "vocabulary.json", "cell.txt", "model.safetensors", "manifest.json"]


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
def test_damage_is_told_and_never_used(name: str, damage: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((run / name).read_bytes())
    match damage:
        case "flip":
            content[len(content) // 2] ^= 4
            (run / name).write_bytes(content)
        case "truncate":
            (run / name).write_bytes(content[:-7])
        case "remove":
            (run / name).unlink()
        case "empty":
            (run / name).write_bytes(b"")
    assert sample(run) in (1, 2)
    told = capsys.readouterr()
    assert told.out == ""
    assert str(run) in told.err
    assert told.err.count("\n") == 1


def test_every_single_bit_of_the_weights_is_guarded(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (run / "model.safetensors").read_bytes()
    for place in range(0, len(good), len(good) // 12):
        bad = bytearray(good)
        bad[place] ^= 1 << (place % 8)
        (run / "model.safetensors").write_bytes(bad)
        assert sample(run) == 1
        assert "model.safetensors is damaged" in capsys.readouterr().err


def test_an_existing_run_is_never_written_over(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["train", "lm", str(tmp_path / "text.txt"), "--out", str(run), *SMALL]) == 2
    assert "or continue it with --resume" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_diverging_run_stops_and_keeps_the_last_good_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(TEXT, encoding="utf-8")
    wild = ["--optimizer", "sgd", "--lr", "1e38", "--clip", "0", "--warmup", "0", "--evaluate-every", "1"]
    options = ["--cell", "rnn", "--hidden", "8", "--steps", "50", "--sample-length", "0", *wild]
    assert main(["train", "lm", str(text), "--out", str(out), *options]) == 1
    told = capsys.readouterr().err
    assert "training diverged at step" in told
    assert "try a smaller --lr" in told
    if (out / "model.safetensors").exists():
        assert sample(out) == 0


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(TEXT, encoding="utf-8")
    start = ["train", "lm", str(text), "--out", str(out), "--cell", "rnn", *SMALL, "--hidden", "64"]
    assert main(start) == 0
    before = sorted((out / "checkpoints").iterdir())

    def small_files() -> None:
        # Writing beyond this fails as on a full disk; Python ignores the signal that would come with it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = [sys.executable, "-m", "throughtime.cli", "train", "lm", "--resume", str(out), "--steps", "40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=small_files)
    assert done.returncode == 1
    assert "no room to write" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted((out / "checkpoints").iterdir()) == before
    assert main(["train", "lm", "--resume", str(out), "--steps", "40"]) == 0


def test_words_and_bytes_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("你好 world, it's me\n" * 60, encoding="utf-8")
    for unit in ("word", "byte"):
        out = str(tmp_path / unit)
        options = [
            "--cell",
            "rnn",
            "--hidden",
            "8",
            "6",
            "--unit",
            unit,
            "--steps",
            "3",
            "--by-line",
            "--batch",
            "8",
        ]
        assert main(["train", "lm", str(text), "--out", out, "--dropout", "0.2", *options]) == 0
        assert sample(Path(out), "--prime", "你", "--stop", "zzz") == 0
        assert main(["eval", out, str(text)]) == 0
        assert f"nats per {unit}" in capsys.readouterr().out


def test_plain_lines_when_not_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a\x1b[31mb\n" * 200)
    options = ["--out", str(tmp_path / "run"), "--cell", "rnn", *SMALL]
    assert main(["train", "lm", str(text), *options]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "\r" not in told
    assert "bits/char" in told


def test_a_tiny_text_gets_smaller_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abab")
    options = ["--out", str(tmp_path / "run"), "--cell", "rnn", "--hidden", "8", "--steps", "3"]
    assert main(["train", "lm", str(text), *options]) == 0
    assert "1 streams with windows of 4" in capsys.readouterr().out
