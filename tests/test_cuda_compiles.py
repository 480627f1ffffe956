"""Every CUDA text compiles, without a warning, for the architectures that are supported.

No GPU is needed: NVRTC comes as a package. What is compiled here is never run here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import throughtime as tt
from throughtime import runtime
from throughtime.codegen.cuda import cuda_skeletons, cuda_source, parts, step_source
from throughtime.nn.cuda_device import MAIN, arch_of
from throughtime.nn.cuda_kernels import CAPACITIES
from throughtime.nn.cuda_layout import Scheme
from throughtime.nn.cuda_model import Facts
from throughtime.nn.cuda_tensor import Cut
from throughtime.symbolic.program import Recurrence

pytest.importorskip("nvidia.cu13", reason="the package nvidia-cuda-nvrtc is not installed")

STRICT = ("-Werror", "all-warnings")
ARCHES = ("sm_80", "sm_90a", "sm_100")
VARIANTS = {
    **{name: (make, {}) for name, make in tt.cells.catalogue.items()},
    "gru, layer_norm": (tt.cells.GRU, {"layer_norm": ["maps", "states"]}),
    "lstm, zoneout and clips": (tt.cells.LSTM, {"zoneout": 0.1, "state_clip": 1.0, "gradient_clip": 1.0}),
    "gru, recurrent_dropout": (tt.cells.GRU, {"recurrent_dropout": 0.2}),
    "lstm, projection": (lambda: tt.cells.LSTM(projection=8), {}),
}


def recurrences(name: str) -> tuple[Recurrence, Recurrence]:
    """The forward pass with what it keeps, and the backward pass."""
    make, options = VARIANTS[name]
    layer = tt.Recurrent(make(), 4, 8, **options)
    program = layer.derived.kind(layer.sizes(0), (False,), (0,), True).program
    return program.forward(True), program.backward.recurrence


def compile_text(text: str, arch: str, name: str, capacity: int = CAPACITIES[0]) -> bytes:
    flags = (f"-DTT_WORDS={capacity}", "-DTT_THREADS=256", *STRICT)
    built = runtime.build(name, {**cuda_skeletons(), MAIN: text}, MAIN, flags, runtime.find_nvrtc(arch))
    return built.path.read_bytes()


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_cell_in_both_directions(name: str, arch: str) -> None:
    exchange = "Alone" if arch == "sm_80" else "Cluster"
    for recurrence in recurrences(name):
        for dtype in ("float32", "float64") if arch == "sm_90a" else ("float32",):
            code = compile_text(cuda_source(recurrence, dtype, exchange, "Scalar"), arch, recurrence.name)
            assert code[:4] == b"\x7fELF" and b"tt_run" in code
            compile_text(step_source(recurrence, dtype), arch, recurrence.name)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(
    "multiplier",
    [
        "Scalar",
        "Tensor<tt::BFloat16, tt::Cut<2, 16>>",
        "Tensor<tt::Float16, tt::Cut<1, 3>>",
        "Tensor<tt::TFloat32, tt::Cut<0, 0>>",
    ],
)
def test_every_scheme(multiplier: str, arch: str) -> None:
    for exchange in ("Alone", "Grid", *(("Cluster",) if arch != "sm_80" else ())):
        for recurrence in recurrences("lstm"):
            compile_text(cuda_source(recurrence, "float32", exchange, multiplier), arch, recurrence.name)


def test_the_longest_list_of_a_launch() -> None:
    recurrence = recurrences("gru")[0]
    compile_text(cuda_source(recurrence, "float32", "Grid", "Scalar"), "sm_80", recurrence.name, CAPACITIES[-1])


def test_a_mistake_is_told_with_the_compilers_words() -> None:
    with pytest.raises(
        runtime.CompileError, match=r'CUDA compiler failed.*on "wrong"(.|\n)*identifier "nothing"(.|\n)*'
    ):
        runtime.build("wrong", {MAIN: "int f() { return nothing; }"}, MAIN, (), runtime.find_nvrtc("sm_80"))


def test_a_program_is_kept_and_found_again() -> None:
    text = 'extern "C" __global__ void f() {}'
    nvrtc = runtime.find_nvrtc("sm_80")
    first = runtime.build("kept", {MAIN: text}, MAIN, (), nvrtc)
    again = runtime.build("kept", {MAIN: text}, MAIN, (), nvrtc)
    other = runtime.build("kept", {MAIN: text}, MAIN, (), runtime.find_nvrtc("sm_90a"))
    assert again.cached and again.path == first.path and other.path != first.path
    assert first.path.suffix == ".cubin" and runtime.find("kept", {MAIN: text}, MAIN, (), nvrtc) == first.path


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(runtime.NvrtcNotFound, match=r"does not know sm_10; |does not know sm_10\)") as caught:
        runtime.find_nvrtc("sm_10")
    assert "pip install nvidia-cuda-nvrtc" in str(caught.value) and "\n" not in str(caught.value)


def test_architectures_of_devices() -> None:
    assert [arch_of(c) for c in ((8, 0), (8, 9), (9, 0), (10, 0))] == ["sm_80", "sm_89", "sm_90a", "sm_100a"]
    with pytest.raises(NotImplementedError, match=re.escape('this one has 7.5: use backend="reference"')):
        arch_of((7, 5))


def test_no_driver_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from throughtime.runtime import cuda_driver

    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", _none)
    cuda_driver._driver.cache_clear()
    with pytest.raises(runtime.CudaError, match=r'^No NVIDIA driver was found \(.*\): .*backend="reference"\.$'):
        runtime.load_function(b"", "tt_run", "nothing")
    cuda_driver._driver.cache_clear()


def _none(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")


def test_the_cell_says_what_it_is_told_only() -> None:
    """The text depends on nothing but the equation: no sizes, no T, no B."""
    a, b = (tt.Recurrent(tt.cells.LSTM(), 4, h).derived for h in (8, 512))
    texts = [
        cuda_source(
            d.kind({1: 1, "input": 4, "hidden": h}, (False,), (0,), True).program.forward(True), "float32", *_PLAIN
        )
        for d, h in ((a, 8), (b, 512))
    ]
    assert texts[0] == texts[1]


_PLAIN = ("Alone", "Scalar")


@pytest.mark.parametrize("operand", ["", "BFloat16", "TFloat32"])
@pytest.mark.parametrize("exchange", ["Alone", "Cluster", "Grid"])
def test_registers_suffice(exchange: str, operand: str, tmp_path: Path) -> None:
    """A value that does not fit in registers would go through memory at every step, and nobody would say so. On tensor
    cores the weights are in registers, as many as a warp is ever given."""
    tiles = Facts("sm_90a", 132, 232448).tiles
    for name in ("rnn", "gru", "lstm", "mgu"):
        for recurrence in recurrences(name):
            for file, text in cuda_skeletons().items():
                (tmp_path / file).write_text(text)
            products = len(parts(recurrence).products)
            cuts = tuple(Cut(1, tiles, k, tiles // k // products, 8 * k) for k in range(1, products + 1))
            multiplier = Scheme(exchange, operand, cuts=cuts).multiplier
            (tmp_path / MAIN).write_text(cuda_source(recurrence, "float32", exchange, multiplier))
            flags = (f"-DTT_WORDS={CAPACITIES[0]}", "-DTT_THREADS=256", "--ptxas-options=-v")
            status, log = runtime.find_nvrtc("sm_90a").compile(MAIN, "kernel.cubin", flags, tmp_path)
            (tmp_path / "kernel.cubin").unlink()
            assert status == 0
            assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log, log
            used = re.search(r"Used (\d+) registers", log)
            kept = 4 * sum(c.jobs * c.kept for c in cuts) if operand else 0
            assert used is not None and int(used[1]) > kept > (100 if operand else -1)
