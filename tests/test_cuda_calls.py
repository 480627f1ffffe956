"""How a launch on a GPU is divided and told, and what is said where there is none. No GPU is needed."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import throughtime as tt
from emulator import Emulator
from test_cuda_emulated import case, check, results
from throughtime.nn import cuda_model, cuda_tensor, explain
from throughtime.nn.cuda_device import machine_of
from throughtime.nn.cuda_kernels import problem
from throughtime.nn.cuda_layout import FRONT, Problem, Scheme, layout
from throughtime.nn.cuda_model import Facts
from throughtime.nn.cuda_wish import Wish, wish
from throughtime.nn.shapes import check_device

pytest_plugins = ["test_cuda_emulated"]

H200 = Facts("sm_90a", 132, 232448)
A100 = Facts("sm_80", 108, 166912)


def problem_of(hidden: int, rows: int, cell: Callable[[], tt.Cell] = tt.cells.LSTM, backward: bool = False) -> Problem:
    derived = tt.Recurrent(cell(), 4, 8).derived
    kind = derived.kind({1: 1, "input": 4, "hidden": hidden}, (False,), (0,), True)
    program = kind.program.backward if backward else kind.program
    recurrence = program.forward(not backward)
    numbers = kind.plan(True, torch.float32).numbers_of(recurrence)
    return problem(recurrence, numbers, torch.float32, rows, 1)


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("block", Wish()),
        ("model", Wish("model")),
        ("timed,float16", Wish("timed", 1, "float16")),
        ("product", Wish("product")),
        ("cluster:8", Wish("cluster", 8)),
        ("grid:16, bfloat16", Wish("grid", 16, "bfloat16")),
        (" block,tfloat32", Wish("block", 1, "tfloat32")),
    ],
)
def test_wishes(text: str, wish: Wish) -> None:
    assert Wish.of(text) == wish


@pytest.mark.parametrize("text", ["fast", "cluster", "cluster:1", "cluster:x", "block:2", "model,int8", "grid:"])
def test_what_is_no_wish(text: str) -> None:
    with pytest.raises(ValueError, match=r'THROUGHTIME_CUDA is ".*", but must be "block", "cluster:4", "grid:16"'):
        Wish.of(text)


def test_nothing_unmeasured_is_chosen_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THROUGHTIME_CUDA", raising=False)
    for hidden, rows in ((32, 1), (512, 16), (2048, 256)):
        scheme = cuda_model.choose(problem_of(hidden, rows), H200, wish())
        assert (scheme.exchange, scheme.members, scheme.multiplier) == ("Alone", 1, "Scalar")


@pytest.mark.parametrize("facts", [H200, A100])
@pytest.mark.parametrize("hidden", [1, 100, 512, 1024])
@pytest.mark.parametrize("rows", [1, 16, 100, 1000])
def test_every_candidate_fits(rows: int, hidden: int, facts: Facts) -> None:
    for backward in (False, True):
        given = problem_of(hidden, rows, backward=backward)
        found = list(cuda_model.candidates(given, facts))
        assert found
        for scheme in found:
            if scheme.exchange == "Product":  # needs no shared memory
                continue
            assert layout(given, scheme, 10, 0).bytes <= facts.shared
            tiles = -(-rows // scheme.tile)
            if scheme.exchange == "Grid":  # all of its blocks run at once
                assert scheme.teams * scheme.members <= facts.processors
            else:
                assert scheme.teams == tiles
            assert scheme.exchange != "Cluster" or facts.clusters


def test_the_model_spreads_what_one_block_cannot_hold() -> None:
    """Not a claim about speed: that the model's numbers enter."""
    small = cuda_model.choose(problem_of(32, 1), H200, Wish("model"))
    large = cuda_model.choose(problem_of(1024, 1), H200, Wish("model"))
    assert small.members < large.members
    assert large.held
    assert all(s.exchange != "Cluster" for s in cuda_model.candidates(problem_of(512, 1), A100))


@pytest.mark.parametrize(
    ("given", "facts", "wish", "message"),
    [
        (problem_of(8, 1), A100, "cluster:2", 'not to be had on sm_80 .* "block" or "grid:2"'),
        (
            problem_of(8, 1),
            H200,
            "cluster:9",
            "LSTM: 9 blocks cannot share a vector of 8 numbers: ask for fewer in THROUGH",
        ),
        (problem_of(32, 1), H200, "cluster:17", "clusters of 17 blocks are not to be had"),
        (problem_of(8192, 1), H200, "block,bfloat16", 'more than the 232448 bytes .*backend="reference"'),
        (
            problem_of(8, 1),
            H200,
            "product,tfloat32",
            'allow_tf32 = True only: set that, and THROUGHTIME_CUDA to "product"',
        ),
        (
            problem_of(100_000, 1),
            H200,
            "model,tfloat32",
            'LSTM: one sequence.*"product" in THROUGHTIME_CUDA or use back',
        ),
    ],
)
def test_refusals(given: Problem, facts: Facts, wish: str, message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        cuda_model.choose(given, facts, Wish.of(wish))


def test_tensor_cores_do_not_multiply_doubles(emulated: Callable[..., Emulator]) -> None:
    layer, x, lengths, _ = case(tt.cells.LSTM())
    emulated("block,bfloat16")
    with pytest.raises(NotImplementedError, match="float32 layers only: leave ,bfloat16 out of THROUGHTIME_CUDA"):
        layer(x, lengths=lengths)


def test_weights_that_do_not_fit_are_read_at_every_step(emulated: Callable[..., Emulator]) -> None:
    layer, x, lengths, state = case(tt.cells.LSTM())
    wanted = results(layer, x, lengths, state)
    emulator = emulated("cluster:2", shared=1000)
    check(results(layer, x, lengths, state), wanted)
    assert [s.held for s in emulator.schemes] == [False, False]


def test_more_groups_than_one_launch_can_be_told_of(emulated: Callable[..., Emulator]) -> None:
    torch.manual_seed(0)
    layer = tt.Recurrent(tt.cells.LSTM(), 3, 240, heads=120, dtype=torch.float64)
    x = torch.randn(2, 2, 3, dtype=torch.float64)
    wanted = results(layer, x)
    emulator = emulated("grid:2")
    check(results(layer, x), wanted)
    assert len(emulator.schemes) > 2


def test_a_few_schemes_are_timed_at_the_first_call(emulated: Callable[..., Emulator]) -> None:
    layer, x, lengths, state = case(tt.cells.LSTM(), bidirectional=False)
    wanted = results(layer, x, lengths, state)
    emulator = emulated("timed", processors=4)
    for launches in (2 * (4 + 1), 2):  # forward and backward: four, and the best of them again
        emulator.schemes.clear()
        check(results(layer, x, lengths, state), wanted)
        assert len(emulator.schemes) == launches


def test_the_layout_is_the_list_that_the_skeleton_reads() -> None:
    from throughtime.codegen.cuda import cuda_skeletons

    text = cuda_skeletons()["call.h"]
    names = text[text.index("enum Front {") :].split("{")[1].split("}")[0].replace("\n", " ")
    assert [n.strip() for n in names.split(",")][: len(FRONT)] == list(FRONT)
    given = problem_of(10, 3)
    memory = layout(given, Scheme("Cluster", members=4, tile=2), 7, 5)
    assert memory.words[:6] == [7, 3, 1, 5, 4, 2]
    assert memory.bytes % 16 == 0 and all(isinstance(w, int) for w in memory.words)


def test_other_devices_are_refused() -> None:
    with pytest.raises(NotImplementedError, match=r'on NVIDIA GPUs, the tensors are on xpu:0: use backend="reference"'):
        machine_of(torch.device("xpu:0"))


def imagined(layer: Any) -> None:
    for name, parameter in list(layer.named_parameters()):
        setattr(layer, name, torch.nn.Parameter(torch.empty(parameter.shape, device="cuda")))


def test_a_layer_on_an_imagined_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch imagines one where there is none: all results have their shapes, there."""
    monkeypatch.setenv("THROUGHTIME_CUDA", "block")
    layer = tt.LSTM(3, 5, bidirectional=True, num_layers=2)
    with torch._subclasses.FakeTensorMode(), torch.no_grad():
        imagined(layer)
        x, lengths = torch.zeros(4, 2, 3, device="cuda"), torch.tensor([4, 2], device="cuda")
        output, (h, c) = tt.Recurrent.forward(layer, x, lengths=lengths)
        assert [(tuple(t.shape), t.device.type) for t in (output, h, c)] == [
            ((4, 2, 10), "cuda"), ((4, 2, 5), "cuda"), ((4, 2, 5), "cuda"),
        ]  # fmt: skip


def test_explain_shows_the_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = tt.LSTM(3, 64)
    monkeypatch.setattr(explain, "machine_of", lambda device: Emulator(processors=132, shared=232448))
    monkeypatch.delenv("THROUGHTIME_CUDA", raising=False)
    with torch._subclasses.FakeTensorMode():
        imagined(layer)
        text = str(tt.explain(layer, (10, 32, 3)))
    assert "compiler: NVRTC" in text and "for sm_90a" in text
    assert (
        "note: layer 0, forward: 32 teams of one block x 1 sequences, float products, weights in shared memory" in text
    )
    assert "note: layer 0, backward: 32 teams of one block" in text
    assert "not yet measured" in text
    assert "have never run on a GPU, so a call would be refused: set THROUGHTIME_CUDA=block to try them" in text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("scheme", ["block", "cluster:2", "cluster:8", "grid:16", "model"])
@pytest.mark.parametrize("name", tt.cells.catalogue)
def test_on_a_gpu(name: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, lengths, state = case(tt.cells.catalogue[name](), hidden=70)
    wanted = results(layer, x, lengths, state)
    monkeypatch.setenv("THROUGHTIME_CUDA", scheme)
    layer.cuda()
    state = [s.cuda() for s in state]
    torch.cuda.manual_seed(1)
    inputs = [x.cuda().requires_grad_(), *(s.requires_grad_() for s in state)]
    output, ends = layer(inputs[0], state[0] if len(state) == 1 else tuple(state), lengths=lengths)
    made = [output, *(ends if isinstance(ends, tuple) else (ends,))]
    torch.manual_seed(1)
    loss = sum((torch.randn(m.shape, dtype=m.dtype).cuda() * m).sum() for m in made)
    found = [*made, *torch.autograd.grad(loss, [*inputs, *layer.parameters()])]  # type: ignore[arg-type]
    check([f.cpu() for f in found], wanted, 1e-10)


def test_kernels_that_never_ran_must_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = tt.GRU(3, 4)
    there = SimpleNamespace(device=torch.device("cuda", 0))
    monkeypatch.delenv("THROUGHTIME_CUDA", raising=False)
    with pytest.raises(NotImplementedError, match=r"have never run on a GPU: set THROUGHTIME_CUDA=block to try them"):
        check_device(layer, there, there)  # type: ignore[arg-type]
    monkeypatch.setenv("THROUGHTIME_CUDA", "block")
    check_device(layer, there, there)  # type: ignore[arg-type]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("hidden", "members"), [(16, 1), (100, 1), (512, 16), (768, 16), (1024, 4)])
def test_warps_share_all_tiles_of_a_product(hidden: int, members: int, backward: bool) -> None:
    given = problem_of(hidden, 16, backward=backward)
    size, share = given.size(), given.share(members)
    (product,) = given.parts.products
    (found,) = cuda_tensor.cut(given.parts, size, share, 16, 256, 32)
    high, deep = -(-product.nets * share[product.width] // 16), [-(-size[s] // 16) for s in product.sources]
    assert found.pieces == sum(-(-d // found.deep) for d in deep) <= 8
    assert found.all_jobs == high * found.pieces <= 8 * found.jobs
    assert found.jobs * found.kept <= 32 and (found.kept == found.deep or found.jobs * (found.kept + 1) > 32)
    even = high * sum(deep) / 8  # tiles of a warp, were they all alike
    assert even <= found.jobs * found.deep <= 2 * even + 1


def test_what_registers_hold_is_said() -> None:
    scheme = cuda_model.choose(problem_of(512, 16), H200, Wish("cluster", 16, "bfloat16"))
    assert "256 of 256 tiles of weights in registers" in cuda_model.described(scheme)
    scheme = cuda_model.choose(problem_of(768, 16), H200, Wish("cluster", 16, "bfloat16"))
    assert re.search(r"\b\d+ of 576 tiles of weights in registers", cuda_model.described(scheme))
    assert scheme.multiplier.startswith("Tensor<tt::BFloat16, tt::Cut<")


def test_the_model_makes_large_products_of_many_sequences_at_once() -> None:
    for backward in (False, True):
        few, many = (
            cuda_model.choose(problem_of(2048, rows, backward=backward), H200, Wish("model", 1, "bfloat16"))
            for rows in (1, 256)
        )
        assert (few.exchange, many.exchange) == ("Grid", "Product")
    assert "one product per step of all sequences by torch, bfloat16" in cuda_model.described(many)


def test_vectors_of_one_product_lie_side_by_side(monkeypatch: pytest.MonkeyPatch, emulated: Any) -> None:
    """So that it is one product: of all error terms of an LSTM, for one."""
    layer, x, lengths, state = case(tt.cells.LSTM(), bidirectional=False)
    wanted = results(layer, x, lengths, state)
    shapes: list[tuple[int, ...]] = []
    bmm = torch.bmm

    def counted(left: torch.Tensor, right: torch.Tensor, **more: Any) -> torch.Tensor:
        shapes.append((*left.shape, right.shape[2]))
        return bmm(left, right, **more)

    emulated("product")
    monkeypatch.setattr(torch, "bmm", counted)
    monkeypatch.setattr(torch, "baddbmm", None)
    check(results(layer, x, lengths, state), wanted)
    assert shapes == 6 * [(1, 5, 7, 28)] + 6 * [(1, 5, 28, 7)]
