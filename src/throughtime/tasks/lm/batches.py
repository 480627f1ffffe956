"""Numbers -> windows of [time, batch], in an order that (seed, epoch, index) alone decide.

So the place in the data is two whole numbers, and training continues exactly where it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from throughtime.tasks.lm.vocabulary import UNKNOWN, Ids

IGNORED = -1  # a target that is padding


@dataclass(frozen=True)
class Window:
    """One step of truncated back-propagation through time.

    inputs, targets: [T, B]; targets hold IGNORED at padding. lengths: [B] steps of each sequence that are
    text, or None when all T are. fresh: the state starts at zero, else it is carried on from the last window.
    """

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    lengths: NDArray[np.int64] | None
    fresh: bool


@dataclass(frozen=True)
class Reading:
    """A text as numbers [N], and how its rare units are read.

    start: the line end. rare_unknown: in each epoch every second unit that occurs only once is read as
    unknown, in turns. A text's share of units seen once estimates the share never seen (Good 1953): so the
    model learns what the unknown unit is worth, and still learns the rare ones.
    """

    ids: Ids
    start: int
    rare_unknown: bool

    def in_epoch(self, epoch: int) -> Ids:
        """The numbers as they are read in this epoch."""
        if not self.rare_unknown:
            return self.ids
        once = np.flatnonzero(np.bincount(self.ids) == 1)
        once = once[once != self.start]
        replaced = self.ids.copy()
        replaced[np.isin(self.ids, once[epoch % 2 :: 2])] = UNKNOWN
        return replaced


class Source(ABC):
    """Windows of a text, epoch after epoch."""

    @abstractmethod
    def windows_in(self, epoch: int) -> int:
        """How many windows this epoch has."""

    @abstractmethod
    def window(self, epoch: int, index: int) -> Window:
        """Window `index` of `epoch`."""


class Streams(Source):
    """One long text, cut into `batch` streams side by side; the state is carried from window to window.

    Each epoch starts at another place of the text, taken as a ring, so that no border stays where it was.
    At most `batch - 1` units are left out per epoch.
    """

    def __init__(self, reading: Reading, batch: int, bptt: int, seed: int) -> None:
        ids = reading.ids
        self._reading, self._batch, self._seed = reading, batch, seed
        self._length = len(ids) // batch
        count = -(-self._length // bptt)
        # Windows of nearly equal length: a last window of one step would be a noisy update.
        self._borders = [round(self._length * k / count) for k in range(count + 1)]
        self._epoch = -1
        self._inputs = self._targets = np.empty((0, 0), np.int32)

    def windows_in(self, epoch: int) -> int:
        return len(self._borders) - 1

    def window(self, epoch: int, index: int) -> Window:
        self._turn_to(epoch)
        steps = slice(self._borders[index], self._borders[index + 1])
        return Window(_columns(self._inputs[:, steps]), _columns(self._targets[:, steps]), None, index == 0)

    def _turn_to(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        ids = self._reading.in_epoch(epoch)
        ring = np.roll(ids, -int(_generator(self._seed, epoch).integers(len(ids))))
        used = self._batch * self._length
        self._inputs = ring[:used].reshape(self._batch, self._length)
        self._targets = np.append(ring, ring[0])[1 : used + 1].reshape(self._batch, self._length)
        self._epoch = epoch


class Lines(Source):
    """Each line a sequence: read from the line end before it (the start), predicted up to its own line end.

    `batch` lines side by side, in a new order each epoch. Lines longer than `bptt` take several windows.
    """

    def __init__(self, reading: Reading, batch: int, bptt: int, seed: int) -> None:
        self._reading, self._batch, self._bptt, self._seed = reading, batch, bptt, seed
        self._start = reading.start
        self._ends = np.flatnonzero(reading.ids == self._start) + 1
        self._begins = np.concatenate(([0], self._ends[:-1]))
        self._epoch = -1
        self._windows: list[tuple[NDArray[np.int64], int]] = []
        self._ids = reading.ids

    def windows_in(self, epoch: int) -> int:
        self._turn_to(epoch)
        return len(self._windows)

    def window(self, epoch: int, index: int) -> Window:
        self._turn_to(epoch)
        lines, first = self._windows[index]
        lengths = self._ends[lines] - self._begins[lines]
        lengths_here = np.clip(lengths - first, 0, self._bptt)
        steps = int(lengths_here.max())
        place = self._begins[lines] + first + np.arange(steps)[:, None]  # [T, B]
        inside = np.arange(steps)[:, None] < lengths_here
        targets = np.where(inside, self._ids[np.where(inside, place, 0)], IGNORED)
        before = np.where(place == self._begins[lines], self._start, self._ids[np.where(inside, place - 1, 0)])
        inputs = np.where(inside, before, self._start)
        return Window(inputs.astype(np.int64), targets.astype(np.int64), lengths_here, first == 0)

    def _turn_to(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        order = _generator(self._seed, epoch).permutation(len(self._ends))
        lengths = self._ends - self._begins
        self._windows = [
            (lines, first)
            for lines in (order[k : k + self._batch] for k in range(0, len(order), self._batch))
            for first in range(0, int(lengths[lines].max()), self._bptt)
        ]
        self._ids = self._reading.in_epoch(epoch)
        self._epoch = epoch


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, epoch]))


def _columns(rows: NDArray[np.int32]) -> NDArray[np.int64]:
    """[B, T] -> [T, B], contiguous."""
    return np.ascontiguousarray(rows.T, dtype=np.int64)
