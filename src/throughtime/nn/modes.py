"""In which of torch's modes a call is made, as far as its way depends on it."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

_transforms_active = torch._C._are_functorch_transforms_active


def is_transformed() -> bool:
    """Whether a transform of torch.func is at work, or forward mode."""
    return _transforms_active() or forward_ad._current_level >= 0
