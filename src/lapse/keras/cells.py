"""`keras.layers.LSTMCell`, `GRUCell` and `SimpleRNNCell` with `noise=`, for `keras.layers.RNN`.

A cell gets one step at a time and does not know which one, so its noise must be constant over time;
noise drawn at each step needs a layer. A cell does not know its direction either: where
`Bidirectional` copies a cell with a seed, both directions have the same masks, unless its
`backward_layer` has another seed.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from lapse.core import cells
from lapse.core.errors import LapseError
from lapse.core.masks import Masks, check_masks
from lapse.keras.backend import BACKEND, activations, draw, next_seed, weights
from lapse.keras.noise_arguments import Noisy
from lapse.keras.private import call_context


class _Cell(Noisy):
    """In front of a Keras cell: its step with noise."""

    kernel: Any
    units: int
    compute_dtype: str
    seed_generator: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for term in self.plan.terms:
            if "T" in term.axes:
                raise LapseError(
                    f"{term} draws a mask at each step, and a cell does not know its step; "
                    f"write lapse.keras.{self.cell_name}(..., noise='{term}')."
                )

    def draw_masks(self, batch: Any, seed: Any = None) -> Masks:
        """Draws the masks of one sequence, to be passed to each of its steps as `masks=`.

        Args:
            batch: number of samples.
            seed: a whole number in [0, 2**64); by default the next one of the cell's own
                `keras.random.SeedGenerator`.
        """
        return draw(
            self.plan,
            next_seed(self.seed_generator) if seed is None else seed,
            self.compute_dtype,
            batch=batch,
            timesteps=1,
            features=self.kernel.shape[0],
            units=self.units,
        )

    def call(
        self,
        inputs: Any,
        states: Any,
        training: bool = False,
        masks: Masks | None = None,
        keep_noise: bool = False,
    ) -> tuple[Any, Any]:
        """One step.

        Args:
            inputs: (batch, features).
            states: one (batch, units) or a list of them.
            training: whether to draw noise. Outside `keras.layers.RNN` each call draws new masks
                unless `masks` is given.
            masks: drop masks from `draw_masks`.
            keep_noise: as for `lapse.keras.LSTM`.

        Returns:
            The output (batch, units), and the new states, nested like `states`.
        """
        nested = isinstance(states, (list, tuple))
        y, state = cells.unroll(
            self.cell_name,
            ops.cast(inputs[:, None], self.compute_dtype),
            weights(self),
            self._masks(inputs, self.draws(inputs, training, keep_noise), masks),
            initial_state=tuple(states) if nested else (states,),
            reset_after=getattr(self, "reset_after", True),
            **activations(self),
            backend=BACKEND,
        )
        return y[:, 0], list(state) if nested else state[0]

    def _masks(self, inputs: Any, training: bool, given: Masks | None) -> Masks:
        if given is not None:
            check_masks(
                given,
                self.plan,
                batch=inputs.shape[0],
                timesteps=1,
                features=self.kernel.shape[0],
                units=self.units,
            )
            return given
        if not (training and self.plan.slots):
            return self.plan.expected
        of_the_sequence = self._context().get(self._name)
        return of_the_sequence or self.draw_masks(ops.shape(inputs)[0])

    # keras.layers.RNN calls these two before and after its loop. In between, the masks are kept in
    # the context of its call, which ends even if the loop fails.
    def get_dropout_mask(self, step_input: Any) -> None:
        training = self._context().get("training")
        if self.plan.slots and self.draws(step_input, training):
            self._context()[self._name] = self.draw_masks(ops.shape(step_input)[0])

    def reset_dropout_mask(self) -> None:
        self._context().pop(self._name, None)

    @property
    def _name(self) -> str:
        return f"lapse_masks_{id(self)}"

    def _context(self) -> dict[str, Any]:
        values: dict[str, Any] = vars(call_context(self))
        return values

    def get_recurrent_dropout_mask(self, step_input: Any) -> None:
        """Does nothing: `get_dropout_mask` draws all masks."""


@keras.saving.register_keras_serializable(package="lapse")
class LSTMCell(_Cell, keras.layers.LSTMCell):
    """`keras.layers.LSTMCell` with `noise=`; see `lapse.keras.LSTM`."""

    cell_name = "LSTM"


@keras.saving.register_keras_serializable(package="lapse")
class GRUCell(_Cell, keras.layers.GRUCell):
    """`keras.layers.GRUCell` with `noise=`; see `lapse.keras.LSTM`."""

    cell_name = "GRU"


@keras.saving.register_keras_serializable(package="lapse")
class SimpleRNNCell(_Cell, keras.layers.SimpleRNNCell):
    """`keras.layers.SimpleRNNCell` with `noise=`; see `lapse.keras.LSTM`."""

    cell_name = "SimpleRNN"
