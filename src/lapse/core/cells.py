"""The equations of one step, stated once, and the plain loop over them: the oracle.

Everything is written with operators, so the same lines run on NumPy float64, PyTorch, JAX and
TensorFlow; `backend.py` lists the few functions that differ. W, U, b are kernel, recurrent kernel
and bias in Keras's layout; gates stand in the order i f g o (LSTM) and z r n (GRU).

`m` holds one mask a slot (`masks.Masks`), None where there is no noise. A mask multiplies;
k_c and k_h say how far a state moves from its old value to its new one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from lapse.core.backend import Backend
from lapse.core.masks import Masks
from lapse.core.numpy_backend import NUMPY
from lapse.core.plan import GATES, STATES
from lapse.core.weights import Weights


class Functions(NamedTuple):
    """What a step computes with besides operators. Layers may have other activations than these."""

    tanh: Callable  # of candidates and states
    sigmoid: Callable  # of gates
    backend: Backend


def lstm(
    x: Any, h: Any, c: Any, U: Any, b: Any, m: Masks, fn: Functions, projection: Any = None
) -> tuple:
    """x: (batch, 4*units) projection of the input, bias with it; h, c: (batch, units)."""
    i, f, g, o = fn.backend.split(x + read(h, U, m.h, fn.backend), 4, -1)
    i, f, o = drop(fn.sigmoid(i), m.i), drop(fn.sigmoid(f), m.f), drop(fn.sigmoid(o), m.o)
    c_new = f * c + i * drop(fn.tanh(g), m.g)
    h_new = o * fn.tanh(c_new)
    if projection is not None:
        h_new = drop(h_new @ projection, m.s)
    return update(h, h_new, m.k_h, fn.backend), update(c, c_new, m.k_c, fn.backend)


def gru(x: Any, h: Any, U: Any, b: Any, m: Masks, fn: Functions) -> tuple:
    """The GRU with `reset_after`: r acts on what U made of h. b: (3*units,) recurrent bias."""
    h_U = read(h, U, m.h, fn.backend)
    x_z, x_r, x_n = fn.backend.split(x, 3, -1)
    h_z, h_r, h_n = fn.backend.split(h_U if b is None else h_U + b, 3, -1)
    z = drop(fn.sigmoid(x_z + h_z), m.z)
    r = drop(fn.sigmoid(x_r + h_r), m.r)
    n = drop(fn.tanh(x_n + r * h_n), m.n)
    return (update(h, drop(z * h + (1 - z) * n, m.s), m.k_h, fn.backend),)


def gru_reset_before(x: Any, h: Any, U: list, b: Any, m: Masks, fn: Functions) -> tuple:
    """The GRU of Cho et al. 2014: r acts on h before U does."""
    x_z, x_r, x_n = fn.backend.split(x, 3, -1)
    U_z, U_r, U_n = U
    h_z, h_r, h_n = (h,) * 3 if m.h is None else (drop(h, mask) for mask in each(m.h, 3))
    z = drop(fn.sigmoid(x_z + h_z @ U_z), m.z)
    r = drop(fn.sigmoid(x_r + h_r @ U_r), m.r)
    n = drop(fn.tanh(x_n + (r * h_n) @ U_n), m.n)
    return (update(h, drop(z * h + (1 - z) * n, m.s), m.k_h, fn.backend),)


def simple_rnn(x: Any, h: Any, U: Any, b: Any, m: Masks, fn: Functions) -> tuple:
    """The network of Elman 1990, without gates."""
    h_new = fn.tanh(x + read(h, U, m.h, fn.backend))
    return (update(h, drop(h_new, m.s), m.k_h, fn.backend),)


def drop(value: Any, mask: Any) -> Any:
    """Multiplies by a mask, if there is one."""
    return value if mask is None else value * mask


def update(old: Any, new: Any, mask: Any, backend: Backend) -> Any:
    """Moves from old to new where the mask is 1, stays where it is 0.

    A mask of 1 gives new and one of 0 gives old to the last bit, however large the other is.
    """
    if mask is None:
        return new
    return _share(mask, new, backend) + _share(1 - mask, old, backend)


def _share(mask: Any, value: Any, backend: Backend) -> Any:
    """mask * value, where 0 * infinity is 0; at 0, too, a finite value is the mask's gradient."""
    product = mask * value
    if isinstance(mask, float) and mask != 0:  # what evaluation multiplies by
        return product
    return backend.where((mask == 0) & (product != product), 0, product)


def read(h: Any, U: Any, masks: list | None, backend: Backend) -> Any:
    """What the gates read of h through U. With a mask per gate, U is a list of the gates' parts."""
    if masks is None or len(masks) == 1:
        return drop(h, masks and masks[0]) @ U
    return backend.concatenate([(h * m_k) @ U_k for m_k, U_k in zip(masks, U, strict=True)], -1)


def each(masks: list, gates: int) -> list:
    """One mask a gate, from as many or from one for all."""
    return masks if len(masks) == gates else masks * gates


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
    activation: Callable | None = None,
    recurrent_activation: Callable | None = None,
    backend: Backend = NUMPY,
) -> tuple[Any, tuple]:
    """Runs a cell over whole sequences.

    Args:
        cell: "LSTM", "GRU" or "SimpleRNN".
        x: (batch, timesteps, features), at least one step.
        masks: from `drawing.draw`, or `plan.expected`; arrays of x's backend and dtype.
        initial_state: h, for LSTM h and c, each (batch, units); zeros by default. With a projection
            h is (batch, projected).
        running: (batch, timesteps) booleans, False where a step is padding: it holds state and
            output, the output being 0 before the first running step.
        reset_after: which GRU; see `gru` and `gru_reset_before`.
        reverse: whether to begin with the last step; steps keep their places and their masks.
        activation, recurrent_activation: tanh and sigmoid by default.

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
        initial_state = tuple(backend.zeros((backend.shape(x)[0], width), x) for width in widths)
    per_gate = masks.h is not None and not isinstance(masks.h, float) and masks.h.shape[2] > 1
    if per_gate or one_step is gru_reset_before:
        U = backend.split(U, gates, -1)
    functions = Functions(
        activation or backend.tanh, recurrent_activation or backend.sigmoid, backend
    )
    if running is not None:
        x = backend.where(running[..., None], x, 0)  # whatever stands in padding stays there

    inputs = {"x": backend.swapaxes(_project(x, W, bias, masks.x, gates, backend), 0, 1)}
    if running is not None:
        inputs["running"] = backend.swapaxes(running, 0, 1)
    constant = {}
    for slot, mask in masks._asdict().items():
        if slot in "xWU" or mask is None:
            continue
        if isinstance(mask, float):
            constant[slot] = [mask] if slot == "h" else mask
        elif mask.shape[1] == 1:
            constant[slot] = _by_gate(mask[:, 0], slot)
        else:
            inputs[slot] = backend.swapaxes(mask, 0, 1)

    if reverse:
        inputs = {name: backend.flip(value, 0) for name, value in inputs.items()}

    def step(carry: tuple, now: dict) -> tuple:
        m = Masks(**constant, **{k: _by_gate(now[k], k) for k in now.keys() - {"x", "running"}})
        state = one_step(now["x"], *carry[1:], U, recurrent_bias, m, functions)
        new = (drop(state[0], m.y), *state)
        if running is None:
            return new
        keep = now["running"][:, None]
        return tuple(backend.where(keep, a, b) for a, b in zip(new, carry, strict=True))

    y = backend.zeros((backend.shape(x)[0], outputs), x)
    (_, *state), ys = backend.scan(step, (y, *initial_state), inputs)
    if reverse:
        ys = backend.flip(ys, 0)
    return backend.swapaxes(ys, 0, 1), tuple(state)


def _project(x: Any, W: Any, bias: Any, mask: Any, gates: int, backend: Backend) -> Any:
    """The input's part of every gate at every step, outside the loop: x W + b."""
    if mask is None or isinstance(mask, float):
        projected = drop(x, mask) @ W
    elif mask.shape[2] == 1:
        projected = (x * mask[:, :, 0]) @ W
    else:
        parts = [(x * mask[:, :, k]) @ W_k for k, W_k in enumerate(backend.split(W, gates, -1))]
        projected = backend.concatenate(parts, -1)
    return projected if bias is None else projected + bias


def _by_gate(mask: Any, slot: str) -> Any:
    """From (batch, gates, width): a list over gates for h, which they read; else the mask."""
    return [mask[:, k] for k in range(mask.shape[1])] if slot == "h" else mask[:, 0]
