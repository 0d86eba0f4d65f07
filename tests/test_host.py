"""The kernels on NumPy arrays, with lapse's own threads: the bits that PyTorch's tensors give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from catalog import CELLS, Cell, problem
from lapse import LapseError
from lapse.backends import callbacks
from lapse.backends.torch import operators
from lapse.backends.torch.operators import Settings
from lapse.core.numpy_backend import NUMPY, NumpyBackend
from lapse.engines.arrays import SLOTS, Flags, Gradients, Inputs, Results, saved_per_unit
from lapse.engines.cpu import pointers
from lapse.engines.cpu.loading import extension

pytestmark = pytest.mark.skipif(extension() is None, reason="installed without a C++ compiler")
CELL = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
NAMES = (*Results._fields, *(f"d{name}" for name in Gradients._fields))
OPTIONS: dict[str, dict[str, bool]] = {
    "": {},
    "padded": {"padded": True},
    "padded, no mask of y": {"padded": True, "masks_y": False},
    "padded, no states": {"padded": True, "states": False},
    "no states, no mask of y": {"states": False, "masks_y": False},
}
SCALES = (2.0, 1.0, *[1.25] * 8)


def with_threads(count: int) -> NumpyBackend:
    """NumPy's backend with so many threads."""
    backend = NumpyBackend()
    backend.threads = lambda: (count, 0)  # type: ignore[method-assign]
    return backend


def inputs(cell: Cell, padded: bool = False, states: bool = True, masks_y: bool = True) -> Inputs:
    """Work for several threads, with masks in bytes and in floats, of each step and of none."""
    given = problem(cell, batch=9, timesteps=63, features=31, units=65, seed=2)
    random = np.random.default_rng(3)
    coins = random.integers(0, 2, (9, 63, 1, 31), dtype=np.uint8)
    slots: list[Any] = [None] * 8
    slots[SLOTS[cell.name].index("k_h")] = random.integers(0, 2, (9, 63, 65), dtype=np.uint8)
    mask_y = random.random((9, 1, 65), np.float32)
    slots[-1] = mask_y if masks_y else None
    h0, c0 = (*given.state, None)[:2] if states else (None, None)
    made = Inputs(
        x=given.x,
        kernel=given.weights.kernel,
        recurrent_kernel=given.weights.recurrent_kernel,
        bias=random.normal(size=saved_per_unit(cell.name, cell.reset_after) * 65),
        h0=h0,
        c0=c0,
        running=random.random((9, 63)) < 0.7 if padded else None,
        x_mask=coins,
        h_mask=random.random((9, 1, cell.gates, 65)),
        slots=slots,
    )
    return made.each(lambda a: a.astype(np.float32) if a is not None and a.dtype == "f8" else a)


def by_numpy(flags: Flags, given: Inputs, dy: np.ndarray) -> list[np.ndarray]:
    made = callbacks.Forward("cpu", flags, SCALES)(given)
    back = callbacks.Backward("cpu", flags, SCALES, of_x=True)
    last_c = None if flags.cell != "LSTM" else made.last_c
    return [*made, *back(given, made.h, made.c, made.saved, made.last_h, last_c, dy)]


def by_pytorch(flags: Flags, given: Inputs, dy: np.ndarray) -> list[torch.Tensor]:
    on_torch = given.each(lambda a: None if a is None else torch.from_numpy(a))
    places, arrays = on_torch.flat()
    made = operators.forward(Settings("cpu", *flags, SCALES, places), arrays)
    last_h, last_c, h, c, saved, _ = made
    places, arrays = on_torch._replace(bias=None).flat()
    gradients = last_h, last_c if flags.cell == "LSTM" else None, torch.from_numpy(dy)
    settings = Settings("cpu", *flags, SCALES, places)
    return [*made, *operators.backward(settings, [*arrays, h, c, saved], *gradients, True, False)]


@pytest.mark.parametrize("share", ["samples", "units"])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@CELL
def test_any_number_of_threads_gives_pytorchs_bits(
    cell: Cell, options: dict, threads: int, share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(cell, **options)
    flags = Flags(cell.name, cell.reset_after, reverse="padded" in options)
    dh = np.random.default_rng(4).normal(size=(63, 9, 65)).astype(np.float32)
    expected = by_pytorch(flags, given, dh)
    monkeypatch.setattr(callbacks, "NUMPY", with_threads(threads))
    monkeypatch.setattr(pointers, "shares_units", lambda *_: share == "units" and threads > 1)
    found = by_numpy(flags, given, dh)
    running = None if given.running is None else given.running.T[..., None]
    for name, one, other in zip(NAMES, found, expected, strict=True):
        if running is not None and name == "saved":  # undefined in padding
            one, other = np.where(running, one, 0), torch.where(torch.tensor(running), other, 0)
        np.testing.assert_array_equal(one, other.numpy(), name)


def test_arrays_that_lie_otherwise_are_taken() -> None:
    """Turned around, read only, every other number of another."""
    cell = CELLS[0]
    flags, given = Flags(cell.name, True, False), inputs(cell)
    expected = callbacks.Forward("cpu", flags, SCALES)(given).h

    def apart(array: np.ndarray | None) -> np.ndarray | None:
        if array is None:
            return None
        wide = np.repeat(array, 2, axis=-1)[..., ::2]
        turned = np.asfortranarray(wide)
        turned.setflags(write=False)
        return turned

    np.testing.assert_array_equal(
        callbacks.Forward("cpu", flags, SCALES)(given.each(apart)).h, expected
    )


def test_what_does_not_fit_is_refused() -> None:
    cell = CELLS[0]
    flags, given = Flags(cell.name, True, False), inputs(cell)
    for wrong in (
        given._replace(h0=given.h0[:1]),
        given._replace(kernel=given.kernel.astype(np.float64)),
        given._replace(running=np.ones((9, 63), np.uint8)),
        given._replace(c0=None),
        given._replace(h0=None),
    ):
        with pytest.raises(LapseError, match="needs"):
            callbacks.Forward("cpu", flags, SCALES)(wrong)


def test_as_many_threads_as_processors() -> None:
    threads, parallel_for = NUMPY.threads()
    assert threads >= 1 and parallel_for == 0
