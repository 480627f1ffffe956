"""Formulas: what is printed is computed, and agrees with autograd; the texts of well-known cells are pinned."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import oracles
import throughtime as tt
from formula_reader import Matrix, compute
from gradient_check import randomise
from throughtime.cli import main

T, B, I, H = 4, 3, 5, 6  # noqa: E741
GATES = "ifgo"


def rows(letter: str, source: str, names: str) -> list[str]:
    return [f"{letter}_{source}{name}" for name in names]


def two_biases(inner: str, outer: str) -> dict[str, list[str]]:
    return {
        "weight_ih": rows("W", "i", inner),
        "weight_hh": rows("W", "h", outer),
        "bias_ih": rows("b", "i", inner),
        "bias_hh": rows("b", "h", outer),
    }


def own(*names: str) -> dict[str, list[str]]:
    return {name: [name] for name in names}


NAMES: dict[str, dict[str, list[str]]] = {
    "rnn": two_biases("h", "h"),
    "gru": two_biases("rzn", "rzm"),
    "gru-reset-before": two_biases("rzn", "rzn"),
    "lstm": two_biases(GATES, GATES),
    "lstm-peephole": two_biases(GATES, GATES) | own("p_i", "p_f", "p_o"),
    "mgu": {"weight_ih": ["W_if", "W_ih"], "weight_hh": ["W_hf", "W_hh"], "bias": ["b_f", "b_h"]},
    "lstm-layernorm": {
        "weight_ih": rows("W", "i", GATES),
        "weight_hh": rows("W", "h", GATES),
        "bias": rows("b", "", GATES),
        **own(*(f"{what}_{k}" for k in "ifgoc" for what in ("gain", "shift"))),
    },
    "lstm-mogrifier": {
        "weight_q": ["W_hq"],
        "weight_ih": rows("W", "x′", GATES),
        "weight_hh": rows("W", "h", GATES),
        "bias": rows("b", "", GATES),
    },
}
"""Parameter -> the printed names of its rows, from top to bottom."""


def check(cell, step, names, **options):
    """Computes the printed lines over T steps and compares outputs and every gradient with autograd through `step`."""
    layer = tt.Recurrent(cell, I, H, dtype=torch.float64)
    randomise(layer, 3)
    generator = torch.Generator().manual_seed(4)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    x, starts = random(T, B, I), [random(1, B, H) for _ in layer.state_names]
    errors, ends = random(T, B, H).detach(), [random(1, B, H).detach() for _ in starts]
    parameters = dict(layer.named_parameters())
    output, final = oracles.run(step, parameters, x, starts)
    sources = [x, *starts, *parameters.values()]
    wanted = torch.autograd.grad([output, *final], sources, [errors, *ends])

    known = {"H": torch.tensor(float(H)), "I": torch.tensor(float(I))}
    for parameter, printed in names.items():
        tensor = parameters[f"{parameter}_l0"].detach()
        for name, part in zip(printed, tensor.chunk(len(printed)), strict=True):
            known[name] = Matrix(part) if tensor.dim() == 2 else part
    formulas = tt.formulas(cell, backward=True, **options)
    lines = {section.key: section.text for section in formulas}
    states = [options.get("states", {}).get(n, n) for n in layer.state_names]
    suffixes = states if len(states) > 1 else [""]
    seen = [s[0].detach() for s in starts]
    steps = []
    for t in range(T):
        now = dict(known) | {"x_t": x[t].detach()}
        now |= {f"{n}_{{t-1}}": v for n, v in zip(states, seen, strict=True)}
        for left, right in lines["forward"]:
            now[left] = compute(right, now)
        seen = [now[f"{n}_t"] for n in states]
        steps.append(now)
        torch.testing.assert_close(seen[0], output[t].detach(), rtol=1e-11, atol=1e-11)
    found = {}
    back = [e[0] for e in ends]
    for t in reversed(range(T)):
        now = steps[t] | {"e↓_t": errors[t]} | {f"e←{n}_t": e for n, e in zip(suffixes, back, strict=True)}
        for left, right in lines["errors"]:
            now[left] = compute(right, now)
        back = [None] * len(back)
        for (left, right), n in zip(lines["in_time"], suffixes, strict=True):
            assert left == f"e←{n}_{{t-1}}"
            back[suffixes.index(n)] = compute(right, now)
        ((_, below),) = lines["in_depth"]
        found.setdefault("x", []).insert(0, compute(below, now))
        for left, right in lines["gradients"]:
            one = compute(right.removeprefix("Σ_t "), now)
            for name in left.split(" = "):
                part = one if "ᵀ" in right else one.sum(0)
                key = name.removeprefix("∂E/∂")
                found[key] = found[key] + part if key in found else part
    torch.testing.assert_close(torch.stack(found.pop("x")), wanted[0], rtol=1e-10, atol=1e-10)
    for name, value, expected in zip(states, back, wanted[1:], strict=False):
        torch.testing.assert_close(value, expected[0], rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    gradients = dict(zip(parameters, wanted[1 + len(starts) :], strict=True))
    assert {p.removesuffix("_l0") for p in parameters} == set(names), "every parameter must be looked at"
    for parameter, printed in names.items():
        total = torch.cat([found.pop(name) for name in printed])
        torch.testing.assert_close(total, gradients[f"{parameter}_l0"], rtol=1e-10, atol=1e-10)
    assert not found


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_text_computes_what_autograd_computes(name):
    check(tt.cells.catalogue[name](), oracles.STEPS[name], NAMES[name])


def test_every_cell_of_the_catalogue_is_looked_at():
    assert set(NAMES) == set(tt.cells.catalogue)


@pytest.mark.parametrize("activation", oracles.ACTIVATIONS)
def test_with_every_activation(activation):
    check(tt.cells.Elman(activation), oracles.elman(activation), NAMES["rnn"])


def test_two_rounds_of_a_mogrifier():
    names = {
        "weight_q": ["W_hq"],
        "weight_ih": ["W_hp", *rows("W", "x′", GATES)],
        "weight_hh": rows("W", "h′", GATES),
        "bias": rows("b", "", GATES),
    }
    layer = tt.Recurrent(tt.cells.MogrifierLSTM(rounds=2), H, H)
    assert set(names) == {n.removesuffix("_l0") for n, _ in layer.named_parameters()}
    text = str(tt.formulas(layer, backward=True))
    for name in [name for printed in names.values() for name in printed]:
        assert f"∂E/∂{name} = " in text


RNN = """\
Elman

Forward: one time step
  net_t = U x_t + W s_{t-1} + b
  s_t = tanh(net_t)

Error terms of step t
  ∂E/∂s_t = e←_t + e↓_t
  δ_t = ∂E/∂s_t ⊙ (1 − s_t²)

Error through time (horizontal): to step t-1
  e←_{t-1} = Wᵀ δ_t

Error through depth (vertical): to the layer below; in the lowest layer ∂E/∂x_t
  e↓^{l-1}_t = Uᵀ δ_t

Gradients of the weights: sums over all steps
  ∂E/∂U = Σ_t δ_t x_tᵀ
  ∂E/∂W = Σ_t δ_t s_{t-1}ᵀ
  ∂E/∂b = Σ_t δ_t

Kept from the forward pass for the backward pass
  s_t, s_{t-1}
"""
GRU = """\
Forward: one time step
  r_t = σ(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
  z_t = σ(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
  net^m_t = W_hm h_{t-1} + b_hm
  n_t = tanh(W_in x_t + b_in + r_t ⊙ net^m_t)
  h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t-1}

Error terms of step t
  ∂E/∂h_t = e←_t + e↓_t
  δ^n_t = ∂E/∂h_t ⊙ (1 − z_t) ⊙ (1 − n_t²)
  δ^m_t = δ^n_t ⊙ r_t
  δ^z_t = (∂E/∂h_t ⊙ h_{t-1} − ∂E/∂h_t ⊙ n_t) ⊙ z_t ⊙ (1 − z_t)
  δ^r_t = δ^n_t ⊙ net^m_t ⊙ r_t ⊙ (1 − r_t)

Error through time (horizontal): to step t-1
  e←_{t-1} = ∂E/∂h_t ⊙ z_t + W_hmᵀ δ^m_t + W_hzᵀ δ^z_t + W_hrᵀ δ^r_t
"""
LSTM_LATEX = r"""\begin{aligned}
i_{t} &= \sigma(W_{ii} x_{t} + b_{ii} + W_{hi} h_{t-1} + b_{hi}) \\
f_{t} &= \sigma(W_{if} x_{t} + b_{if} + W_{hf} h_{t-1} + b_{hf}) \\
g_{t} &= \tanh(W_{ig} x_{t} + b_{ig} + W_{hg} h_{t-1} + b_{hg}) \\
c_{t} &= f_{t} \odot c_{t-1} + i_{t} \odot g_{t} \\
o_{t} &= \sigma(W_{io} x_{t} + b_{io} + W_{ho} h_{t-1} + b_{ho}) \\
h_{t} &= o_{t} \odot \tanh(c_{t})
\end{aligned}"""


def test_the_tutorials_own_equations():
    assert str(tt.formulas("rnn", backward=True, notation="tutorial")).startswith(RNN)


def test_gru_and_lstm_as_their_papers_have_them():
    assert GRU in str(tt.formulas("gru", backward=True))
    assert tt.formulas("lstm")[0].latex == LSTM_LATEX
    assert r"\frac{\partial E}{\partial W_{hi}} &= \sum_{t} \delta^{i}_{t} {h_{t-1}}^{\top}" in (
        tt.formulas("lstm", backward=True).latex
    )


def test_chinese_headings_and_the_same_formulas():
    english, chinese = (tt.formulas("mgu", backward=True, lang=lang) for lang in ("en", "zh"))
    assert "误差沿时间传播（水平方向）" in str(chinese)
    assert [s.text for s in english] == [s.text for s in chinese]


def png_size(content: bytes) -> tuple[int, int]:
    assert content.startswith(b"\x89PNG")
    return struct.unpack(">II", content[16:24])


@pytest.mark.parametrize(("name", "notation"), [*((n, "torch") for n in NAMES), ("rnn", "tutorial")])
def test_every_formula_can_be_typeset(name, notation, tmp_path):
    found = tt.formulas(name, backward=True, notation=notation)
    width, height = png_size(found.png(str(tmp_path / "formulas.png")))
    assert width > 600
    assert height > 900
    assert (tmp_path / "formulas.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("activation", ["leaky_relu", "elu", "gelu", "hard_sigmoid"])
def test_activations_can_be_typeset(activation):
    png_size(tt.formulas(tt.cells.Elman(activation), backward=True).png())


def test_chinese_headings_can_be_drawn():
    width, _ = png_size(tt.formulas("gru", backward=True, lang="zh").png())
    assert width > 600


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"cell": "gruu"}, "no cell is called 'gruu'"),
        ({"cell": "gru", "notation": "greek"}, 'notation should be "torch" or "tutorial"'),
        ({"cell": "gru", "lang": "fr"}, 'lang should be "en" or "zh"'),
        ({"cell": 3}, "formulas was given int"),
    ],
)
def test_mistakes(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        tt.formulas(**arguments)


OWN = """
import throughtime as tt
class Mine(tt.Cell):
    def step(self, x, h):
        α = tt.sigmoid(tt.affine("alpha", x, h))
        return α * h + (1 - α) * tt.tanh(tt.affine("new", x))
"""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(OWN, encoding="utf-8")
    assert main(["formulas", "mine.py:Mine", "--backward"]) == 0
    assert "δ^alpha_t = " in capsys.readouterr().out
    assert main(["formulas", "mine.py:Mine", "--latex"]) == 0
    assert r"\alpha_{t} &= \sigma(W_{i,\mathrm{alpha}} x_{t}" in capsys.readouterr().out
    assert main(["formulas", "gru", "--png", "gru.png"]) == 0
    png_size(Path("gru.png").read_bytes())
    assert main(["formulas", "gru", "--png", "gru.png", "--latex"]) == 2
    assert main(["formulas", "grux"]) == 2
    assert "grux: no such cell; did you mean gru?" in capsys.readouterr().err
    assert main(["source", "mine.py:Mine", "--backward"]) == 0
    assert "// Mine.backward: one time step" in capsys.readouterr().out
    assert main(["source", "lstm", "--dtype", "float64"]) == 0
    assert "TT_ENTRY(Cell, double)" in capsys.readouterr().out


def test_the_same_in_every_process() -> None:
    program = "import throughtime as tt; print(tt.formulas('lstm-layernorm', backward=True))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(texts) == 1
