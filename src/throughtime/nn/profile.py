"""Named ranges for torch.profiler around every kernel; next to no time where no profiler is on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.autograd import profiler

_SILENT: AbstractContextManager[Any] = nullcontext()


def named_range(recurrence: str) -> AbstractContextManager[Any]:
    """A range "throughtime::GRU" or "throughtime::GRU.backward" in the profile that is being taken, if one is."""
    # The flag by which torch's own optimizers and data loaders decide; record_function itself costs microseconds.
    if not profiler._is_profiler_enabled:
        return _SILENT
    return profiler.record_function(f"throughtime::{recurrence}")


__all__ = ["named_range"]
