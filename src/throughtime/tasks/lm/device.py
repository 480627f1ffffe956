"""Where a model computes: --device."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from throughtime.tasks.errors import UsageError

if TYPE_CHECKING:
    import torch


def check_device(name: str) -> None:
    """Refuse a device that is none, or that is not here."""
    if name == "cpu":
        return
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise UsageError(f"--device {name}: give cpu, cuda, or cuda:1 for another GPU than the first")
    import torch

    from throughtime.nn.cuda_wish import VARIABLE

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UsageError(f"--device {name}: torch finds no NVIDIA GPU here; leave it out to use the CPU")
    if (torch.device(name).index or 0) >= count:
        raise UsageError(f"--device {name}: there are {count} GPUs, numbered from cuda:0")
    if not os.environ.get(VARIABLE):
        raise UsageError(
            f"--device {name}: the CUDA kernels have been compiled and emulated, but have never run on a GPU; "
            f"set {VARIABLE}=block to try them"
        )


def described(device: torch.device) -> str:
    """The device in words, for the first screen."""
    import torch

    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}, float32"
    return f"cpu, {torch.get_num_threads()} threads, float32"
