"""Memory that is used again: never while somebody uses it, and never more of it than was said."""

import gc
import os
import threading

import pytest
import torch

import throughtime as tt
from throughtime.nn.memory import LEAST, Blocks, Form


def test_a_block_is_used_again_when_nobody_uses_it():
    blocks = Blocks(1 << 20)
    first = blocks.tensor((100, 3), torch.float64)
    assert first.shape == (100, 3) and first.dtype == torch.float64 and first.data_ptr() % 64 == 0
    address = first.data_ptr()
    view = first[10:20]
    del first
    second = blocks.tensor((100, 3), torch.float64)
    assert second.data_ptr() != address and blocks.held == 0
    del view
    assert blocks.held == 2400
    assert blocks.tensor((600,), torch.float32).data_ptr() == address  # as many bytes
    assert blocks.tensor((601,), torch.float32).data_ptr() != address


def test_no_more_is_held_than_was_said():
    blocks = Blocks(10_000)
    tensors = [blocks.tensor((size,), torch.float32) for size in (500, 501, 500, 502, 2000)]
    while tensors:
        tensors.pop(0)
        assert blocks.held <= 10_000
    assert blocks.held == 4 * 2000  # those that were not used for longest have gone
    blocks.tensor((10_000,), torch.float32)
    assert blocks.held == 0
    blocks.clear()
    assert blocks.held == 0


def test_threads():
    blocks, wrong = Blocks(1 << 16), []

    def work(number):
        for k in range(300):
            tensor = blocks.tensor((1 + k % 3, 256), torch.float32)
            tensor.fill_(number)
            other = blocks.tensor((1 + k % 3, 256), torch.float32).fill_(-1)
            if not (tensor == number).all() or not (other == -1).all():
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and 0 <= blocks.held <= 1 << 16


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_begins_with_nothing():
    form = Form(torch.empty(LEAST // 4))
    used = form.new()
    child = os.fork()
    if not child:
        same = form.new()
        os._exit(0 if same.data_ptr() != used.data_ptr() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("size", [(5, 3, 7), (60, 40, 64), (LEAST,), (0, 3, 4), (3, 1, LEAST), (1, 3, LEAST)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("turned", [False, True])
def test_a_form_makes_tensors_that_lie_as_its_model(size, dtype, turned):
    model = torch.empty(size, dtype=dtype)
    if turned and len(size) == 3:
        model = torch.empty(size[1], size[0], size[2], dtype=dtype).transpose(0, 1)
    made = Form(model).new()
    assert (made.shape, made.dtype, made.is_contiguous()) == (model.shape, model.dtype, model.is_contiguous())
    assert made.stride() == model.stride() or 1 in size[:2]


def test_results_stay_as_they_were():
    """Outputs and gradients of earlier calls, large enough to come from here, after later calls."""
    layer = tt.GRU(64, 64)
    kept = []
    for k in range(4):
        x = torch.randn(60, 40, 64, requires_grad=True)
        output = layer(x)[0]
        assert output.nbytes >= LEAST
        (gradient,) = torch.autograd.grad(output.square().sum(), x, retain_graph=k % 2 == 0)
        kept.append((output, output.detach().clone(), gradient, gradient.clone()))
        gc.collect()
    for output, its_copy, gradient, gradients_copy in kept:
        assert torch.equal(output, its_copy) and torch.equal(gradient, gradients_copy)
