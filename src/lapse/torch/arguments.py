"""The arguments of a call: checked, and converted to what the layers need."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lapse.backends.torch import private
from lapse.core.errors import LapseError
from lapse.core.masks import Masks


class CallError(LapseError, RuntimeError):
    """Tensors that don't fit; also a RuntimeError, because PyTorch raises that."""


def check_input(x: Tensor, given: Tensor, module: nn.RNNBase) -> None:
    """Raises `CallError` for an input of the wrong shape or type.

    Args:
        x: the input with the batch first.
        given: the input as the user passed it.
    """
    shape = x.shape
    if len(shape) != 3 or shape[2] != module.input_size or shape[1] == 0:
        axes = "batch, timesteps" if module.batch_first else "timesteps, batch"
        raise CallError(
            f"the input has shape {tuple(given.shape)}; {type(module).__name__} needs "
            f"({axes}, {module.input_size}) with at least one timestep."
        )
    own = module._parameters.get("weight_ih_l0")  # faster than the attribute
    kind = module.weight_ih_l0.dtype if own is None else own.dtype
    if x.dtype != kind and not private.autocast():
        raise CallError(
            f"RNN input dtype ({x.dtype}) does not match weight dtype ({kind}). "
            f"Convert input: input.to({kind}), or convert model: model.to({x.dtype})."
        )


def checked_lengths(lengths: Any, batch: int, timesteps: int) -> Tensor:
    """The lengths of the sequences, (batch,) whole numbers in [1, timesteps]."""
    found = _whole(lengths, "lengths", batch)
    if torch.compiler.is_compiling():  # a graph doesn't know the values
        return found
    if batch and not 1 <= int(found.min()) <= int(found.max()) <= timesteps:
        raise LapseError(
            f"lengths run from {int(found.min())} to {int(found.max())}; each must lie between 1 "
            f"and the {timesteps} timesteps of the input."
        )
    return found


def checked_samples(samples: Any, batch: int) -> list[int]:
    """The numbers that identify the samples of a batch."""
    return list(map(int, _whole(samples, "samples", batch)))


def check_masks_are_tensors(masks: Masks) -> None:
    """Raises `LapseError` for masks of another library."""
    for slot, mask in masks._asdict().items():
        if not (mask is None or isinstance(mask, (Tensor, float))):
            raise LapseError(
                f"the mask for {slot} is of type {type(mask).__name__}; give a tensor, as from "
                "draw_masks (torch.as_tensor converts an array), or a float."
            )


def _whole(values: Any, name: str, batch: int) -> Tensor:
    try:
        found: Tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise LapseError(
            f"{name}={values!r} was given; it needs one whole number for each of the {batch} "
            "sequences."
        ) from None
    whole = not (found.is_floating_point() or found.dtype == torch.bool)
    if found.shape != (batch,) or not whole:
        raise LapseError(
            f"{name} has shape {tuple(found.shape)} and type {found.dtype}; it needs one whole "
            f"number for each of the {batch} sequences."
        )
    return found


def checked_states(
    hx: Any, widths: dict[str, int], counts: tuple[int, int], single: bool, dtype: torch.dtype
) -> tuple[Tensor, ...] | None:
    """The states before the first steps, (layers * directions, batch, width) each.

    Args:
        hx: as the user passed it: a pair for LSTM, a tensor for GRU and RNN.
        widths: the size of each state, by name.
        counts: layers * directions, and the batch size.
        single: whether the input is one sequence without a batch axis.
        dtype: the type of the input; the states must have the same type, except under autocast.
    """
    if hx is None:
        return None
    parts = tuple(hx) if len(widths) > 1 and isinstance(hx, (list, tuple)) else (hx,)
    rows = counts[: 2 - single]
    fits = len(parts) == len(widths)
    for part, width in zip(parts, widths.values()):  # noqa: B905, their lengths are compared above
        fits = fits and isinstance(part, Tensor) and part.shape == (*rows, width)
        fits = fits and (part.dtype == dtype or private.autocast())
    if not fits:
        _raise_for_states(parts, {name: (*rows, width) for name, width in widths.items()}, dtype)
    return tuple(part.unsqueeze(1) for part in parts) if single else parts


def _raise_for_states(
    parts: tuple, needed: dict[str, tuple[int, ...]], dtype: torch.dtype
) -> NoReturn:
    """Raises the error for states that don't fit."""
    if not all(isinstance(part, Tensor) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise CallError(f"hx has the type {kinds}; it must be {_states(needed)}.")
    found = [tuple(part.shape) for part in parts]
    if found != list(needed.values()):
        raise CallError(
            f"hx has shapes {', '.join(map(str, found))}; it needs {_states(needed)} of shape "
            f"{' and '.join(map(str, dict.fromkeys(needed.values())))}."
        )
    types = dict.fromkeys(str(part.dtype) for part in parts)
    raise CallError(
        f"hx has the type {', '.join(types)}, but the input has {dtype}; write hx.to({dtype})."
    )


def _states(needed: dict[str, Any]) -> str:
    return "a pair (h, c) of tensors" if len(needed) > 1 else "one tensor h"


def running_steps(lengths: Tensor, timesteps: int, device: torch.device) -> Tensor:
    """(batch, timesteps) booleans: False where a step is padding."""
    return torch.arange(timesteps, device=device) < lengths.to(device)[:, None]
