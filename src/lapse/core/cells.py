"""The equations of one step, stated once, and the plain loop over them: the oracle.

Everything is written with operators, so the same lines run on NumPy float64, PyTorch and every
Keras backend; `Library` holds the few functions that differ. W, U, b are kernel, recurrent kernel
and bias in Keras's layout; gates stand in the order i f g o (LSTM) and z r n (GRU).

`m` holds one mask a slot (`plan.Masks`), None where there is no noise. A mask multiplies;
k_c and k_h say how far a state moves from its old value to its new one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lapse.core.plan import GATES, STATES, Masks


class Weights(NamedTuple):
    """kernel (features, gates*units), recurrent_kernel (units, gates*units), bias or None.

    The bias is (gates*units,), for GRU with reset_after (2, gates*units): input row, recurrent row.
    An LSTM may have a projection of its hidden state, (units, projected), as in Sak et al. 2014,
    arXiv:1402.1128; h then has `projected` numbers, and recurrent_kernel as many rows.
    """

    kernel: Any
    recurrent_kernel: Any
    bias: Any = None
    projection: Any = None


class Library(NamedTuple):
    """What the loop takes from an array library."""

    tanh: Callable
    sigmoid: Callable
    concatenate: Callable  # (arrays, axis)
    split: Callable  # (array, parts, axis) -> list
    swapaxes: Callable
    where: Callable
    flip: Callable  # (array, axis)
    zeros: Callable  # (shape, like): an array of the dtype and device of another
    scan: Callable  # like `plain_scan`'s


def lstm(
    x: Any, h: Any, c: Any, U: Any, b: Any, m: Masks, lib: Library, projection: Any = None
) -> tuple:
    """x: (batch, 4*units) projection of the input, bias with it; h, c: (batch, units)."""
    i, f, g, o = lib.split(x + read(h, U, m.h, lib), 4, -1)
    i, f, o = drop(lib.sigmoid(i), m.i), drop(lib.sigmoid(f), m.f), drop(lib.sigmoid(o), m.o)
    c_new = f * c + i * drop(lib.tanh(g), m.g)
    h_new = o * lib.tanh(c_new)
    if projection is not None:
        h_new = drop(h_new @ projection, m.s)
    return update(h, h_new, m.k_h, lib), update(c, c_new, m.k_c, lib)


def gru(x: Any, h: Any, U: Any, b: Any, m: Masks, lib: Library) -> tuple:
    """The GRU with `reset_after`: r acts on what U made of h. b: (3*units,) recurrent bias."""
    h_U = read(h, U, m.h, lib)
    x_z, x_r, x_n = lib.split(x, 3, -1)
    h_z, h_r, h_n = lib.split(h_U if b is None else h_U + b, 3, -1)
    z = drop(lib.sigmoid(x_z + h_z), m.z)
    r = drop(lib.sigmoid(x_r + h_r), m.r)
    n = drop(lib.tanh(x_n + r * h_n), m.n)
    return (update(h, drop(z * h + (1 - z) * n, m.s), m.k_h, lib),)


def gru_reset_before(x: Any, h: Any, U: list, b: Any, m: Masks, lib: Library) -> tuple:
    """The GRU of Cho et al. 2014: r acts on h before U does."""
    x_z, x_r, x_n = lib.split(x, 3, -1)
    U_z, U_r, U_n = U
    h_z, h_r, h_n = (h,) * 3 if m.h is None else (drop(h, mask) for mask in each(m.h, 3))
    z = drop(lib.sigmoid(x_z + h_z @ U_z), m.z)
    r = drop(lib.sigmoid(x_r + h_r @ U_r), m.r)
    n = drop(lib.tanh(x_n + (r * h_n) @ U_n), m.n)
    return (update(h, drop(z * h + (1 - z) * n, m.s), m.k_h, lib),)


def simple_rnn(x: Any, h: Any, U: Any, b: Any, m: Masks, lib: Library) -> tuple:
    """The network of Elman 1990, without gates."""
    h_new = lib.tanh(x + read(h, U, m.h, lib))
    return (update(h, drop(h_new, m.s), m.k_h, lib),)


def drop(value: Any, mask: Any) -> Any:
    """Multiplies by a mask, if there is one."""
    return value if mask is None else value * mask


def update(old: Any, new: Any, mask: Any, lib: Library) -> Any:
    """Moves from old to new where the mask is 1, stays where it is 0.

    A mask of 1 gives new and one of 0 gives old to the last bit, however large the other is.
    """
    if mask is None:
        return new
    return _share(mask, new, lib) + _share(1 - mask, old, lib)


def _share(mask: Any, value: Any, lib: Library) -> Any:
    """mask * value, where 0 * infinity is 0; at 0, too, a finite value is the mask's gradient."""
    product = mask * value
    if isinstance(mask, float) and mask != 0:  # what evaluation multiplies by
        return product
    return lib.where((mask == 0) & (product != product), 0, product)


def read(h: Any, U: Any, masks: list | None, lib: Library) -> Any:
    """What the gates read of h through U. With a mask per gate, U is a list of the gates' parts."""
    if masks is None or len(masks) == 1:
        return drop(h, masks and masks[0]) @ U
    return lib.concatenate([(h * m_k) @ U_k for m_k, U_k in zip(masks, U, strict=True)], -1)


def each(masks: list, gates: int) -> list:
    """One mask a gate, from as many or from one for all."""
    return masks if len(masks) == gates else masks * gates


def plain_scan(stack: Callable) -> Callable:
    """The loop as one writes it down; `stack` joins a list of arrays along a new first axis.

    It takes a step (carry, inputs of one step by name) -> carry, the first carry, and all inputs
    by name with timesteps first; it returns the last carry, and carry[0] of every step.
    """

    def scan(step: Callable, carry: tuple, inputs: dict) -> tuple:
        outputs = []
        for values in zip(*inputs.values(), strict=True):
            carry = step(carry, dict(zip(inputs, values, strict=True)))
            outputs.append(carry[0])
        return carry, stack(outputs)

    return scan


NUMPY = Library(
    tanh=np.tanh,
    sigmoid=lambda a: 0.5 + 0.5 * np.tanh(0.5 * a),  # no overflow for large negative a
    concatenate=np.concatenate,
    split=np.split,
    swapaxes=np.swapaxes,
    where=np.where,
    flip=np.flip,
    zeros=lambda shape, like: np.zeros(shape, like.dtype),
    scan=plain_scan(np.stack),
)


_NO_MASKS = Masks()


def unroll(
    cell: str,
    x: Any,
    weights: Weights,
    masks: Masks = _NO_MASKS,
    *,
    initial_state: tuple | None = None,
    running: Any = None,
    reset_after: bool = True,
    reverse: bool = False,
    library: Library = NUMPY,
) -> tuple[Any, tuple]:
    """Runs a cell over whole sequences.

    Args:
        cell: "LSTM", "GRU" or "SimpleRNN".
        x: (batch, timesteps, features), at least one step.
        masks: from `masks.draw` or `masks.expected`; arrays of x's library and dtype.
        initial_state: h, for LSTM h and c, each (batch, units); zeros by default. With a projection
            h is (batch, projected).
        running: (batch, timesteps) booleans, False where a step is padding: it holds state and
            output, the output being 0 before the first running step.
        reset_after: which GRU; see `gru` and `gru_reset_before`.
        reverse: whether to begin with the last step; steps keep their places and their masks.

    Returns:
        y (batch, timesteps, units), and the last state, a tuple like `initial_state`.
    """
    W, U, b = drop(weights.kernel, masks.W), drop(weights.recurrent_kernel, masks.U), weights.bias
    bias, recurrent_bias = (b[0], b[1]) if b is not None and len(b.shape) == 2 else (b, None)
    gates, outputs = len(GATES[cell]), U.shape[0]
    steps: dict[str, Callable] = {
        "LSTM": lstm,
        "GRU": gru if reset_after else gru_reset_before,
        "SimpleRNN": simple_rnn,
    }
    one_step = steps[cell]
    if weights.projection is not None:
        one_step = partial(lstm, projection=weights.projection)
    if initial_state is None:
        widths = (outputs, U.shape[1] // gates)[: STATES[cell]]
        initial_state = tuple(library.zeros((x.shape[0], width), x) for width in widths)
    per_gate = masks.h is not None and not isinstance(masks.h, float) and masks.h.shape[2] > 1
    if per_gate or one_step is gru_reset_before:
        U = library.split(U, gates, -1)
    if running is not None:
        x = library.where(running[..., None], x, 0)  # whatever stands in padding stays there

    inputs = {"x": library.swapaxes(_project(x, W, bias, masks.x, gates, library), 0, 1)}
    if running is not None:
        inputs["running"] = library.swapaxes(running, 0, 1)
    constant = {}
    for slot, mask in masks._asdict().items():
        if slot in "xWU" or mask is None:
            continue
        if isinstance(mask, float):
            constant[slot] = [mask] if slot == "h" else mask
        elif mask.shape[1] == 1:
            constant[slot] = _by_gate(mask[:, 0], slot)
        else:
            inputs[slot] = library.swapaxes(mask, 0, 1)

    if reverse:
        inputs = {name: library.flip(value, 0) for name, value in inputs.items()}

    def step(carry: tuple, now: dict) -> tuple:
        m = Masks(**constant, **{k: _by_gate(now[k], k) for k in now.keys() - {"x", "running"}})
        state = one_step(now["x"], *carry[1:], U, recurrent_bias, m, library)
        new = (drop(state[0], m.y), *state)
        if running is None:
            return new
        keep = now["running"][:, None]
        return tuple(library.where(keep, a, b) for a, b in zip(new, carry, strict=True))

    y = library.zeros((x.shape[0], outputs), x)
    (_, *state), ys = library.scan(step, (y, *initial_state), inputs)
    if reverse:
        ys = library.flip(ys, 0)
    return library.swapaxes(ys, 0, 1), tuple(state)


def _project(x: Any, W: Any, bias: Any, mask: Any, gates: int, library: Library) -> Any:
    """The input's part of every gate at every step, outside the loop: x W + b."""
    if mask is None or isinstance(mask, float):
        projected = drop(x, mask) @ W
    elif mask.shape[2] == 1:
        projected = (x * mask[:, :, 0]) @ W
    else:
        parts = [(x * mask[:, :, k]) @ W_k for k, W_k in enumerate(library.split(W, gates, -1))]
        projected = library.concatenate(parts, -1)
    return projected if bias is None else projected + bias


def _by_gate(mask: Any, slot: str) -> Any:
    """From (batch, gates, width): a list over gates for h, which they read; else the mask."""
    return [mask[:, k] for k in range(mask.shape[1])] if slot == "h" else mask[:, 0]
