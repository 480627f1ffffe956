"""--device: what is said where there is no GPU, and that a model takes its numbers to where its weights are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import throughtime as tt
from throughtime.cli import main
from throughtime.tasks.errors import UsageError
from throughtime.tasks.lm.device import check_device, described
from throughtime.tasks.lm.model import LanguageModel, Shape


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("words", [["train", "lm"], ["sample", "nowhere"], ["eval", "nowhere", "text"]])
def test_without_a_gpu_a_command_says_so(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--device", "cuda"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == ("throughtime: --device cuda: torch finds no NVIDIA GPU here; leave it out to use the CPU\n")
    assert not list(tmp_path.iterdir())


def test_what_is_no_device_here(monkeypatch: pytest.MonkeyPatch) -> None:
    check_device("cpu")
    with pytest.raises(UsageError, match=r"^--device tpu: give cpu, cuda, or cuda:1"):
        check_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("THROUGHTIME_CUDA", "block")
    check_device("cuda:1")
    with pytest.raises(UsageError, match=r"^--device cuda:2: there are 2 GPUs, numbered from cuda:0$"):
        check_device("cuda:2")
    monkeypatch.delenv("THROUGHTIME_CUDA")
    with pytest.raises(UsageError, match=r"have never run on a GPU; set THROUGHTIME_CUDA=block to try them$"):
        check_device("cuda")


def test_watching_is_for_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "lm", "--watch", "--device", "cuda"]) == 2
    assert "--watch with --device cuda: error flow is shown on the CPU only" in capsys.readouterr().err


def test_the_first_screen_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert described(torch.device("cpu")).startswith("cpu, ")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert described(torch.device("cuda:0")) == "cuda:0, NVIDIA H200, float32"


def test_a_model_takes_its_input_to_an_imagined_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THROUGHTIME_CUDA", "block")
    model = LanguageModel(tt.cells.LSTM(), Shape(11, 4, (5,), 0.0))
    with torch._subclasses.FakeTensorMode(), torch.no_grad():
        for module in list(model.modules()):
            for name, p in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(torch.empty(p.shape, device="cuda")))
        words = torch.zeros(3, 2, dtype=torch.int64)
        features, state = model(words, lengths=torch.tensor([3, 2]))
        assert features.device.type == "cuda" and tuple(features.shape) == (3, 2, 5)
        assert isinstance(state[0], tuple) and {part.device.type for part in state[0]} == {"cuda"}
