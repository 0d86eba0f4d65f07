"""`cells.unroll` on the C++ kernels, and what keeps a call from running on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lapse.core.cells import Weights, drop
from lapse.core.plan import STATES, Coins, Fleeting, Masks
from lapse.kernels.layer import SLOTS
from lapse.torch import autograd

_COMPUTED = (torch.float32, torch.float16, torch.bfloat16)


def obstacle(
    x: Tensor,
    weights: Weights,
    masks: Masks,
    initial_state: tuple[Tensor, ...] | None,
    *,
    activations: bool = True,
) -> str | None:
    """What about a call the kernels can't do, in words; None if nothing.

    Args:
        activations: whether they are tanh and sigmoid.
    """
    if x.device.type != "cpu":
        return f"the input is on the device {x.device.type}"
    of_noise = [mask for mask in masks if isinstance(mask, Tensor)]
    for tensor in (x, *weights, *of_noise, *(initial_state or ())):
        if tensor is not None and tensor.dtype not in _COMPUTED:
            kind = str(tensor.dtype).removeprefix("torch.")
            return f"it computes in float32, and was given {kind}"
    if weights.projection is not None:
        return "it has no projection of h"
    if any(mask.requires_grad for mask in of_noise):
        return "it has no gradients for masks"
    if torch._C._are_functorch_transforms_active() and _mapped():
        return "it knows nothing of vmap"
    if forward_ad._current_level >= 0:
        return "it has no derivatives in forward mode"
    if not activations:
        return "its activations are tanh and sigmoid"
    return None


def _mapped() -> bool:
    """Whether one of the transforms of torch.func at work is a vmap, as far as one can tell."""
    if torch.compiler.is_compiling():  # which asks for no more than whether there are any
        return True
    functorch = torch._C._functorch
    levels = functorch.get_interpreter_stack() or []
    return any(level.key() == functorch.TransformType.Vmap for level in levels)


def unroll(
    cell: str,
    x: Tensor,
    weights: Weights,
    masks: Masks,
    *,
    initial_state: tuple[Tensor, ...] | None = None,
    running: Tensor | None = None,
    reset_after: bool = True,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs a cell over whole sequences; takes and gives what `cells.unroll` does.

    Masks may be `Coins` or `Fleeting`. Half precision is computed in float32.
    """
    if x.dtype != torch.float32:
        y, state = unroll(
            cell,
            x.float(),
            Weights(*map(_float32, weights)),
            masks,
            initial_state=initial_state and tuple(map(_float32, initial_state)),
            running=running,
            reset_after=reset_after,
            reverse=reverse,
        )
        return y.to(x.dtype), tuple(part.to(x.dtype) for part in state)
    W, U = drop(weights.kernel, masks.W), drop(weights.recurrent_kernel, masks.U)
    state = initial_state or (x.new_zeros(x.shape[0], U.shape[0]),) * STATES[cell]
    h0, c0 = (*state, None)[:2]
    x_mask, h_mask = _given(masks.x, W), _given(masks.h, U)
    slots = [_given(getattr(masks, slot, None), U, of_gates=False) for slot in SLOTS[cell]]
    last_h, last_c, h, _, _, outputs = autograd.run(
        cell,
        reset_after,
        reverse,
        x,
        W,
        U,
        _bias(weights.bias, U.shape[0]),
        h0,
        c0,
        running,
        x_mask.array,
        h_mask.array,
        [mask.array for mask in slots],
        [mask.scale for mask in (x_mask, h_mask, *slots)],
        again=[mask.again for mask in (x_mask, h_mask, *slots)],
    )
    y = h if masks.y is None else outputs
    if running is not None and (initial_state is not None or masks.y is not None):
        y = _hold(y, running.t(), reverse)
    return y.swapaxes(0, 1), (last_h, last_c) if cell == "LSTM" else (last_h,)


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def _bias(bias: Tensor | None, units: int) -> Tensor | None:
    """One number for each part of z; a GRU's two rows become z r n, and last what n reads of h."""
    if bias is None or bias.dim() == 1:
        return bias
    inputs, recurrent = bias
    both, last = 2 * units, recurrent[2 * units :]
    return torch.cat([inputs[:both] + recurrent[:both], inputs[both:], last])


class _Given(NamedTuple):
    """A mask as `ops.layer` takes it, what its bytes are multiplied by, and how to get it again."""

    array: Tensor | None = None
    scale: float = 1.0
    again: Callable[[], Tensor] | None = None


def _given(mask: Any, like: Tensor, of_gates: bool = True) -> _Given:
    if mask is None:
        return _Given()
    width = like.shape[0]

    def whole(array: Tensor) -> Tensor:
        array = array if array.shape[3] == width else array.expand(*array.shape[:3], width)
        return array if of_gates else array[:, :, 0]

    if isinstance(mask, float):
        return _Given(whole(like.new_full((1, 1, 1, 1), mask)))
    if isinstance(mask, Coins):
        return _Given(whole(mask.kept), mask.scale)
    if isinstance(mask, Fleeting):
        again = mask.again  # alone: what else the lambda held would be kept
        return _Given(whole(mask.numbers), again=lambda: whole(again()))
    return _Given(whole(mask.float()))


def _hold(y: Tensor, running: Tensor, reverse: bool) -> Tensor:
    """In padding, the output of the real step before; 0 where there is none.

    Args:
        y, running: with timesteps first.
    """
    steps = torch.arange(y.shape[0])[:, None]
    if reverse:
        nearest = torch.where(running, steps, y.shape[0]).flip(0).cummin(0).values.flip(0)
    else:
        nearest = torch.where(running, steps, -1).cummax(0).values
    found = (nearest >= 0) & (nearest < y.shape[0])
    held = y.gather(0, torch.where(found, nearest, 0)[..., None].expand_as(y))
    return torch.where(found[..., None], held, 0)
