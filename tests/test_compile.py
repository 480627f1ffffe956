"""torch.compile and torch.export: the whole layer is one graph, of free batch and time, with its gradients."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import throughtime as tt
from gradient_check import flat, randomise

CATALOGUE = tt.cells.catalogue
FOUR = ["rnn", "gru", "lstm", "mgu"]
# torch warns of what its own tracing uses.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script:DeprecationWarning", "ignore:.*is deprecated.*:FutureWarning"
)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def layer_of(name, inputs=3, hidden=5, **options):
    layer = tt.Recurrent(CATALOGUE[name](), inputs, hidden, **options)
    randomise(layer, 0)
    return layer


def results(function, layer, x, *rest):
    output, state = function(x, *rest)
    values = [output, *flat(state)]
    generator = torch.Generator().manual_seed(1)
    error = sum((v * torch.randn(v.shape, generator=generator, dtype=v.dtype)).sum() for v in values)
    return values, torch.autograd.grad(error, [x, *layer.parameters()])


def equal(found, expected):
    for a, b in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("batch_first", [False, True])
def test_one_graph_with_the_same_numbers_and_gradients(name, batch_first):
    layer = layer_of(name, num_layers=2, bidirectional=True, batch_first=batch_first, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for steps, rows in ((4, 3), (6, 2), (9, 5)):
        shape = (rows, steps, 3) if batch_first else (steps, rows, 3)
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        lengths = torch.randint(steps + 1, (rows,))
        equal(results(compiled, layer, x, None, lengths), results(layer, layer, x, None, lengths))
        with torch.no_grad():
            torch.testing.assert_close(compiled(x)[0], layer(x)[0])


def test_the_default_compiler():
    layer = layer_of("gru", dtype=torch.float64)
    model = torch.nn.Sequential(layer)
    x = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    equal(results(torch.compile(model, fullgraph=True), layer, x), results(model, layer, x))


@pytest.mark.parametrize("name", FOUR)
def test_states_words_and_modes(name):
    layer = layer_of(name, inputs=7)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    words = torch.randint(7, (5, 2))
    with torch.no_grad():
        state = layer(words)[1]
    for mode in (True, False):
        layer.train(mode)
        for a, b in zip(flat(compiled(words, state)[1]), flat(layer(words, state)[1]), strict=True):
            assert torch.equal(a, b)


def test_one_compilation_serves_every_length_and_batch():
    layer = layer_of("mgu")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    compiled(torch.randn(4, 2, 3))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for steps, rows in ((100, 7), (33, 20)):
            x = torch.randn(steps, rows, 3)
            torch.testing.assert_close(compiled(x)[0], layer(x)[0])


class Noisy(tt.Cell):
    def step(self, x, h):
        return tt.tanh(tt.affine("f", x, tt.dropout("drop", h, 0.4)))


def test_noise_is_drawn_anew_in_every_call_of_the_graph():
    layer = tt.Recurrent(Noisy(), 3, 20)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 2, 3)
    assert not torch.equal(compiled(x)[0], compiled(x)[0])
    torch.manual_seed(0)
    first = compiled(x)[0]
    torch.manual_seed(0)
    assert torch.equal(compiled(x)[0], first)


def test_lengths_beyond_the_steps_are_refused_in_the_graph_too():
    compiled = torch.compile(layer_of("gru"), fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"lengths must lie in \[0, T\]"):
        compiled(torch.randn(4, 2, 3), None, torch.tensor([4, 5]))


@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize("strict", [False, True])
def test_export_with_free_batch_and_time(name, strict):
    layer = layer_of(name, num_layers=2, bidirectional=True).eval()
    time, batch = torch.export.Dim("time", min=1, max=10_000), torch.export.Dim("batch", min=1, max=1000)
    program = torch.export.export(layer, (torch.randn(4, 3, 3),), dynamic_shapes=({0: time, 1: batch},), strict=strict)
    for steps, rows in ((1, 1), (7, 2), (50, 9)):
        x = torch.randn(steps, rows, 3)
        # A graph's W x is torch's product, which sums in another order.
        torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-5, atol=1e-6)


def test_an_exported_program_runs_and_trains_where_the_cell_is_unknown(tmp_path):
    class Leaky(tt.Cell):
        """This class exists in this process only."""

        def step(self, x, h):
            return 0.9 * h + 0.1 * tt.tanh(tt.affine("net", x, h))

    layer = tt.Recurrent(Leaky(), 3, 5)
    x = torch.randn(4, 2, 3)
    torch.export.save(torch.export.export(layer, (x,)), tmp_path / "layer.pt2")
    output = layer(x)[0]
    (gradient,) = torch.autograd.grad(output.sin().sum(), layer.weight_hh_l0)
    torch.save((x, output.detach(), gradient), tmp_path / "expected.pt")
    program = (
        "import sys, torch, throughtime.nn\n"
        "module = torch.export.load(sys.argv[1] + '/layer.pt2').module()\n"
        "x, output, gradient = torch.load(sys.argv[1] + '/expected.pt')\n"
        "found = module(x)[0]\n"
        "torch.testing.assert_close(found, output)\n"
        "(own,) = torch.autograd.grad(found.sin().sum(), module.weight_hh_l0)\n"
        "torch.testing.assert_close(own, gradient)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def test_shapes_without_numbers():
    """On the meta device a layer says what its results would be."""
    layer = layer_of("lstm", num_layers=2, bidirectional=True).to("meta")
    output, (h, c) = layer(torch.empty(7, 3, 3, device="meta"))
    assert (output.shape, h.shape, c.shape) == ((7, 3, 10), (4, 3, 5), (4, 3, 5))


def test_opcheck():
    """torch's own check of a registered operator: schema, shapes, gradients under tracing, free sizes."""
    from throughtime.nn.calls import Job, Operands

    layer = layer_of("gru", dtype=torch.float64)
    kind = layer.derived.kind(layer.sizes(0), (False,), (0,), True)
    own = layer.own_parameters(0, 0)
    reads = {
        "net": torch.randn(4, 2, 15, dtype=torch.float64, requires_grad=True),
        "bias": torch.randn(30, dtype=torch.float64),
    }
    reads = {n: reads[n] for n in kind.program.reads}
    operands = Operands(None, None, {}, [None], [reads], [[own["weight_hh"]]])
    job = Job(kind, 4, 2, False)
    arguments = (operands.flat(), kind.name, job.steps, job.rows, job.origin, job.samples, False, False)
    torch.library.opcheck(torch.ops.throughtime.recur.default, arguments)


def test_vmap_in_a_graph():
    layer = layer_of("gru")
    xs = torch.randn(3, 4, 2, 3)

    def outputs(xs):
        return torch.func.vmap(lambda x: layer(x)[0])(xs)

    with torch.no_grad():
        compiled = torch.compile(outputs, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(xs), outputs(xs))


@pytest.mark.parametrize("transform", [torch.func.grad, lambda f: lambda x: torch.func.jvp(f, (x,), (x,))[1]])
def test_other_transforms_in_a_graph_are_refused_and_not_wrong(transform):
    """torch's tracing of an autograd Function that knows torch.func ends here; outside the graph they work."""
    layer = layer_of("gru")
    function = transform(lambda x: layer(x)[0].sin().sum())
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(function, fullgraph=True, backend="aot_eager")(torch.randn(4, 2, 3))


def test_recomputing_in_a_graph():
    layer = layer_of("gru", recompute=2, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    equal(results(compiled, layer, x), results(layer, layer, x))
