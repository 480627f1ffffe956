"""What the scripts of this folder share: the GPU or a sentence, clocks of the GPU, how a scheme is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch

from throughtime import runtime
from throughtime.nn.cuda_wish import VARIABLE


def gpu() -> torch.device:
    """The GPU; ends the program with status 1 if there is none."""
    if not torch.cuda.is_available():
        print("There is no NVIDIA GPU that torch can use here: nothing was measured.", file=sys.stderr)
        raise SystemExit(1)
    device = torch.device("cuda", torch.cuda.current_device())
    properties = torch.cuda.get_device_properties(device)
    print(f"# {properties.name}, {properties.multi_processor_count} multiprocessors, compute {properties.major}."
          f"{properties.minor}; torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN "
          f"{torch.backends.cudnn.version()}")  # fmt: skip
    return device


def milliseconds(call: Callable[[], object], rounds: int = 30) -> float:
    """The median time of a call on the GPU's own clock, after three that do not count."""
    for _ in range(3):
        call()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for begin, end in pairs:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return median(begin.elapsed_time(end) for begin, end in pairs)


@contextmanager
def asked(scheme: str) -> Iterator[None]:
    """Sets the scheme in which kernels run."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = scheme
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


REFUSALS = (NotImplementedError, ValueError, runtime.CudaError)
"""What a scheme that cannot be had raises."""
