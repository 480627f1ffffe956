"""Memory for large results, used again.

Memory that the system has to fetch for every call costs about as much as filling it, and on some virtual machines ten
times that. What a training step needs, the next one needs again: so large blocks are kept when their tensors are gone.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST = 1 << 19  # bytes; below that the C library keeps its memory anyway
MOST = 256 << 20  # bytes that lie unused
_ALIGNMENT = 64  # bytes: a cache line, and the longest vector
_NUMPY: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


class Blocks:
    """Unused blocks of memory, at most `most` bytes of them; sizes that have not been used for long go first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._watched: dict[int, weakref.ref[NDArray[Any]]] = {}
        self.clear()

    def clear(self) -> None:
        """Gives all of them up."""
        self._lock = threading.RLock()  # a tensor may end while this very thread is in here
        self._unused: OrderedDict[int, list[NDArray[np.uint8]]] = OrderedDict()  # by bytes
        self.held = 0

    def tensor(self, size: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of any content, whose memory comes back here when nobody uses it any more."""
        kind = _NUMPY[dtype]
        block = self._taken(math.prod(size) * kind.itemsize)
        array = block.view(kind).reshape(size)
        # torch holds the array as long as it uses its memory.
        address = block.__array_interface__["data"][0]
        self._watched[address] = weakref.ref(array, lambda _: self._give_back(address, block))
        return torch.from_numpy(array)

    def _taken(self, count: int) -> NDArray[np.uint8]:
        with self._lock:
            same = self._unused.get(count)
            if same:
                self.held -= count
                return same.pop()
        whole = np.empty(count + _ALIGNMENT, np.uint8)
        first = -whole.__array_interface__["data"][0] % _ALIGNMENT
        return whole[first : first + count]

    def _give_back(self, address: int, block: NDArray[np.uint8]) -> None:
        with self._lock:
            self._watched.pop(address, None)
            self._unused.setdefault(block.nbytes, []).append(block)
            self._unused.move_to_end(block.nbytes)
            self.held += block.nbytes
            while self.held > self._most:
                count, blocks = next(iter(self._unused.items()))
                if blocks:
                    blocks.pop()
                    self.held -= count
                if not blocks:
                    del self._unused[count]


_blocks = Blocks(MOST)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_blocks.clear)  # another thread may have been in there


class Form:
    """What a tensor is made like again and again, on the CPU: found out once, as a short call takes less time."""

    def __init__(self, model: Tensor) -> None:
        self._size, self._stride, self._dtype = tuple(model.shape), model.stride(), model.dtype
        self._large = model.numel() * model.itemsize >= LEAST
        # Sequence after sequence in memory, though time is the first axis.
        self._turned = model.dim() > 2 and not model.is_contiguous()

    def new(self) -> Tensor:
        """A tensor of any content."""
        if not self._large:
            return torch.empty_strided(self._size, self._stride, dtype=self._dtype, device=_CPU)
        if not self._turned:
            return _blocks.tensor(self._size, self._dtype)
        steps, rows, width = self._size
        return _blocks.tensor((rows, steps, width), self._dtype).transpose(0, 1)


_CPU = torch.device("cpu")
