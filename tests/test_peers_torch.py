"""The suite that ships inside torch, run with our classes in torch.nn's place: its inputs and its error inputs.

For every input of `torch.testing._internal.common_modules`: the first values, the results, all gradients, what torch's
own reference function says of the module, and first and second derivatives against finite differences. For every error
input: the exception's type and text.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import throughtime as tt
from gradient_check import error

common_modules = pytest.importorskip(
    "torch.testing._internal.common_modules",
    reason="torch's own suite needs expecttest: pip install expecttest",
    exc_type=ImportError,
)

from torch.testing._internal.common_utils import noncontiguous_like  # noqa: E402

NAMES = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")
INFOS = {info.module_cls.__name__: info for info in common_modules.module_db if info.module_cls.__name__ in NAMES}
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
"""Largest norm of difference / norm of torch.nn's, for each tensor; torch.nn's own are rounded too, on each processor
in its own way, which shows where terms cancel (1.5e-13 was seen)."""


def samples(name, dtype, training=True, errors=False):
    info = INFOS[name]
    options = {} if errors or name not in ("RNN", "GRU") else {"with_packed_sequence": True}
    function = info.module_error_inputs_func if errors else info.module_inputs_func
    torch.manual_seed(3)
    return list(
        function(info, device="cpu", dtype=dtype, requires_grad=not errors, training=training, **options)
    )  # fmt: skip


def ids(name, errors=False):
    return range(len(samples(name, torch.float64, errors=errors)))


def numbered(errors=False):
    return [(name, k) for name in NAMES for k in ids(name, errors)]


def made(cls, sample, dtype, training):
    torch.manual_seed(7)
    arguments = sample.constructor_input
    options = {"dtype": dtype} | arguments.kwargs
    return cls(*arguments.args, **options).train(training)


def tensors(value):
    """Every tensor in a result, by its place."""
    if isinstance(value, PackedSequence):
        return [value.data, value.batch_sizes, *(i for i in value[2:] if i is not None)]
    return [value] if isinstance(value, torch.Tensor) else [t for part in value for t in tensors(part)]


def given(sample):
    """The input with leaves of its own, and the leaves."""
    leaves = []

    def leaf(value):
        if isinstance(value, PackedSequence):
            return PackedSequence(leaf(value.data), *value[1:])
        if isinstance(value, torch.Tensor):
            leaves.append(value.detach().clone().requires_grad_())
            return leaves[-1]
        return type(value)(leaf(v) for v in value)

    return [leaf(a) for a in sample.forward_input.args], leaves


def widened(sample):
    """The same input in float64."""
    wide = copy.deepcopy(sample)
    wide.forward_input.args = torch.utils._pytree.tree_map_only(
        torch.Tensor, lambda t: t.detach().double() if t.is_floating_point() else t, sample.forward_input.args
    )
    return wide


def results(module, sample):
    args, leaves = given(sample)
    found = tensors(module(*args))
    generator = torch.Generator().manual_seed(11)
    real = [f for f in found if f.is_floating_point()]
    errors = [torch.randn(f.shape, generator=generator).to(f.dtype) for f in real]
    return found, torch.autograd.grad(real, [*leaves, *module.parameters()], errors)


@pytest.mark.parametrize("name, number", numbered())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_forward_and_gradients(name, number, dtype, training):
    sample = samples(name, dtype, training)[number]
    ours = made(getattr(tt, name), sample, dtype, training)
    theirs = made(getattr(nn, name), sample, dtype, training)
    assert [(n, p.tolist()) for n, p in ours.named_parameters()] == [
        (n, p.tolist()) for n, p in theirs.named_parameters()
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        expected = results(theirs, sample)
        exact = expected if dtype == torch.float64 else results(theirs.double(), widened(sample))
    found = results(ours, sample)
    tolerance = TOLERANCE[dtype]
    for parts in zip(found, expected, exact, strict=True):
        for a, b, truth in zip(*parts, strict=True):
            # Where terms cancel, torch.nn's own float32 is off by more.
            allowed = max(tolerance, 4 * error(b.double(), truth.double()))
            assert error(a.double(), truth.double()) <= allowed
    if sample.reference_fn is not None and not isinstance(sample.forward_input.args[0], PackedSequence):
        args, _ = given(sample)
        reference = sample.reference_fn(ours, *args)
        for a, b in zip(tensors(reference), found[0], strict=True):
            assert error(a.double(), b.double()) <= tolerance


@pytest.mark.parametrize("name, number", numbered())
def test_derivatives_against_finite_differences(name, number):
    sample = samples(name, torch.float64)[number]
    module = made(getattr(tt, name), sample, torch.float64, True)
    args, leaves = given(sample)
    parameters = dict(module.named_parameters())
    values = [p.detach().requires_grad_() for p in parameters.values()]

    def call(*flat):
        module_args = iter(flat)
        own = dict(zip(parameters, (next(module_args) for _ in parameters), strict=True))

        def refilled(value):
            if isinstance(value, PackedSequence):
                return PackedSequence(refilled(value.data), *value[1:])
            return next(module_args) if isinstance(value, torch.Tensor) else type(value)(map(refilled, value))

        done = torch.func.functional_call(module, own, tuple(refilled(a) for a in args))
        return tuple(t for t in tensors(done) if t.is_floating_point())

    assert torch.autograd.gradcheck(call, (*values, *leaves), fast_mode=True)
    if number % 4 == 0:
        assert torch.autograd.gradgradcheck(call, (*values, *leaves), fast_mode=True)


@pytest.mark.parametrize("name, number", numbered())
def test_copies_and_layout_in_memory(name, number):
    """Pickled, of another dtype and back, and with parameters and inputs that do not lie together."""
    sample = samples(name, torch.float64)[number]
    module = made(getattr(tt, name), sample, torch.float64, True)
    expected = results(module, sample)
    assert repr(module) == repr(made(getattr(nn, name), sample, torch.float64, True))
    strided = copy.deepcopy(module)
    with torch.no_grad():
        for p in strided.parameters():
            p.set_(noncontiguous_like(p))
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module).double(), strided):
        for a, b in zip(results(other, sample), expected, strict=True):
            for own, original in zip(a, b, strict=True):
                torch.testing.assert_close(own, original, rtol=1e-13, atol=1e-13)
    if not isinstance(sample.forward_input.args[0], PackedSequence):
        args = torch.utils._pytree.tree_map(noncontiguous_like, sample.forward_input.args)
        for own, original in zip(tensors(module(*args)), expected[0], strict=True):
            torch.testing.assert_close(own, original, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name, number", numbered(errors=True))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_error_inputs(name, number, dtype):
    expected = samples(name, dtype, errors=True)[number]
    sample = expected.module_error_input
    cls = getattr(tt, name)
    arguments = sample.constructor_input
    construction = expected.error_on == common_modules.ModuleErrorEnum.CONSTRUCTION_ERROR
    if construction:
        with pytest.raises(expected.error_type, match=expected.error_regex):
            cls(*arguments.args, **arguments.kwargs)
    else:
        module = cls(*arguments.args, **({"dtype": dtype} | arguments.kwargs))
        with pytest.raises(expected.error_type, match=expected.error_regex):
            module(*sample.forward_input.args, **sample.forward_input.kwargs)


SUITE = """
import torch
from torch.nn import GRU
from torch.testing._internal.common_modules import module_db

def test_names():
    assert torch.nn.modules.rnn.GRU is torch.nn.GRU is GRU and GRU.__module__ == "throughtime.nn.dropins"

def test_table():
    names = [i.module_cls.__name__ for i in module_db if i.module_cls.__module__.startswith("throughtime.")]
    assert sorted(names) == ["GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNCell"]

def test_what_fails_is_said():
    assert not issubclass(GRU, torch.nn.RNNBase)
"""


def test_the_script_that_runs_torchs_own_files(tmp_path):
    """It puts our classes wherever a file of torch's finds its own, and its exit status is pytest's."""
    (tmp_path / "test_suite.py").write_text(SUITE, encoding="utf-8")
    script = Path(__file__).with_name("peers.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1 failed, 2 passed" in done.stdout
    empty = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert empty.returncode == 1 and "python tests/peers.py PATH/TO/pytorch/test/test_modules.py" in empty.stderr
