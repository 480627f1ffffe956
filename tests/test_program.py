"""What is derived from an equation: phases, kept values, error recursion, kernel text.

`python tests/test_program.py --regenerate` writes the golden texts of every catalogue cell anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import throughtime as tt
from throughtime.codegen.phases import schedule
from throughtime.codegen.source import kernel_source, products_source, skeletons
from throughtime.nn.parameters import layout
from throughtime.symbolic.adjoint import Adjoint, adjoint
from throughtime.symbolic.equation import trace
from throughtime.symbolic.program import Recurrence, lower

GOLDEN = Path(__file__).parent / "golden"
CATALOGUE = tt.cells.catalogue


def forward_of(cell: tt.Cell, training: bool = False) -> Recurrence:
    equation = trace(cell, training)
    table = layout(cell, equation)
    return lower(equation, table.input_order, table.bias_blocks())


def derived(name: str) -> Adjoint:
    return adjoint(forward_of(CATALOGUE[name]()))


def phases(recurrence: Recurrence) -> list[str]:
    """Each phase on a line: its width, its matrices and the vectors they are applied to, its sums over units."""
    lines = []
    for phase in schedule(recurrence).phases:
        parts = [str(phase.width)]
        for product in phase.products:
            for k, vector in enumerate(product.vectors):
                names = " ".join(row[k][0] + ("ᵀ" if row[k][1] else "") for row in product.factors)
                parts.append(f"{names} · {vector.label or (vector if vector.op == 'carry' else 'a value')}")
        parts += [f"{len(phase.totals)} sums"] if phase.totals else []
        lines.append(", ".join(parts))
    return lines


FORWARD_PHASES = {
    "rnn": ["hidden, net.1 · h"],
    "gru": ["hidden, r.1 z.1 m.0 · h"],
    "lstm": ["hidden, i.1 f.1 g.1 o.1 · h"],
    "lstm-peephole": ["hidden, i.1 f.1 g.1 o.1 · h"],
    "mgu": ["hidden, f.1 · h", "hidden, h.1 · a value"],
    "gru-reset-before": ["hidden, r.1 z.1 · h", "hidden, n.1 · a value"],
    "lstm-mogrifier": ["input, q.0 · h", "hidden, i.0 f.0 g.0 o.0 · x, i.1 f.1 g.1 o.1 · h"],
    "lstm-layernorm": [
        "hidden, i.1 f.1 g.1 o.1 · h, 4 sums",
        *("1", "hidden, 4 sums"),  # mean, then variance of the gates
        *("1", "hidden, 1 sums", "1", "hidden, 1 sums", "1"),  # the same of the cell state
        "hidden",
    ],
}
BACKWARD_PHASES = {"rnn": 2, "gru": 2, "lstm": 2, "lstm-peephole": 2, "mgu": 3, "gru-reset-before": 3}
BACKWARD_PHASES |= {"lstm-mogrifier": 3, "lstm-layernorm": 11}


@pytest.mark.parametrize("name", CATALOGUE)
def test_phases(name):
    found = derived(name)
    assert phases(found.forward) == FORWARD_PHASES[name]
    assert len(phases(found.backward)) == BACKWARD_PHASES[name]


def saved(found: Adjoint) -> set[str]:
    return {w.name for w in found.forward.writes if w.array == "saved"}


KEPT = {
    "rnn": {"h_seen"},
    "gru": {"h_seen", "r", "z", "n", "add3"},  # add3: R_n h + b_hn, which r multiplies
    "lstm": {"h_seen", "c_seen", "i", "f", "g", "o"},
    "lstm-peephole": {"h_seen", "c_seen", "i", "f", "g", "o"},
    "mgu": {"h_seen", "f", "candidate", "mul2"},  # mul2: f ⊙ h, the argument of a product
    "gru-reset-before": {"h_seen", "r", "z", "n", "mul3"},
    "lstm-mogrifier": {"h_seen", "c_seen", "i", "f", "g", "o", "x", "sigmoid3"},
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept(name):
    assert saved(derived(name)) == KEPT[name]


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_is_kept_is_needed_and_not_more_than_the_obvious(name):
    """Every kept value is read by the backward pass or multiplies an error term; the obvious set is all products
    and sums over units, and every state."""
    found = derived(name)
    used = {r.name.removeprefix("saved.") for r in found.backward.used_reads if r.array == "saved"}
    vectors = {g.vector.name for g in found.gradients if g.vector.array == "saved"}
    assert saved(found) == used | vectors
    widths = [w.node.width != 1 for w in found.forward.writes if w.array == "saved"]
    nodes = found.forward.nodes
    obvious = [n for n in nodes if n.op in ("linear", "total", "carry")]
    obvious += [a for n in nodes if n.op == "linear" for a in n.args if a.op != "carry"]
    assert sum(widths) <= sum(n.width != 1 for n in {n.index: n for n in obvious}.values()) + len(found.forward.carries)


def recursion(found: Adjoint) -> list[str]:
    """The backward pass as text: what each error is, then the gradients of the matrices."""
    lines = [f"{c.name}[t-1] = {c.next}" for c in found.backward.carries]
    lines += [f"{w.name} = {w.node}" for w in found.backward.writes]
    lines += [f"{s.name} = Σ {s.node}" for s in found.backward.sums]
    return lines + [f"d_{g.matrix} = Σ {g.delta.name} {g.vector.name}ᵀ" for g in found.gradients]


def test_error_recursion_of_the_simple_network():
    """δ = f'(net) ⊙ (error from above + error from the next step), which flows back by Rᵀ."""
    assert recursion(derived("rnn")) == [
        "d_h[t-1] = net.1ᵀ ((d_h + d_out) * (1 - out * out))",
        "d_net.net = (d_h + d_out) * (1 - out * out)",
        "d_bias.net = Σ (d_h + d_out) * (1 - out * out)",
        "d_net.1 = Σ d_net.net h_seenᵀ",
    ]


def test_error_recursion_of_the_gru():
    n = "(d_h + d_out) * (1 - saved.z) * (1 - saved.n * saved.n)"
    z = "((d_h + d_out) * saved.h_seen + -((d_h + d_out) * saved.n)) * saved.z * (1 - saved.z)"
    r = f"{n} * saved.add3 * saved.r * (1 - saved.r)"
    lines = recursion(derived("gru"))
    assert lines[0].startswith(f"d_h[t-1] = (d_h + d_out) * saved.z + (m.0ᵀ ({n} * saved.r) + z.1ᵀ (")
    assert lines[1:] == [
        f"d_net.r = {r}",
        f"d_net.z = {z}",
        f"d_net.n = {n}",
        f"delta.m.0 = {n} * saved.r",
        *(f"d_bias.bias_ih.{gate} = Σ {error}" for gate, error in (("r", r), ("z", z), ("n", n))),
        f"d_bias.bias_hh.r = Σ {r}",
        f"d_bias.bias_hh.z = Σ {z}",
        f"d_bias.bias_hh.m = Σ {n} * saved.r",
        "d_r.1 = Σ d_net.r h_seenᵀ",
        "d_z.1 = Σ d_net.z h_seenᵀ",
        "d_m.0 = Σ delta.m.0 h_seenᵀ",
    ]


# ---- the text of the kernels --------------------------------------------------------------------


def golden_texts() -> dict[str, str]:
    """File name -> text, for every catalogue cell forward (with what is kept) and backward."""
    texts = {}
    for name in CATALOGUE:
        found = derived(name)
        texts[f"{name}.forward.cpp"] = kernel_source(found.forward, "float32")
        texts[f"{name}.backward.cpp"] = kernel_source(found.backward, "float32")
    return texts


def test_golden_texts():
    texts = golden_texts()
    assert {p.name for p in GOLDEN.glob("*.cpp")} == set(texts)
    changed = [n for n, t in texts.items() if (GOLDEN / n).read_text(encoding="utf-8") != t]
    assert not changed, f"{changed} differ: look at them, then python tests/test_program.py --regenerate"


def test_the_text_is_the_same_in_every_process():
    code = "import test_program as t; print(''.join(t.golden_texts().values()), end='')"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1",)
    }
    assert texts == {"".join(golden_texts().values()).encode()}


def test_time_to_derive_and_print(capsys):
    lines = []
    for name in CATALOGUE:
        start = time.perf_counter()
        found = derived(name)
        for recurrence in (found.forward, found.backward):
            kernel_source(recurrence, "float32")
        lines.append(f"{name} {time.perf_counter() - start:.3f} s")
    with capsys.disabled():
        print("\nderive and print:", ", ".join(lines))


class Odd(tt.Cell):
    """Local names that are words of C++, values that only the derivative needs, noise that a map is applied to."""

    state_widths = {"c": 3}  # noqa: RUF012

    def step(self, x, h, c):
        new = tt.tanh(tt.affine("new", x, h))
        double = tt.sigmoid(tt.affine("double", tt.noise("spin"), x * tt.weight("scale", x), size=3))
        σ = tt.tanh(new) * new
        read_h = tt.surrogate(tt.where((h > 0) & (new > 0.5), 1.0, 0.0), σ)
        at = tt.affine("at", c, double * c) + tt.mean(h) * tt.weight("mean_x")
        T = tt.where(tt.time() > 2, at, new / tt.size(h))
        return read_h * T, double


def programs() -> list[tuple[str, str]]:
    """Every text there can be: inference, keeping, backward, and both again for the second derivative."""
    texts = []
    cells = {n: make() for n, make in CATALOGUE.items()} | {"odd": Odd()}
    for name, cell in cells.items():
        plain = forward_of(cell, training=True)
        first = adjoint(plain)
        second = adjoint(first.backward)
        kept = adjoint(first.forward)
        recurrences = [plain, first.forward, first.backward, second.forward, second.backward, kept.backward]
        for dtype in ("float32", "float64"):
            texts += [(f"{name}, {r.name}, {dtype}", kernel_source(r, dtype)) for r in recurrences]
    return texts


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_every_text_compiles_without_a_warning(compiler, tmp_path):
    """All in one file, each in a namespace of its own: the headers are read once."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    products = [products_source(dtype) for dtype in ("float32", "float64")]
    for name, text in {**skeletons(products[0]), **skeletons('#include "recurrence.h"')}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    parts = ['#include "recurrence.h"']
    for k, (title, text) in enumerate(programs()):
        body = text.replace('#include "recurrence.h"\n', "")
        parts += [f"// {title}", f"#define tt_run tt_run_{k}", f"namespace k{k} {{", body, "}", "#undef tt_run"]
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fsyntax-only"]
    for text in ["\n".join(parts), *products]:
        file = tmp_path / "text.cpp"
        file.write_text(text, encoding="utf-8")
        done = subprocess.run([compiler, *flags, str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]


def regenerate() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.glob("*.cpp"):
        old.unlink()
    for name, text in golden_texts().items():
        (GOLDEN / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit("usage: python tests/test_program.py --regenerate")
    regenerate()
