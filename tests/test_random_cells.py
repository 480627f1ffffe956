"""The compiled kernels against the reference on random cells: output, final states, and every gradient.

`python tests/test_random_cells.py 25 325` tries those numbers; `--second` also compares the gradient of the gradient.
"""

from __future__ import annotations

import sys
import traceback
from random import Random

import pytest
import torch

import throughtime as tt
from random_cells import TwoStates, random_cell
from throughtime.nn.derived import Derived

TOLERANCE = 1e-10
OPTIONS = {
    "layer_norm": (True, "maps", "states", ("states", "maps")),
    "recurrent_dropout": (0.3,),
    "recurrent_dropout_mask": ("sequence", "step"),
    "zoneout": (0.3,),
    "state_clip": (0.5,),
    "gradient_clip": (0.2,),
}
"""What a random cell may be asked for besides."""


def run(layer, lengths, second):
    """Output, final states and gradients of one call, all from fixed random numbers; by name."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(random(*p.shape) * (0.8 / (p.shape[1] ** 0.5 if p.dim() == 2 else 1)))
    x = random(3, 2, layer.input_size).requires_grad_()
    starts = tuple(random(layer.directions, 2, w).requires_grad_() for w in layer.state_sizes)
    signals = {n: random(3, 2).requires_grad_() for n in layer.derived.signals}
    torch.manual_seed(5)
    output, ends = layer(x, starts if len(starts) > 1 else starts[0], lengths, **signals)
    values = [output, *(ends if isinstance(ends, tuple) else (ends,))]
    error = sum((v * random(*v.shape)).sum() for v in values)
    leaves = {"x": x, **signals, **{f"start {k}": s for k, s in enumerate(starts)}, **dict(layer.named_parameters())}
    given = list(leaves.values())
    gradients = torch.autograd.grad(error, given, create_graph=second, allow_unused=True, materialize_grads=True)
    found = {f"value {k}": v for k, v in enumerate(values)}
    found |= {f"∂{n}": g for n, g in zip(leaves, gradients, strict=True)}
    if second:
        steep = sum((g * random(*g.shape)).sum() for g in gradients)
        again = torch.autograd.grad(steep, given, allow_unused=True, materialize_grads=True)
        found |= {f"∂∂{n}": g for n, g in zip(leaves, again, strict=True)}
    return found


def compare(cell, hidden, bidirectional, lengths, training, options, second=False):
    """Raises AssertionError, naming what is off, unless both backends agree."""
    layers = {
        backend: tt.Recurrent(
            cell, 4, hidden, bidirectional=bidirectional, backend=backend, dtype=torch.float64, **options
        )
        for backend in ("compiled", "reference")
    }
    found, expected = (run(layers[b].train(training), lengths, second) for b in ("compiled", "reference"))
    wrong = {}
    for name, value in expected.items():
        scale = max(value.norm().item(), 1.0)
        off = (found[name] - value).norm().item() / scale
        if not off <= TOLERANCE:
            wrong[name] = f"{off:.1e}"
    assert not wrong, f"{wrong} for {cell!r}"


def arrangement(number):
    """Random cell `number` and how it is run."""
    rng = Random(number)
    return {
        "cell": random_cell(rng),
        "hidden": rng.choice((1, 2, 5, 17, 33)),
        "bidirectional": rng.random() < 0.3,
        "lengths": rng.choice((None, [3, 1], [0, 3])),
        "training": rng.random() < 0.6,
        "options": {name: rng.choice(values) for name, values in OPTIONS.items() if rng.random() < 0.15},
    }


@pytest.mark.parametrize("number", range(25))
def test_random_cells(number):
    compare(**arrangement(number))


@pytest.mark.parametrize("number", range(100))
def test_what_is_kept_suffices_for_further_derivatives(number):
    """Derived only, not compiled: asserts inside say when a derivative needs what no pass has kept."""
    derived = Derived(arrangement(number)["cell"], True, 1)
    for program in derived.programs.values():
        assert program.adjoint_of_kept
        for further in (program.backward, program.tangent(True)):
            assert further.adjoint_of_kept and further.tangent(True).adjoint


def test_second_derivative_where_a_comparison_keeps_what_no_error_reaches():
    recipe = [
        ("affine", False, [1], "hidden"),
        ("unary", "elu", [2], "hidden"),
        ("binary", "both", [4, 3], "hidden"),
        ("total", True, [2], 1),
        ("binary", "product", [4, 5], "hidden"),
        ("binary", "add", [7, 6], "hidden"),
    ]
    cell = TwoStates(recipe, [8, 7])
    compare(cell, 5, False, [3, 1], True, {}, second=True)


def by_hand(first: int, last: int, second: bool) -> int:
    """Tries the cells `first` to `last` - 1 and prints those that break; how many did."""
    broken = 0
    for number in range(first, last):
        chosen = arrangement(number)
        try:
            compare(**chosen, second=second)
        except Exception:
            broken += 1
            print(f"--- cell {number}: {chosen}\n{traceback.format_exc(limit=-4)[-2500:]}", flush=True)
        if number % 10 == 9:
            print(f"{number + 1 - first} tried, {broken} broken", flush=True)
    return broken


if __name__ == "__main__":
    numbers = [int(a) for a in sys.argv[1:] if not a.startswith("--")]
    sys.exit(by_hand(*numbers[:2], "--second" in sys.argv) > 0)
