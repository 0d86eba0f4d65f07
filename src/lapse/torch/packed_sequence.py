"""Converts PyTorch's PackedSequence to a padded batch with lengths, and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence


def padded(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """(batch, timesteps, features) in the order of the batch before it was packed, and the lengths,
    (batch,)."""
    return pad_packed_sequence(packed, batch_first=True)


def packed_like(packed: PackedSequence, y: Tensor) -> PackedSequence:
    """Packs the outputs (batch, timesteps, units) of a batch as `packed` is."""
    if packed.sorted_indices is not None:
        y = y.index_select(0, packed.sorted_indices)
    sizes = packed.batch_sizes.to(y.device)  # how many sequences are still running at each step
    running = torch.arange(y.shape[0], device=y.device) < sizes[:, None]
    return PackedSequence(
        y.swapaxes(0, 1)[running],
        packed.batch_sizes,
        packed.sorted_indices,
        packed.unsorted_indices,
    )
