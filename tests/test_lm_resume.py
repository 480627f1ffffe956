"""Stopped by Ctrl-C, by SIGTERM or killed: continued training gives the bits of uninterrupted training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from throughtime.cli import main

STEPS = 150
COMMAND = [sys.executable, "-u", "-m", "throughtime.cli", "train", "lm"]
OPTIONS = [
    "--cell", "gru", "--hidden", "12", "--layers", "2", "--dropout", "0.3", "--batch", "4", "--bptt", "16",
    "--steps", str(STEPS), "--evaluate-every", "10", "--sample-length", "5", "--threads", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"line {k}: {k * k} is the square of {k}\n" for k in range(60)))
    return path


@pytest.fixture(scope="module")
def straight(text: Path) -> Path:
    """A run nobody interrupted."""
    out = text.parent / "straight"
    assert main(["train", "lm", str(text), "--out", str(out), *OPTIONS]) == 0
    return out


def last_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def same_bits(run: Path, straight: Path) -> None:
    """Weights, optimizer, random numbers, carried state and logs, bit for bit (the clock aside)."""
    mine, other = last_checkpoint(run), last_checkpoint(straight)
    assert mine.name.endswith(f"-step-{STEPS}")
    for name in ("model.safetensors", "training.safetensors"):
        found, expected = (safetensors.torch.load((place / name).read_bytes()) for place in (mine, other))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(found[key], value), f"{name}: {key} differs"
    assert (run / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert (run / "samples.txt").read_bytes() == (straight / "samples.txt").read_bytes()
    assert timeless(run) == timeless(straight)


def timeless(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "units_per_second")} for row in rows]


def started(arguments: list[str], until_line: str) -> subprocess.Popen[str]:
    """A training that has just printed a line beginning like this."""
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(until_line):
            return process
    raise AssertionError(process.stderr.read() if process.stderr else "")


def resumed(run: Path, *more: str) -> int:
    return main(["train", "lm", "--resume", str(run), *more])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_saves_and_says_how_to_continue(
    number: signal.Signals, text: Path, straight: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with started([str(text), "--out", str(run), *OPTIONS], "step     30") as process:
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"continue with: throughtime train lm --resume {run}" in told
    assert "Traceback" not in told
    assert resumed(run) == 0
    same_bits(run, straight)


def test_killed_at_any_moment(text: Path, straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [str(text), "--out", str(run), *OPTIONS]
    for line, wait in (("step     20", 0.013), ("step     60", 0.002), ("step    100", 0.02)):
        with started(arguments, line) as process:
            time.sleep(wait)
            process.kill()
            process.communicate()
        arguments = ["--resume", str(run)]
    assert resumed(run) == 0
    same_bits(run, straight)


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(
    text: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shorter = [*OPTIONS, "--steps", "100", "--schedule", "constant"]
    longer = ["--steps", str(STEPS)]
    other = tmp_path / "other"
    for out in (run, other):
        assert main(["train", "lm", str(text), "--out", str(out), *shorter]) == 0
    weights = last_checkpoint(run) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    capsys.readouterr()
    assert resumed(run, *longer) == 0
    told = capsys.readouterr().out
    assert "is damaged" in told
    assert "Continuing at step 90" in told
    assert resumed(other, *longer) == 0
    same_bits(run, other)


def test_the_second_signal_leaves_at_once(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slow = ["--hidden", "700", "--batch", "256", "--bptt", "400", "--steps", "3000", "--evaluate-every", "2"]
    long_text = tmp_path / "long.txt"
    long_text.write_text(text.read_text() * 80)
    with started([str(long_text), "--out", str(run), "--cell", "rnn", *slow], "run ") as process:
        time.sleep(1.0)  # well inside the first step, which takes seconds
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - began < 2


def test_only_what_may_change_changes(straight: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert resumed(straight) == 2
    assert "it has finished" in capsys.readouterr().err
    assert resumed(straight, "--lr", "0.5", "--steps", "200") == 2
    assert "--lr was 0.005 and cannot become 0.5" in capsys.readouterr().err
    assert resumed(straight, "--steps", "100") == 2
    assert "the new budget is used up already" in capsys.readouterr().err
    original = text.read_text()
    text.write_text(original + "one line more\n")
    try:
        assert resumed(straight, "--steps", "200") == 2
        assert "the text is not the one this run began with" in capsys.readouterr().err
    finally:
        text.write_text(original)


def test_two_trainings_do_not_share_a_folder(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    with started([str(text), "--out", str(run), *OPTIONS, "--steps", "100000"], "step     10") as process:
        os.kill(process.pid, signal.SIGSTOP)
        try:
            assert resumed(run) == 2
            assert "another training is writing to" in capsys.readouterr().err
        finally:
            process.kill()
            process.communicate()
