"""`keras.layers.LSTM`, `GRU` and `SimpleRNN` with `noise=`; all else is as in Keras.

`engines.choose` picks the engine that runs a call.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from lapse.core.errors import LapseError
from lapse.core.masks import Masks, check_masks
from lapse.core.plan import STATES, Plan
from lapse.engines import Call, Choice, asked_for, check_option, choose, engine_for
from lapse.keras.backend import BACKEND, activations, draw, exporting, next_seed, stored_weights
from lapse.keras.noise_arguments import Noisy
from lapse.keras.private import NoMasksOfKeras, get_keras_mask


class _Passed(NamedTuple):
    """What `call` passes to `inner_loop` in place of Keras's padding mask."""

    padding: Any
    masks: Masks | None


class _Recurrent(NoMasksOfKeras, Noisy):
    """In front of a Keras layer: its loop with noise."""

    cell: Any
    built: bool
    name: str
    units: int
    compute_dtype: str
    go_backwards: bool
    return_sequences: bool
    stateful: bool
    zero_output_for_mask: bool

    def __init__(self, *args: Any, engine: str = "auto", **kwargs: Any) -> None:
        check_option(engine)
        super().__init__(*args, **kwargs)
        self.engine = engine
        if getattr(self, "use_cudnn", None) is True:
            raise LapseError(
                f"use_cudnn=True was given; {type(self).__name__} of lapse has no cuDNN kernel; "
                "leave it out, or write 'auto' or False."
            )
        # Bidirectional would run both layers on cuDNN, which has no noise.
        self.use_cudnn = False
        usual = not any(activations(self.cell).values())
        if usual and asked_for(engine)[0] != "reference" and not BACKEND.compiles_engines:
            self.supports_jit = False

    def draw_masks(self, batch: Any, timesteps: Any, seed: Any = None) -> Masks:
        """Draws the masks of one training call.

        Args:
            batch, timesteps: the sizes of the input.
            seed: a whole number in [0, 2**64); by default the next one of the layer's own
                `keras.random.SeedGenerator`.

        Returns:
            One array for each slot in use: (batch or 1, timesteps or 1, gates or 1, width or 1),
            for W and U (rows or 1, columns or 1). Timesteps are those of the input, also where the
            layer goes backwards.

        Raises:
            LapseError: when the layer is not built yet.
        """
        self._know_sizes()
        words = next_seed(self.cell.seed_generator) if seed is None else seed
        return draw(self.plan, words, self.compute_dtype, **self._sizes(batch, timesteps))

    def plans(self) -> list[tuple[Plan, dict[str, int]]]:
        """The plan of the layer and its sizes, for `lapse.explain`."""
        self._know_sizes()
        return [(self.plan, {"features": self.cell.kernel.shape[0], "units": self.units})]

    def choices(self, batch: int, timesteps: int, training: bool) -> list[Choice]:
        """The engine of the layer for an input of these sizes, and why it is chosen."""
        self._know_sizes()
        x = ops.zeros((batch, timesteps, self.cell.kernel.shape[0]), self.compute_dtype)
        return [choose(self._call(x, None, training, None, None), self.engine)]

    def _know_sizes(self) -> None:
        if not self.built:
            raise LapseError(
                f"{self.name} doesn't know its number of features yet; call it or build it first."
            )

    def _sizes(self, batch: Any, timesteps: Any) -> dict[str, Any]:
        return {
            "batch": batch,
            "timesteps": timesteps,
            "features": self.cell.kernel.shape[0],
            "units": self.units,
            # The two layers inside Bidirectional have one seed; this keeps their masks apart.
            "direction": int(self.go_backwards),
        }

    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool = False,
        masks: Masks | None = None,
        keep_noise: bool = False,
    ) -> Any:
        """Runs the layer.

        Args:
            sequences: (batch, timesteps, features).
            initial_state: list of (batch, units), one for each state.
            mask: (batch, timesteps) booleans, False where a step is padding.
            training: whether to draw noise.
            masks: drop masks from `draw_masks`, used in training and evaluation alike.
            keep_noise: whether to draw in evaluation too; training=True means it where a layer is
                called to make a functional model.

        Raises:
            LapseError: for masks that don't fit.
        """
        if mask is None and masks is not None and initial_state is None:
            # Keras passes on the padding of Masking and Embedding only to a call with one tensor.
            # Beside masks=, which it doesn't know, padding holds; beside initial_state= it is lost
            # as in Keras, so that a model converted to or from Keras predicts the same.
            mask = get_keras_mask(sequences)
        passed = _Passed(mask[0] if isinstance(mask, (list, tuple)) else mask, masks)
        return super().call(  # type: ignore[misc]
            sequences,
            initial_state,
            mask=passed,
            training=self.draws(sequences, training, keep_noise),
        )

    def inner_loop(
        self, sequences: Any, initial_state: Any, mask: _Passed, training: bool = False
    ) -> tuple[Any, Any, list]:
        running, given = mask
        if running is not None:
            running = ops.cast(running, "bool")
        sequences = ops.cast(sequences, self.compute_dtype)  # Keras leaves integers as they are
        state = tuple(initial_state)
        self._check(sequences, running, state, given)
        if given is not None:
            batch, timesteps, features = sequences.shape
            sizes = {"batch": batch, "timesteps": timesteps, "features": features}
            check_masks(given, self.plan, **sizes, units=self.units)
        if self.stateful:  # Keras assigns the new state in place, under PyTorch's autograd
            state = tuple(map(ops.copy, state))
        draws = given is None and training and bool(self.plan.slots)
        outputs, last = self._unroll(self._call(sequences, given, draws, state, running))
        if running is not None and self.zero_output_for_mask:
            outputs = ops.where(running[..., None], outputs, 0)
        if not self.go_backwards:
            return outputs[:, -1], outputs, list(last)
        # Keras gives the steps in the order in which they ran.
        turned = ops.flip(outputs, axis=1) if self.return_sequences else outputs
        return outputs[:, 0], turned, list(last)

    def _call(self, x: Any, masks: Any, training: bool, state: Any, running: Any) -> Call:
        leaving = exporting()
        return Call(
            BACKEND,
            self.cell_name,
            x,
            stored_weights(self.cell, copied=leaving),
            self.plan,
            masks,
            training,
            state,
            running,
            reset_after=getattr(self.cell, "reset_after", True),
            reverse=self.go_backwards,
            **activations(self.cell),
            exporting=leaving,
        )

    @BACKEND.as_written
    def _unroll(self, call: Call) -> tuple[Any, tuple]:
        # On the device meta Keras computes shapes, on tensors without values.
        asked = "reference" if BACKEND.device(call.x) == "meta" else self.engine
        engine = engine_for(call, asked)
        if call.masks is not None:
            masks = call.masks
        elif call.training:
            batch, timesteps, _ = ops.shape(call.x)
            seed = next_seed(self.cell.seed_generator)
            masks = engine.draw(call, seed, **self._sizes(batch, timesteps))
        else:
            masks = self.plan.expected
        return engine.run(call, masks)

    def _check(self, sequences: Any, running: Any, state: tuple, given: Any) -> None:
        """Raises `LapseError` for arguments of the call that do not fit."""
        batch, timesteps, _ = sequences.shape
        if len(state) != (needed := STATES[self.cell_name]):
            raise LapseError(
                f"initial_state of {self.name} has {_tensors(len(state))}; {type(self).__name__} "
                f"takes {_tensors(needed)}, each (batch, {self.units})."
            )
        wanted: list[tuple[str, Any, tuple]] = [
            ("the input", sequences, (batch, timesteps, self.cell.kernel.shape[0]))
        ]
        wanted += [("initial_state", part, (batch, self.units)) for part in state]
        if running is not None:
            wanted.append(("mask", running, (batch, timesteps)))
        for name, value, shape in wanted:
            found = tuple(value.shape)
            fits = len(found) == len(shape) and all(
                None in pair or pair[0] == pair[1] for pair in zip(found, shape, strict=True)
            )
            if not fits:
                raise LapseError(f"{name} of {self.name} has shape {found}; it needs {shape}.")
        if given is not None and not isinstance(given, Masks):
            raise LapseError(
                f"masks= has the type {type(given).__name__}, which is not lapse.Masks; pass what "
                "draw_masks returns."
            )

    def get_config(self) -> dict[str, Any]:
        # SimpleRNN's own leaves the seed out.
        return {**super().get_config(), "seed": self.cell.seed, "engine": self.engine}


def _tensors(count: int) -> str:
    return f"{count} tensor{'' if count == 1 else 's'}"


@keras.saving.register_keras_serializable(package="lapse")
class LSTM(_Recurrent, keras.layers.LSTM):
    """`keras.layers.LSTM` with any noise inside; all arguments of Keras's, and by keyword:

    Args:
        noise: a form (`lapse.Zoneout()`), terms as text ("x:.4@BF U:.5@IO"), or a list of these.
        engine: what runs the layer: "auto" chooses, "cpu" is the C++ kernels, "native" (on PyTorch)
            PyTorch's own kernel, "reference" the plain loop, which XLA compiles on TensorFlow. For
            layers that say "auto", the environment variable LAPSE_ENGINE can name one.

    `dropout` and `recurrent_dropout` mean what they mean in Keras 3: one mask per sequence, for
    both per gate as soon as `recurrent_dropout` is above 0. Rates outside [0, 1) raise.

    Raises:
        LapseError: for noise that this cell can't have; at a call, for an engine that can't run it.
    """

    cell_name = "LSTM"


@keras.saving.register_keras_serializable(package="lapse")
class GRU(_Recurrent, keras.layers.GRU):
    """`keras.layers.GRU` with `noise=`; see `LSTM`."""

    cell_name = "GRU"


@keras.saving.register_keras_serializable(package="lapse")
class SimpleRNN(_Recurrent, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN` with `noise=`; see `LSTM`."""

    cell_name = "SimpleRNN"
