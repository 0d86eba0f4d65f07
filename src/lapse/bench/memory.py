"""Memory that an LSTM keeps for the backward pass."""

from __future__ import annotations

import torch

from lapse.torch import LSTM


def bytes_per_step(noise: str) -> float:
    """Bytes that an LSTM of 128 units keeps for each timestep of 32 samples."""
    layer = LSTM(64, 128, batch_first=True, noise=noise, engine="cpu")
    sizes = []
    for timesteps in (50, 100):
        stored: dict[int, int] = {}

        def note(tensor: torch.Tensor, stored: dict[int, int] = stored) -> torch.Tensor:
            stored[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            layer(torch.randn(32, timesteps, 64))
        sizes.append(sum(stored.values()))
    return (sizes[1] - sizes[0]) / 50
