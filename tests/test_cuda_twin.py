"""torch.nn's layer in the place of one on a GPU, where it is asked for or measured as faster; and products outside the
loop of rounded operands. The CPU plays the GPU: what torch.nn makes there is torch's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from emulator import Emulator
from test_cuda_calls import imagined
from test_cuda_emulated import case, check, results
from throughtime.nn import cuda_rounded, cuda_twin, explain

pytest_plugins = ["test_cuda_emulated"]

KINDS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "RNN": (tt.RNN, {"bidirectional": True}),
    "relu": (tt.RNN, {"nonlinearity": "relu", "batch_first": True}),
    "GRU": (tt.GRU, {"num_layers": 2, "bias": False}),
    "LSTM": (tt.LSTM, {"num_layers": 2, "bidirectional": True}),
    "projection": (tt.LSTM, {"proj_size": 3}),
}


class Clock:
    """A machine on which calls take, one after the other, what was said; every call is made."""

    def __init__(self, *seconds: float) -> None:
        self.seconds_left = list(seconds)

    def seconds(self, call: Callable[[], None]) -> float:
        call()
        return self.seconds_left.pop(0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every tensor counts as one on a GPU; the classes of torch.nn whose layers are called."""
    found: list[str] = []
    for kind in (nn.RNN, nn.GRU, nn.LSTM):

        def forward(self: Any, *given: Any, of: Any = kind.forward) -> Any:
            found.append(type(self).__name__)
            return of(self, *given)

        monkeypatch.setattr(kind, "forward", forward)
    monkeypatch.setattr(cuda_twin, "_is_on_gpu", lambda x: True)
    return found


def given(name: str, dtype: torch.dtype = torch.float64) -> tuple[Any, Tensor, list[Tensor]]:
    torch.manual_seed(0)
    make, options = KINDS[name]
    layer = make(4, 6, dtype=dtype, **options)
    x = torch.randn(5, 3, 4, dtype=dtype)
    count = layer.num_layers * layer.directions
    return (
        layer,
        x,
        [torch.randn(count, 5 if layer.batch_first else 3, size, dtype=dtype) for size in layer.state_sizes],
    )


def asked(monkeypatch: pytest.MonkeyPatch, text: str, *seconds: float) -> None:
    monkeypatch.setenv("THROUGHTIME_CUDA", text)
    clock = Clock(*seconds)
    monkeypatch.setattr(cuda_twin, "machine_of", lambda device: clock)
    monkeypatch.setattr("throughtime.nn.recurrent.short_call", lambda *call: None)


@pytest.mark.parametrize("name", KINDS)
def test_the_twin_gives_the_layers_numbers(name: str, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, state = given(name)
    wanted = [results(layer, x, state=state), results(layer, x)]
    assert not calls
    asked(monkeypatch, "cudnn")
    check(results(layer, x, state=state), wanted[0])
    check(results(layer, x), wanted[1])
    assert len(calls) == 2


def test_the_faster_is_measured_once_for_each_shape(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, _ = given("LSTM")
    more = torch.randn(9, 3, 4, dtype=torch.float64)
    asked(monkeypatch, "timed", 3.0, 2.0, 2.0, 3.0, 1.0, 1.0)  # own, twin; and again
    wanted = results(layer, x)
    assert len(calls) == 2  # measured, and then used
    check(results(layer, x), wanted)
    assert len(calls) == 3
    results(layer, more)
    assert len(calls) == 4  # measured, and not used
    results(layer, more)
    assert len(calls) == 4
    with torch.no_grad():  # is another call than one with gradients
        layer(x)
        layer(x)
    assert len(calls) == 5


def test_measuring_leaves_no_trace(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    layer = tt.GRU(3, 4, num_layers=2, dropout=0.5)
    x = torch.randn(6, 2, 3)
    torch.manual_seed(1)
    wanted = results(layer, x)
    asked(monkeypatch, "timed", 1.0, 2.0)
    found = results(layer, x)  # results() sets the seed itself
    assert calls == ["GRU"]
    check(found, wanted, 0)
    assert all(p.grad is None for p in layer.parameters())


def test_the_twin_follows_the_layers_parameters(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, _ = given("GRU")
    asked(monkeypatch, "cudnn")
    layer(x)
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(2)
    layer.weight_hh_l0 = nn.Parameter(torch.randn_like(layer.weight_hh_l0))
    layer.weight_ih_l0.data = torch.randn_like(layer.weight_ih_l0)
    twin = nn.GRU(4, 6, num_layers=2, bias=False, dtype=torch.float64)
    twin.load_state_dict(layer.state_dict())
    check([layer(x)[0]], [twin(x)[0]])
    layer.weight_hh_l1 = nn.Parameter(layer.weight_hh_l1.data)  # another one, in the same place
    layer(x)[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_sixteen_bits_are_the_twins_own(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, _ = given("LSTM", torch.bfloat16)
    twin = nn.LSTM(4, 6, num_layers=2, bidirectional=True, dtype=torch.bfloat16)
    twin.load_state_dict(layer.state_dict())
    asked(monkeypatch, "cudnn")
    output, (h, c) = layer(x)
    assert output.dtype == h.dtype == c.dtype == torch.bfloat16
    assert torch.equal(output, twin(x)[0])


def kept(cell: tt.Cell, **options: Any) -> Callable[[Tensor], Any]:
    return tt.Recurrent(cell, 4, 6, dtype=torch.float64, **options)


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "cell": (kept(tt.cells.MinimalGatedUnit()), "torch.nn has no MinimalGatedUnit"),
    "option": (kept(tt.cells.LSTM(), layer_norm=["maps"]), "torch.nn.LSTM has no layer_norm"),
    "activation": (kept(tt.cells.Elman("softplus")), "torch.nn.RNN has no activation='softplus'"),
    "heads": (kept(tt.cells.LSTM(), heads=2), "torch.nn.LSTM has no heads=2"),
    "lengths": (lambda x: tt.GRU(4, 6).double()(x, lengths=[5, 2, 1]), "torch.nn.GRU takes no lengths on the GPU"),
    "words": (lambda x: tt.GRU(4, 6)(torch.zeros(5, 3).long()), "torch.nn.GRU takes no word numbers"),
    "traced": (lambda x: tt.GRU(4, 6).double()(x, return_all=True), "torch.nn.GRU takes no return_all"),
    "reset": (lambda x: tt.GRU(4, 6).double()(x, reset=torch.ones(5, 3).bool()), "torch.nn.GRU takes no signals"),
    "mapped": (
        lambda x: (lambda layer: torch.func.vmap(layer)(x[None]))(tt.GRU(4, 6).double()),
        "torch.nn's layers cannot be transformed by torch.func",
    ),
    "computed": (
        lambda x: nn.utils.parametrizations.weight_norm(tt.GRU(4, 6).double(), "weight_hh_l0")(x),
        "torch.nn.GRU takes no weights that are computed from others",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_there_is_no_twin(name: str, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    call, message = REFUSED[name]
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    asked(monkeypatch, "cudnn")
    with pytest.raises(NotImplementedError, match=rf'THROUGHTIME_CUDA=cudnn: .*{message}: ask for "block" or "timed"'):
        call(x)
    asked(monkeypatch, "timed")  # nothing is measured: the clock would say so
    call(x)
    assert not calls


def test_explain_says_which_is_used(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "machine_of", lambda device: Emulator(processors=132, shared=232448))
    layer = tt.LSTM(4, 6)

    def said(steps: int = 5) -> Sequence[str]:
        with torch._subclasses.FakeTensorMode():
            shown = tt.LSTM(4, 6)
            imagined(shown)
            cuda_twin._known[shown] = cuda_twin._known_of(layer)
            return tt.explain(shown, (steps, 3, 4)).notes

    asked(monkeypatch, "timed", 3e-3, 2e-3, 2e-3, 3e-3)
    both = (
        "torch.nn.LSTM (cuDNN) computes the same: THROUGHTIME_CUDA=timed measures both at the first call of each "
        "shape, cudnn uses it"
    )
    assert both in said()
    layer(torch.randn(5, 3, 4))
    with torch.no_grad():
        layer(torch.randn(7, 3, 4))
    first = "torch.nn.LSTM (cuDNN) took 2.000 ms, the layer's own kernels 3.000 ms: the faster is used"
    assert f"measured with gradients: {first}" in said() and both not in said()
    second = "own kernels took 2.000 ms, torch.nn.LSTM (cuDNN) 3.000 ms: the faster is used"
    assert f"measured without gradients: {second}" in said(7)
    asked(monkeypatch, "cudnn")
    notes = said()
    assert "torch.nn.LSTM (cuDNN) makes the calls, as THROUGHTIME_CUDA=cudnn asks" in notes
    assert not any("teams of" in n for n in notes)


@pytest.mark.parametrize(("product", "unit"), [("bfloat16", 2**-8), ("float16", 2**-11)])
@pytest.mark.parametrize("options", [{"bidirectional": True}, {"heads": 2}, {"batch_first": True}])
def test_products_outside_the_loop(
    options: dict[str, Any], product: str, unit: float, monkeypatch: pytest.MonkeyPatch, emulated: Callable[..., Any]
) -> None:
    """All of a step's products inside the loop are of a matrix of zeros: what differs is made outside it."""
    layer, x, _, _ = case(tt.cells.GRU(), dtype=torch.float32, hidden=6, **options)
    x = x.float()
    for name, p in layer.named_parameters():
        if "weight_hh" in name:
            p.data.zero_()
    emulated("block")
    wanted = [r.detach() for r in results(layer, x)]
    emulated(f"block,{product}", shared=1 << 18)
    monkeypatch.setattr(cuda_rounded, "_is_on_gpu", lambda tensor: True)
    found = [r.detach() for r in results(layer, x)]
    differences = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True)]
    assert min(differences[0], differences[2]) > 0 and max(differences) < 8 * unit, differences


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # within torch.func.jvp
def test_rounded_products_can_be_differentiated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers are not rounded, so that everything must be exact."""
    monkeypatch.setattr(cuda_rounded, "_is_on_gpu", lambda tensor: True)
    monkeypatch.setenv("THROUGHTIME_CUDA", "block,bfloat16")
    torch.manual_seed(0)
    left, right, error = (torch.randint(-3, 4, shape).float().requires_grad_() for shape in ((4, 5), (5, 3), (4, 3)))

    def second(of: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        made = of(left, right)
        firsts = torch.autograd.grad((made * error).sum(), [left, right], create_graph=True)
        return [made, *firsts, *torch.autograd.grad(sum((f * f).sum() for f in firsts), [left, right, error])]  # type: ignore[arg-type]

    check(second(cuda_rounded.product), second(torch.matmul), 0)
    assert "_Rounded" in str(cuda_rounded.product(left, right).grad_fn)
    tangent = torch.func.jvp(lambda v: cuda_rounded.product(v, right.detach()), (left.detach(),), (left.detach(),))
    check(list(tangent), [left @ right, left @ right], 0)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # within forward mode
def test_forward_mode_is_the_packages_own(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.nn's layers have no tangents on a GPU."""
    layer, x, _ = given("GRU")
    asked(monkeypatch, "timed")
    with torch.autograd.forward_ad.dual_level():
        output = layer(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))[0]
        assert torch.autograd.forward_ad.unpack_dual(output).tangent is not None
    assert not calls
