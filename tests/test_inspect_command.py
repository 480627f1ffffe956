"""`throughtime inspect` and `--watch`: every picture is drawn, what they say is true, and training does not notice."""

from __future__ import annotations

import ast
import json
import re
import string
import struct
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch

import throughtime as tt
from throughtime.cli import main
from throughtime.fonts import FontMissing, families
from throughtime.inspect.pictures import draw_flow, draw_heat, draw_lines, draw_surprise
from throughtime.inspect.words import CHINESE, speaker
from throughtime.tasks.lm.inspection import Subject
from throughtime.tasks.lm.run import Run
from throughtime.tasks.lm.watching import ErrorWatch, _strip

TEXT = "the quick brown fox jumps over the lazy dog\n" * 40
SMALL = ["--hidden", "8", "--layers", "2", "--steps", "4", "--batch", "2", "--bptt", "16", "--sample-length", "0"]
KINDS = ["flow", "states", "gates", "weights", "spectrum", "saliency", "surprise"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    for cell in ("rnn", "lstm"):
        words = ["train", "lm", str(folder / "text.txt"), "--cell", cell, *SMALL, "--out", str(folder / cell)]
        assert main([*words, "--watch"]) == 0
    return folder


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_picture(kind: str, cell: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "picture.png"
    assert main(["inspect", str(run / cell), "the lazy fox", kind, "--out", str(out)]) == 0
    content = out.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert min(struct.unpack(">II", content[16:24])) > 200
    told = capsys.readouterr().out
    assert told.endswith(f"{out}\n")
    assert ("layer 2 (" in told) == (kind == "flow")


def test_svg_loss_at_and_a_text_from_a_file(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("quick brown dog", encoding="utf-8")
    assert main(["inspect", str(run / "lstm"), "words.txt", "flow", "--loss-at", "3", "--out", "a.svg"]) == 0
    assert "<svg" in Path("a.svg").read_text(encoding="utf-8")
    assert main(["inspect", str(run / "lstm"), "words.txt", "states", "--loss-at", "all"]) == 0
    assert Path("states.png").is_file()


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["x", "flow"], 2, "the text has 1 chars: a picture can show 2 to 400"),
        (["the fox", "flow", "--out", "a.gif"], 2, "--out a.gif: give a file that ends in .png or .svg"),
        (["the fox", "flow", "--loss-at", "7"], 2, "--loss-at 7: give last, all, or the number of a step from 0 to 6"),
        (["the fox", "flow", "--loss-at", "first"], 2, "--loss-at first: give last, all"),
        (["the fox", "flow", "--out", "no/a.png"], 2, "--out no/a.png: there is no folder no: make it"),
    ],
)
def test_mistakes(words: list[str], status: int, sentence: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run / "rnn"), *words]) == status
    assert sentence in capsys.readouterr().err


def test_a_language_the_command_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["inspect", "run", "the fox", "flow", "--lang", "xx"])
    assert end.value.code == 2
    assert "invalid choice 'xx' for argument '--lang'. Expected one of ('en', 'zh')." in capsys.readouterr().err


HAN = re.compile(r"[\u4e00-\u9fff]")
INSPECT = Path(tt.__file__).parent / "inspect"


def phrases() -> set[str]:
    """Every sentence that the code says."""
    found = set()
    for path in [*INSPECT.rglob("*.py"), INSPECT.parent / "tasks" / "lm" / "inspection.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say":
                assert isinstance(node.args[0], ast.Constant), f"{path.name}:{node.lineno}: say() needs a sentence"
                found.add(node.args[0].value)
    return found


def test_every_phrase_has_its_chinese_and_no_other() -> None:
    assert phrases() == set(CHINESE)


@pytest.mark.parametrize("english", CHINESE)
def test_both_languages_say_the_same_values(english: str) -> None:
    def places(text: str) -> list[tuple[str | None, str | None]]:
        return sorted((name, form) for _, name, form, _ in string.Formatter().parse(text) if name is not None)

    assert places(CHINESE[english]) == places(english)
    letters = re.sub(r"{.*?}", "", english)
    assert HAN.search(CHINESE[english]) or not re.search(r"[A-Za-z]", letters)


def test_a_language_that_is_not_there() -> None:
    with pytest.raises(ValueError, match='lang should be "en" or "zh", got \'de\''):
        speaker("de")  # type: ignore[arg-type]


OWN_NAMES = {"weight", "sigmoid", "tanh", "relu", "rnn", "lstm", "net"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["the lazy fox", "狐狸跳过懒狗"])
def test_chinese_pictures_hold_no_english(
    kind: str, text: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Words of the text and names of gates and matrices stay as they are; everything else is Chinese."""
    for lang in ("zh", "en"):
        out = tmp_path / f"{lang}.svg"
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            assert main(["inspect", str(run / "lstm"), text, kind, "--lang", lang, "--out", str(out)]) == 0
        said = re.findall(r"<text[^>]*>([^<]*)</text>", out.read_text(encoding="utf-8"))
        words = {w for line in said for w in re.findall(r"[A-Za-z]{3,}", line)} - set(text.split()) - OWN_NAMES
        told = capsys.readouterr().out.replace(str(out), "")
        if lang == "en":
            assert words
            assert not HAN.search("".join(set("".join(said)) - set(text)))
            assert not HAN.search(told)
        else:
            assert words == set()
            assert any(HAN.search(line) for line in said)
            assert (kind == "flow") == ("第 2 层（LSTM）：误差" in told)


def test_heat_and_lines(tmp_path: Path) -> None:
    table = torch.randn(6, 4)
    figure = draw_heat({"states": table, "change": table - 1}, range(1, 7))
    image = figure.axes[0].get_images()[0]
    np.testing.assert_allclose(image.get_array(), table.T, rtol=1e-6)
    assert image.get_clim()[1] == -image.get_clim()[0] == pytest.approx((table - 1).abs().max().item())
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == list("123456")
    figure = draw_lines({"a": [4.0, 0.0, 1.0], "b": torch.ones(3)}, "lengths", at=[1, 2, 3], along="round")
    axes = figure.axes[0]
    first = axes.get_lines()[0]
    np.testing.assert_array_equal(first.get_ydata(), [4, np.nan, 1])
    np.testing.assert_array_equal(first.get_xdata(), [1, 2, 3])
    assert (axes.get_xlabel(), axes.get_title("left"), axes.get_yscale()) == ("round", "lengths", "log")
    figure = draw_lines({"p": {"a": [1.0, 2.0, 3.0]}, "q": {"a": [5.0, 7.0]}}, log="", mean=2)
    left, right = figure.axes
    assert (left.get_title("left"), right.get_title("left")) == ("p", "q")
    np.testing.assert_allclose(left.get_lines()[1].get_ydata(), [1.5, 2.5])
    assert left.get_ylim()[0] == 0


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        (lambda: draw_heat({"a": np.ones(3)}), r"should have the shape \[T, units\], got \[3\]"),
        (lambda: draw_heat({"a": np.ones((3, 2)), "b": np.ones((4, 2))}), r"same number of steps, got \[3, 4\]"),
        (lambda: draw_heat({"a": np.ones((3, 2))}, "ab"), r"got \[3\] and 2 labels"),
        (lambda: draw_lines({"a": np.ones((3, 2))}), r"should have the shape \[T\], got \[3, 2\]"),
        (lambda: draw_lines({"a": []}), r"should have the shape \[T\], got \[0\]"),
        (lambda: draw_lines({"a": [1, 2]}, mean=3), "mean should be 1 to 2 for 'a', got 3"),
        (lambda: draw_lines({"a": [1, 2]}, at=[1]), "at has 1 places, but 'a' has 2 numbers"),
    ],
)
def test_mistakes_in_numbers_over_time(draw: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        draw()


def test_surprise_and_saliency_are_the_models_own(run: Path) -> None:
    """Against one pass for each prediction, and bits that are those of the probabilities."""
    subject = Subject.of(Run.open(run / "lstm"), "the lazy fox")
    assert subject.read == ["\n", *"the lazy fo"]
    assert subject.next == list("the lazy fox")
    model, words = subject.model, subject.inputs
    scores = model.logits(model(words)[0])[:, 0]
    bits = [-torch.log2(scores[t].softmax(-1)[subject.targets[t, 0]]).item() for t in range(len(words))]
    np.testing.assert_allclose(subject.surprise(), bits, rtol=1e-5)
    found = subject.saliency()
    one_hot = torch.nn.functional.one_hot(words, model.shape.units).float()
    for t in range(len(words)):
        x = one_hot.clone().requires_grad_()
        features = x
        for stack in model.recurrent:
            features = stack(features)[0]
        loss = torch.nn.functional.cross_entropy(model.logits(features[t]), subject.targets[t])
        (gradient,) = torch.autograd.grad(loss, x)
        np.testing.assert_allclose(found[t], (gradient * x).sum(-1).abs()[:, 0].detach(), rtol=1e-4, atol=1e-8)


def test_the_flow_picture_marks_where_the_error_has_vanished() -> None:
    layer = tt.Recurrent(tt.cells.Elman("identity"), 2, 4)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(0.5 * torch.eye(4))
    found = tt.inspect.flow(layer, torch.ones(20, 1, 2))
    assert found.layers[0].vanished_after == 7  # 2⁻⁷ < 1 %
    figure = draw_flow(found, list("abcdefghijklmnopqrst"), "title")
    axes = figure.axes[0]
    assert axes.get_title("left") == "layer 1: the error of one step is below 1% after 7 steps"
    marks = [line.get_xdata()[0] for line in axes.get_lines() if len(set(line.get_xdata())) == 1]
    assert 19 - 7 in marks
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list("abcdefghijklmnopqrst")


def test_chinese_characters_are_drawn() -> None:
    assert len(families("床前明月光")) == 2
    figure = draw_surprise(np.ones(5), list("床前明月光"), "静夜思")
    figure.savefig("/dev/null", format="png")  # a missing character is a warning, and warnings are errors


def test_where_no_font_has_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", list)
    sentence = (
        "no installed font has all of the characters \U0001f9f6: install one that has, such as the package "
        "fonts-noto-cjk, or pip install 'throughtime[chinese]'"
    )
    with pytest.raises(FontMissing, match=re.escape(sentence)):
        families("a\U0001f9f6")


def test_the_font_of_the_extra_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", list)
    assert families("a夔") == ["DejaVu Sans", "Noto Sans SC"]


def training(folder: Path, *options: str) -> tuple[bytes, list[dict[str, float]]]:
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    out = folder / ("watched" if options else "plain")
    assert main(["train", "lm", str(folder / "text.txt"), "--cell", "rnn", *SMALL, *options, "--dropout", "0.3",
                 "--out", str(out)]) == 0  # fmt: skip
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return (out / "model.safetensors").read_bytes(), rows


def test_watching_changes_no_bit_of_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, rows = training(tmp_path)
    assert "error flow" not in capsys.readouterr().out
    watched, watched_rows = training(tmp_path, "--watch")
    assert watched == plain
    assert [r["held_out_loss"] for r in rows] == [r["held_out_loss"] for r in watched_rows]
    told = capsys.readouterr().out
    assert len(re.findall(r"^error flow, layer 1 [▁-█!]+ .* (of|after) 16 steps$", told, re.MULTILINE)) == 1 + len(rows)


def test_a_warning_in_words() -> None:
    class Model(torch.nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.layer = tt.Recurrent(tt.cells.Elman("identity"), 5, 4)
            self.output = torch.nn.Linear(4, 5)
            with torch.no_grad():
                self.layer.weight_hh_l0.copy_(scale * torch.eye(4))

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return self.layer(words)[0]

        def logits(self, features: torch.Tensor) -> torch.Tensor:
            return self.output(features)

    ids = np.arange(400, dtype=np.int32) % 5
    watch = ErrorWatch(Model(0.5), ids, 64)  # type: ignore[arg-type]
    watch.look()
    # 2^-2.5, the mean of lags 0 to 5, is 62 % of the way from 1 % to 1
    assert watch.lines == ["error flow, layer 1 ▅▁▁▁▁▁▁▁▁▁▁▁ vanishes after 7 of 64 steps"]
    assert watch.warnings() == [
        "error vanishes after 7 of 64 steps in layer 1; consider gru or lstm, or orthogonal init"
    ]
    assert watch.warnings() == [], "it is told once"
    watch = ErrorWatch(Model(1.0), ids, 64)  # type: ignore[arg-type]
    watch.look()
    assert watch.strip == "█" * 12
    assert watch.lines == ["error flow, layer 1 ████████████ 100% left after 64 steps"]
    watch = ErrorWatch(Model(2.0), ids, 64)  # type: ignore[arg-type]
    watch.look()
    assert watch.strip.endswith("!!!!")
    assert "error explodes after 7 of 64 steps" in watch.warnings()[0]


def test_the_strip() -> None:
    assert _strip(torch.tensor([1.0, 0.1, 0.01, 0.0001, 1000.0, torch.nan])) == "█▄▁▁!"
