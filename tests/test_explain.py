"""`tt.explain`: operations against hand counts and the kernels' own text, memory against what autograd keeps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import throughtime as tt
from throughtime import runtime
from throughtime.codegen.source import kernel_source, skeletons
from throughtime.nn import counting
from throughtime.nn.derived import Derived

T, B, I, H = 4, 3, 7, 5  # noqa: E741
CATALOGUE = tt.cells.catalogue


def layer_of(name, *options, **more):
    return tt.Recurrent(CATALOGUE[name](), I, H, *options, **more)


# ---- operations

# By hand from the equations. Rows of W and R in units of H, and what a step does to each unit besides products:
# rnn: net + b + R h (2), tanh (1).
# gru: r and z: net + b_i + b_h + R h, σ (4 each); m = R h + b (1); n: net + b + r m, tanh (4);
#      (1 - z) n + z h (4).
# lstm: four gates: net + b + R h, σ or tanh (3 each); f c + i g (3); o tanh(c) (2).
# mgu: f: 3; f h: 1; candidate: 3; (1 - f) h + f candidate: 4.
FORWARD = {"rnn": (1, 3), "gru": (3, 17), "lstm": (4, 17), "mgu": (2, 11)}
# rnn back: d = d_h + d_out (1); δ = d (1 - y y) (3); the sum for b (1).
# lstm back: d_h + d_out (1); c and tanh(c) again, which are not kept (3 + 1); δ_o = d tanh(c) o (1 - o) (4);
#      d_c += d o (1 - tanh²) (1 + 2 + 1 + 1); δ_i = d_c g i (1 - i) (4); δ_f the same (4);
#      δ_g = d_c i (1 - g g) (4); d_c f (1); four sums for b (4). Rᵀ δ is a product.
BACKWARD = {"rnn": 5, "lstm": 31}


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("directions", [1, 2])
def test_operations_are_those_counted_by_hand(name, directions):
    rows, pointwise = FORWARD[name]
    found = tt.explain(layer_of(name, bidirectional=directions == 2), torch.zeros(T, B, I))
    times = T * B * directions
    assert found.forward_flops == counting.Flops(
        2 * times * I * rows * H, 2 * times * H * rows * H, times * pointwise * H
    )
    back = found.backward_flops
    assert back.input_product == 2 * times * I * rows * H  # Σ δ xᵀ
    assert back.recurrent_product == 2 * 2 * times * H * rows * H  # Rᵀ δ and Σ δ hᵀ
    if name in BACKWARD:
        assert back.pointwise == times * BACKWARD[name] * H


def test_the_gradient_of_the_input_costs_a_product_more():
    """For the first layer only where the input asks for it; for those above always."""
    product = 2 * T * B * I * 3 * H
    assert tt.explain(layer_of("gru"), torch.zeros(T, B, I)).backward_flops.input_product == product
    wanted = torch.zeros(T, B, I, requires_grad=True)
    assert tt.explain(layer_of("gru"), wanted).backward_flops.input_product == 2 * product
    layers = tt.explain(layer_of("gru", 2), torch.zeros(T, B, I)).layers
    assert layers[1].backward.input_product == 2 * (2 * T * B * H * 3 * H)


def written_operations(text):
    """(operations on each unit, phase width) of every phase in the text of a kernel."""
    found = []
    for phase in re.split(r"struct Phase\d+ \{", text)[1:]:
        width = int(re.search(r"width = (\d+)", phase)[1])
        body = phase[phase.index("pointwise(At& at) {") :]
        body = body[: body.index("\n    }\n")]
        count = len(re.findall(r" (?:\+|-|\*|/|>|>=|&|\|) ", body)) + len(re.findall(r"\((?:-|~)\(?[a-z]", body))
        count -= len(re.findall(r"fma\(-", body))  # a - b c is two operations
        functions = [f for f in re.findall(r"tt::(\w+)\(", body) if f != "fma"]
        count += len(functions) + 2 * len(re.findall(r"tt::fma\(", body))
        count += len(re.findall(r"at\.(?:sum|sum_one|total)\(", body))
        found.append((width, count))
    return found


@pytest.mark.parametrize("name", CATALOGUE)
def test_pointwise_operations_are_those_in_the_kernels_text(name):
    program = Derived(CATALOGUE[name](), True, 1).programs[False]
    for recurrence in (program.forward(True), program.backward.recurrence):
        text = kernel_source(recurrence, "float32")
        names = re.search(r"widths = \d+;  // (.*)", text)[1].split(", ")
        numbers = {"1": 1, "hidden": H, "input": I}
        expected = sum(numbers[names[width]] * count for width, count in written_operations(text))
        assert counting.step_pointwise(recurrence, {1: 1, "hidden": H, "input": I}, 1) == expected


def test_heads_divide_the_recurrent_product_and_nothing_else():
    options = {"bidirectional": True, "dtype": torch.float32}
    whole = tt.explain(tt.Recurrent(CATALOGUE["gru"](), I, 6, **options), (T, B, I))
    cut = tt.explain(tt.Recurrent(CATALOGUE["gru"](), I, 6, heads=3, **options), (T, B, I))
    for all_, part in ((whole.forward_flops, cut.forward_flops), (whole.backward_flops, cut.backward_flops)):
        assert part == counting.Flops(all_.input_product, all_.recurrent_product // 3, all_.pointwise)
    assert cut.layers[0].kernels[0].cut.groups == 6 and cut.kept_bytes == whole.kept_bytes


def test_only_real_steps_are_counted_in_the_loop():
    layer = layer_of("lstm")
    whole, part = tt.explain(layer, (T, B, I)), tt.explain(layer, (T, B, I), lengths=[4, 0, 2])
    assert part.real_steps == 6 and whole.real_steps == 12
    assert part.forward_flops.input_product == whole.forward_flops.input_product
    assert part.forward_flops.recurrent_product * 2 == whole.forward_flops.recurrent_product
    assert part.forward_flops.pointwise * 2 == whole.forward_flops.pointwise


def test_word_numbers_need_no_input_product():
    found = tt.explain(layer_of("gru"), torch.zeros(T, B, dtype=torch.int64))
    assert found.forward_flops.input_product == found.backward_flops.input_product == 0
    assert (found.steps, found.rows) == (T, B)


# ---- memory


class Kept:
    """Bytes of every storage that autograd saves, each counted once, without those of the given tensors."""

    def __init__(self, *given):
        self.not_counted = {t.untyped_storage().data_ptr() for t in given}
        self.storages = {}

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.not_counted:
            self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def bytes(self):
        return sum(self.storages.values())


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("layers, directions, lengths, dropout", [(1, 1, None, 0), (2, 2, [4, 0, 2], 0.5)])
@pytest.mark.parametrize("words", [False, True])
def test_kept_memory_is_what_autograd_keeps(name, layers, directions, lengths, dropout, words):
    layer = layer_of(name, layers, bidirectional=directions == 2, dropout=dropout)
    x = torch.randint(I, (T, B)) if words else torch.randn(T, B, I)
    given = None if lengths is None else torch.tensor(lengths)
    kept = Kept(x, *layer.parameters(), *([] if given is None else [given]))
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda t: t):
        result = layer(x, lengths=given)
    found = tt.explain(layer, x, lengths=given)
    assert found.kept_bytes == kept.bytes, (found.layers[0].kept, result[0].shape)


@pytest.mark.parametrize("name", ["gru", "lstm-peephole", "mgu", "lstm-mogrifier"])
@pytest.mark.parametrize("words", [False, True])
def test_narrow_weights_are_kept_in_float32_too(name, words):
    layer = layer_of(name, 2).bfloat16()
    x = torch.randint(I, (T, B)) if words else torch.randn(T, B, I).bfloat16()
    kept = Kept(x, *layer.parameters())
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda t: t):
        result = layer(x)
    found = tt.explain(layer, x)
    assert found.kept_bytes == kept.bytes, (found.layers[0].kept, result[0].shape)
    assert found.weight_bytes == sum(p.numel() for p in layer.parameters()) * 2


def test_projected_states():
    """W [4H, I], R [4H, P] and the projection [P, H]."""
    layer, x = tt.LSTM(I, H, proj_size=2), torch.randn(T, B, I)
    kept = Kept(x, *layer.parameters())
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda t: t):
        result = layer(x)
    found = tt.explain(layer, x)
    assert found.kept_bytes == kept.bytes, (found.layers[0].kept, result[0].shape)
    product = 2 * T * B * (4 * H * 2 + 2 * H)
    assert found.forward_flops.recurrent_product == product
    assert found.backward_flops.recurrent_product == 2 * product


def test_single_steps():
    layer, x = tt.GRUCell(I, H), torch.randn(B, I)
    kept = Kept(x, *layer.parameters())
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda t: t):
        result = layer(x)
    found = tt.explain(layer, x)
    assert (found.steps, found.rows) == (1, B) and found.kept_bytes == kept.bytes, result.shape
    assert found.forward_flops == tt.explain(tt.GRU(I, H), (1, B, I)).forward_flops
    assert tt.explain(layer, (I,)).rows == 1


def test_noise_keeps_its_seed_and_no_mask():
    class Zoned(tt.Cell):
        def step(self, x, h):
            return tt.zoneout("z", h, tt.tanh(tt.affine("net", x, h)), 0.2)

    layer, x = tt.Recurrent(Zoned(), I, H), torch.randn(T, B, I)
    kept = Kept(x, *layer.parameters())
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda t: t):
        layer(x)
    assert tt.explain(layer, x).kept_bytes == kept.bytes


def test_recompute_keeps_the_states_of_its_pieces():
    whole = tt.explain(layer_of("lstm"), (100, B, I))
    pieces = tt.explain(layer_of("lstm", recompute=30), (100, B, I))
    assert pieces.layers[0].kept == {"out": 100 * B * H * 4, "states of all chunks": 4 * 2 * B * H * 4}
    assert pieces.kept_bytes < whole.kept_bytes / 5
    assert pieces.backward_flops == whole.backward_flops + whole.forward_flops
    assert any(note.startswith("recompute=30 keeps the states at every 30 steps only") for note in pieces.notes)


def test_weights_and_inference():
    layer = layer_of("gru", 2, dtype=torch.float64)
    found = tt.explain(layer, (T, B, I))
    assert found.weight_bytes == sum(p.numel() for p in layer.parameters()) * 8
    made = {"bias": 6 * H * 8, "out": T * B * H * 8, "final states": B * H * 8}
    assert found.layers[0].inference == made and found.inference_bytes == sum(made.values())


# ---- kernels


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THROUGHTIME_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("throughtime.nn.kernels.compiled", counting_compiled())
    return tmp_path / "cache"


def counting_compiled():
    """The function without its memory of what this process has loaded."""
    from throughtime.nn.libraries import compiled

    return compiled.__wrapped__


def cached_names(cache):
    """The kernels; the products around them are the same for all layers."""
    names = [json.loads(f.read_text())["name"] for f in Path(cache).glob("*/build.json")]
    return sorted(name for name in names if name != "products")


def test_kernels_are_those_that_a_run_compiles(empty_cache):
    """Nothing is compiled by explaining; what a call then compiles are the kernels that were named."""
    layer, x = tt.Recurrent(CATALOGUE["gru-reset-before"](), I, H), torch.zeros(T, B, I)
    kernels = tt.explain(layer, x).layers[0].kernels
    assert [(k.purpose, k.name, k.compiled) for k in kernels] == [
        ("inference", "GRU", False), ("forward", "GRU", False), ("backward", "GRU.backward", False),
    ]  # fmt: skip
    assert cached_names(empty_cache) == []
    with torch.no_grad():
        layer(x)
    assert cached_names(empty_cache) == ["GRU"]
    assert [k.compiled for k in tt.explain(layer, x).layers[0].kernels] == [True, False, False]
    layer(x)[0].sum().backward()
    assert cached_names(empty_cache) == ["GRU", "GRU", "GRU.backward"]
    assert [k.compiled for k in tt.explain(layer, x).layers[0].kernels] == [True, True, True]
    assert "forward   GRU: in the cache;" in str(tt.explain(layer, x))


def test_without_a_compiler_the_rest_is_still_told(monkeypatch):
    monkeypatch.setenv("THROUGHTIME_CXX", "no-such-compiler")
    found = tt.explain(layer_of("gru"), (T, B, I))
    assert found.compiler == "none" and found.vector_bytes is None
    assert [k.compiled for k in found.layers[0].kernels] == [None] * 3
    assert any("no-such-compiler" in note for note in found.notes)
    assert found.forward_flops == tt.explain(layer_of("gru", backend="reference"), (T, B, I)).forward_flops


def test_vectors_are_as_wide_as_the_kernels():
    visible = 'extern "C" __attribute__((visibility("default")))'
    text = f'#include "lanes.h"\n{visible} int wide() {{ return tt::vector_bytes; }}\n'
    built = runtime.build("wide", {**skeletons(text), "kernel.cpp": text}, "kernel.cpp")
    assert runtime.load(built.path).wide() == tt.explain(layer_of("gru")).vector_bytes


def test_panels_of_the_packed_matrices():
    """H = 5 units fill one panel of two vectors, whose other columns are zeros; three gates; two directions. The
    forward kernel has W too."""
    found = tt.explain(layer_of("gru", bidirectional=True), (T, B, I))
    panel = 2 * found.vector_bytes // 4
    forward, backward = found.layers[0].kernels[1:]
    assert forward.packed_bytes == 2 * 3 * panel * (H + I) * 4
    assert backward.packed_bytes == 2 * panel * 3 * H * 4


# ---- what is said


def test_the_text():
    text = str(tt.explain(layer_of("gru"), (T, B, I)))
    assert text.startswith("Recurrent(GRU, 7, 5): backend compiled, float32 on cpu, T=4, B=3\ncompiler: ")
    assert "            1. product with r.1, z.1, m.0 + 17 operations per unit\n" in text
    assert "  forward operations: 5,340 (input product 2,520, recurrent product 1,800, pointwise 1,020)\n" in text


@pytest.mark.parametrize(
    "make, note",
    [
        (lambda: layer_of("gru", backend="reference"), 'backend="reference" runs the equation step by step'),
        (
            lambda: layer_of("gru", device="meta"),
            "the compiled backend works on the CPU and on NVIDIA GPUs, the layer is on meta: a call would be refused",
        ),
        (
            lambda: layer_of("gru").half(),
            "torch.float16 is only stored: weights, input and states are copied to float32",
        ),
    ],
)
def test_what_leaves_the_fast_path(make, note):
    found = tt.explain(make())
    assert any(n.startswith(note) for n in found.notes) and note in str(found)
    assert tt.explain(layer_of("gru")).notes == ()


def test_wrong_arguments():
    with pytest.raises(
        TypeError, match=r"^explain expects a recurrent layer of throughtime, got GRU: tt\.convert makes"
    ):
        tt.explain(torch.nn.GRU(3, 5))
    with pytest.raises(
        ValueError, match=r"^explain expects an input of the layer's 7 numbers, got the shape \[4, 3, 8\]$"
    ):
        tt.explain(layer_of("gru"), (4, 3, 8))
