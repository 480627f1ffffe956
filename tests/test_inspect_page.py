"""The page that shows where errors came from and went: its numbers by hand, and its behaviour in a browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import throughtime as tt
from browser import MISSING, Browser, browser
from throughtime.cli import main
from throughtime.inspect import page as page_module
from throughtime.inspect.page import LIMIT, page_data, write_page

TEXT = "春天来了</script><b>&"
WORDS = sorted(set(TEXT))
T, H = len(TEXT), 5


def by_hand(layer: torch.nn.Module, inputs: torch.Tensor) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor]:
    """Two LSTM layers, step by step in plain torch; every state of every layer and step, and E_t = ½ ‖h_t‖²."""
    below = list(torch.nn.functional.one_hot(inputs, len(WORDS)).double())
    layers = []
    for level in (0, 1):
        w, r, b, d = (getattr(layer, f"{n}_l{level}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        h, c = torch.zeros(H).double(), torch.zeros(H).double()
        states: dict[str, list[torch.Tensor]] = {"h": [], "c": []}
        for x in below:
            i, f, g, o = (w @ x + b + r @ h + d).chunk(4)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            states["h"].append(h)
            states["c"].append(c)
        below = states["h"]
        layers.append(states)
    return layers, torch.stack(below).square().sum(1) / 2


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return tt.LSTM(len(WORDS), H, num_layers=2, dtype=torch.float64)


@pytest.fixture(scope="module")
def data(model: torch.nn.Module) -> dict[str, Any]:
    ids = torch.tensor([WORDS.index(c) for c in TEXT])
    notes = [f"note {t}" for t in range(T)]
    return page_data(model, ids[:, None], TEXT, title="一个标题", notes=notes)


def test_the_numbers_are_those_of_steps_by_hand(model: torch.nn.Module, data: dict[str, Any]) -> None:
    layers, errors = by_hand(model, torch.tensor([WORDS.index(c) for c in TEXT]))
    assert data["loss"] == pytest.approx(errors.tolist(), rel=1e-3)
    for shown, states in zip(data["layers"], layers, strict=True):
        assert list(shown["reach"]) == shown["states"] == ["h", "c"]
        assert set(shown["values"]) == set(shown["errors"]) == {"h", "c", "i", "f", "g", "o"}
        for name, steps in states.items():
            assert torch.allclose(torch.tensor(shown["values"][name]).double(), torch.stack(steps), rtol=1e-3)
            whole = torch.stack(torch.autograd.grad(errors.sum(), steps, retain_graph=True))
            assert torch.allclose(torch.tensor(shown["errors"][name]).double(), whole, rtol=1e-3)
            for k in range(T):
                alone = torch.autograd.grad(errors[k], steps, retain_graph=True, allow_unused=True)
                lengths = [0.0 if g is None else g.norm().item() for g in alone]
                assert shown["reach"][name][k] == pytest.approx(lengths, rel=1e-3, abs=1e-12)
    top = layers[1]["h"]
    assert data["layers"][1]["vertical"] == pytest.approx([h.norm().item() for h in top], rel=1e-3)  # ∂E_t/∂h_t = h_t
    whole = torch.autograd.grad(errors.sum(), top, retain_graph=True)
    horizontal = [(g - h).norm().item() for g, h in zip(whole, top, strict=True)]
    assert data["layers"][1]["horizontal"] == pytest.approx(horizontal, rel=1e-3, abs=1e-12)


def test_a_direction_that_runs_backwards_sends_errors_forward() -> None:
    torch.manual_seed(0)
    found = page_data(tt.RNN(2, 3, bidirectional=True), torch.randn(4, 1, 2), "abcd")["layers"]
    assert [(one["name"], one["reverse"]) for one in found] == [("layer 1", False), ("layer 1 backward", True)]
    forward, backward = (torch.tensor(one["reach"]["h"]) for one in found)
    assert (forward.tril() == forward).all() and (forward.tril() > 0).sum() == 10
    assert (backward.triu() == backward).all() and (backward.triu() > 0).sum() == 10


def in_page(html: str) -> dict[str, Any]:
    """The data of a page, its tables unpacked as IEEE half precision, rows in shares of `scale`."""
    found = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    for one in found["layers"]:
        for part in ("values", "errors", "reach"):
            for name, packed in one[part].items():
                scale = np.array(packed["scale"])[:, None]
                half = np.frombuffer(base64.b64decode(packed["half"]), "<f2").reshape(len(scale), -1)
                one[part][name] = half.astype(float) * scale
    return found


@pytest.mark.parametrize("at_once", [1, 3 * T * 9 * H])
def test_copies_in_parts_are_the_same_numbers(
    at_once: int, model: torch.nn.Module, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "AT_ONCE", at_once)
    ids = torch.tensor([WORDS.index(c) for c in TEXT])
    assert page_data(model, ids[:, None], TEXT)["layers"] == data["layers"]


def test_a_page_too_large_says_how_many_steps_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, table = tt.LSTM(2, 3), torch.zeros(20, 1, 2)
    monkeypatch.setattr(page_module, "NUMBERS", 20 * 36 + 2 * 20**2 - 1)
    with pytest.raises(ValueError, match="20 steps would hold 1,520 numbers, more than 1,519: give at most 19 steps"):
        page_data(layer, table, "x" * 20)
    assert len(page_data(layer, table[:19], "x" * 19)["labels"]) == 19


def test_the_file_needs_nothing_else_and_holds_any_text(data: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    write_page(data, file)
    text = file.read_text(encoding="utf-8")
    assert text.count("</script>") == 2
    shown = in_page(text)
    assert {k: v for k, v in shown.items() if k != "layers"} == {k: v for k, v in data.items() if k != "layers"}
    for one, other in zip(shown["layers"], data["layers"], strict=True):
        assert one.keys() == other.keys()
        for part in ("values", "errors", "reach"):
            for name, table in other[part].items():
                largest = np.abs(table).max(1, keepdims=True)
                assert (np.abs(one[part][name] - table) <= np.abs(table) * 2.0**-11 + largest * 2.0**-25).all()
    assert re.findall(r"(?:src|href)=", text) == []
    assert set(re.findall(r"https?://[\w./]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, which nobody fetches
    assert text.count("\n") < 400


@pytest.mark.parametrize(
    ("shape", "labels", "notes", "told"),
    [
        ((0, 1), "", (), "shows 1 to 400 steps, got 0"),
        ((LIMIT + 1, 1), "x" * (LIMIT + 1), (), "got 401: give a shorter text"),
        ((3, 2), "abc", (), "shows one sequence"),
        ((3, 1), "ab", (), "needs 3 labels and notes, got 2 and 0"),
        ((3, 1), "abc", ["a"], "needs 3 labels and notes, got 3 and 1"),
    ],
)
def test_mistakes(shape: tuple[int, int], labels: str, notes: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        page_data(tt.RNN(2, 3), torch.zeros(shape, dtype=torch.int64), labels, notes=notes)


@pytest.fixture(scope="module")
def window(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if MISSING:
        pytest.skip(f"{MISSING} is not installed")
    folder = tmp_path_factory.mktemp("browser")
    write_page(data, folder / "page.html")
    with browser(folder) as found:
        found.open(folder / "page.html")
        yield found


def text(window: Browser, selector: str) -> str:
    return window.run("return document.querySelector(arguments[0]).textContent", selector)


def chosen(window: Browser) -> int:
    return int(window.run("return document.querySelector('.step.chosen').dataset.t"))


def count(window: Browser, selector: str) -> int:
    return window.run("return document.querySelectorAll(arguments[0]).length", selector)


def pick(window: Browser, control: str, value: Any) -> None:
    window.run("const c = document.getElementById(arguments[0]); c.value = arguments[1];"
               "c.dispatchEvent(new Event('change'))", control, str(value))  # fmt: skip


def test_it_opens_without_a_complaint_or_a_request(window: Browser) -> None:
    assert text(window, "h1") == "一个标题"
    assert count(window, ".step") == T
    assert window.run("return performance.getEntriesByType('resource').length") == 0
    assert window.complaints() == []


def test_pointing_at_a_step_shows_where_its_error_came_from(window: Browser, data: dict[str, Any]) -> None:
    pick(window, "layer", 0)
    window.hover('.step[data-t="2"]')
    assert chosen(window) == 2
    told = text(window, "#told")
    column = [row[2] for row in data["layers"][0]["reach"]["h"]]
    assert told.startswith("Step 3, “来”: loss ")
    assert f"{100 * column[2] / sum(column):.0f}% was made here" in told
    assert told.endswith(" note 2")
    heights = window.run("return [...document.querySelectorAll('#text rect.from')].map(r => +r.getAttribute('height'))")
    most = max(*column, *data["layers"][0]["reach"]["h"][2])
    assert heights == pytest.approx([48 * value / most for value in column], rel=1e-3, abs=1e-6)


def test_the_keyboard_walks_through_the_steps(window: Browser) -> None:
    window.run("document.querySelector('.step.chosen').focus()")
    window.press("Home")
    assert chosen(window) == 0
    window.press("ArrowLeft")
    assert chosen(window) == 0
    for _ in range(3):
        window.press("ArrowRight")
    assert chosen(window) == 3
    assert window.run("return document.activeElement.dataset.t") == "3"
    assert count(window, '.step[tabindex="0"]') == 1


def test_layer_state_and_unit_can_be_chosen(window: Browser, data: dict[str, Any]) -> None:
    pick(window, "layer", 1)
    pick(window, "value", "c")
    pick(window, "unit", 4)
    step = chosen(window)
    value, error = (data["layers"][1][part]["c"][step][4] for part in ("values", "errors"))
    told = text(window, "#unit-told")
    assert told.startswith(f"Unit 5 of c at step {step + 1}: ")
    numbers = [float(n.replace("−", "-")) for n in re.findall(r"-?\d[\d.e-]*", told.split(": ")[1])]
    assert numbers == pytest.approx([value, error], rel=1e-2)
    coloured = window.run(
        "const c = document.getElementById('values');"
        "const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let red = 0, blue = 0; for (let i = 0; i < p.length; i += 4) if (p[i + 3] > 40) "
        "{ if (p[i] > p[i + 2] + 20) red++; if (p[i + 2] > p[i] + 20) blue++; } return [red, blue]"
    )
    assert min(coloured) > 100


def test_the_network_plays_forward_and_back(window: Browser) -> None:
    window.click("#first")
    assert (count(window, ".node.lit"), count(window, ".node.back")) == (0, 0)
    window.click("#next")
    window.click("#next")
    assert (count(window, ".node.lit"), count(window, ".node.back")) == (4, 0)
    assert "Forward: step 2" in text(window, "#frame-told")
    lines = "#network line[stroke='var(--{})']"
    window.run(
        "const f = document.getElementById('frame'); f.value = arguments[0]; f.dispatchEvent(new Event('input'))", T + 1
    )
    assert (count(window, ".node.lit"), count(window, ".node.back")) == (2 * T, 2)
    assert f"Backward: the errors reach step {T}." in text(window, "#frame-told")
    assert (count(window, lines.format("vertical")), count(window, lines.format("horizontal"))) == (2, 0)
    window.click("#next")
    assert (count(window, lines.format("vertical")), count(window, lines.format("horizontal"))) == (4, 2)
    window.click("#back")
    assert count(window, ".node.back") == 2
    window.click("#first")
    window.click("#play")
    assert "pause" in text(window, "#play")
    window.run("return new Promise(done => setTimeout(done, 1200))")
    window.click("#play")
    assert "play" in text(window, "#play")
    assert count(window, ".node.lit") >= 2


def test_language_and_theme_can_be_switched(window: Browser) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    before = window.run(background)
    window.click("#theme")
    assert window.run(background) != before
    window.click("#lang")
    assert window.run("return document.documentElement.lang") == "zh"
    assert "误差从哪里来" in text(window, "h2")
    assert "损失" in text(window, "#told")
    window.click("#lang")
    assert "Where the error came from" in text(window, "h2")
    assert window.complaints() == []


def test_a_long_text_opens_at_the_chosen_step_and_all_rows_move_together(window: Browser, tmp_path: Path) -> None:
    write_page(page_data(tt.RNN(2, 3), torch.randn(90, 1, 2), "x" * 90, lang="zh"), tmp_path / "long.html")
    window.open(tmp_path / "long.html")
    assert "误差从哪里来" in text(window, "h2")
    left = "return [...document.querySelectorAll('.scroll')].map(one => one.scrollLeft)"
    wait = "return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    window.run(wait)
    ends = window.run(left)
    assert min(ends) == max(ends) > 1000
    window.run("document.querySelectorAll('.scroll')[2].scrollLeft = 200")
    window.run(wait)
    assert window.run(left) == [200, 200, 200]
    assert window.complaints() == []


def test_the_command_writes_the_page_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("春天来了，河边的柳树先绿了。\n" * 40, encoding="utf-8")
    small = "--hidden 8 --layers 2 --steps 3 --batch 2 --bptt 16 --sample-length 0 --threads 1 --out run"
    assert main(["train", "lm", "text.txt", *small.split()]) == 0
    assert main(["inspect", "run", "柳树先绿了", "page", "--lang", "zh", "--out", "a.html"]) == 0
    assert capsys.readouterr().out.endswith("a.html\n")
    html = Path("a.html").read_text(encoding="utf-8")
    shown = in_page(html)
    assert shown["lang"] == "zh"
    assert shown["labels"] == ["\n", *"柳树先绿"]
    assert [one["level"] for one in shown["layers"]] == [0, 1]
    assert all(
        re.fullmatch(r"p\('.'\) = \d+%; max p: '.+' \d+%, '.+' \d+%, '.+' \d+%", note) for note in shown["notes"]
    )
    monkeypatch.setattr(page_module, "NUMBERS", 3000)
    assert main(["inspect", "run", "柳" * 100, "page"]) == 2
    assert "throughtime: inspect: a page of this model and 100 steps would hold" in capsys.readouterr().err
    assert main(["inspect", "run", "柳树", "page", "--out", "a.png"]) == 2
    assert "a file that ends in .html" in capsys.readouterr().err
