"""PackedSequence in and out: between torch's packed rows and the padded tensor, by index, with no loop over time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


class Packing:
    """Where the N rows of a PackedSequence lie in a padded [T, B] in the user's order of the sequences.

    `lengths` [B] int64: the real steps of each sequence.
    """

    def __init__(self, packed: PackedSequence) -> None:
        self._like = packed
        sizes = packed.batch_sizes  # [T] on the CPU: sequences that reach each step, longest first
        self.steps, self.rows = sizes.shape[0], int(sizes[0])
        first = sizes.cumsum(0) - sizes
        time = torch.repeat_interleave(sizes)  # [N], the step of each row
        row = torch.arange(time.shape[0]) - first[time]
        lengths = (sizes > torch.arange(self.rows).unsqueeze(1)).sum(1)
        device = packed.data.device
        time, row, lengths = time.to(device), row.to(device), lengths.to(device)
        if packed.sorted_indices is not None:
            row, lengths = packed.sorted_indices[row], lengths[packed.unsorted_indices]
        self.lengths = lengths
        self._places = time * self.rows + row

    def pad(self, data: Tensor) -> Tensor:
        """Rows [N, ...] -> [T, B, ...] with zeros where no sequence is."""
        empty = data.new_zeros((self.steps * self.rows, *data.shape[1:]))
        return empty.index_copy(0, self._places, data).view(self.steps, self.rows, *data.shape[1:])

    def rows_of(self, padded: Tensor) -> Tensor:
        """[T, B, ...] -> rows [N, ...]."""
        return padded.flatten(0, 1).index_select(0, self._places)

    def pack(self, padded: Tensor) -> PackedSequence:
        """[T, B, ...] -> a PackedSequence of the same steps and order as the one that was given."""
        like = self._like
        return PackedSequence(self.rows_of(padded), like.batch_sizes, like.sorted_indices, like.unsorted_indices)
