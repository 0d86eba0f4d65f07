"""`keras.layers.Embedding` that drops word types."""

from __future__ import annotations

from functools import reduce
from operator import mul
from typing import Any

import keras
from keras import ops

from lapse.core.noise import collect, text_of
from lapse.core.plan import check_rows, expected_rows
from lapse.keras.backend import draw_rows, next_seed
from lapse.keras.keep_noise import KeepsNoise


@keras.saving.register_keras_serializable(package="lapse")
class Embedding(KeepsNoise, keras.layers.Embedding):
    """`keras.layers.Embedding` with `noise=`: whole rows of the table are dropped in training.

    Args:
        noise: `lapse.EmbeddingDropout(rate)`, or terms at the site emb as text ("emb:.1@BV").
        seed: of its `keras.random.SeedGenerator`.

    All other arguments are Keras's. A dropped word is dropped wherever it occurs: in the whole
    batch, or per sample where the term has the axis B.

    Raises:
        LapseError: for noise at another site.
    """

    def __init__(self, *args: Any, noise: Any = None, seed: Any = None, **kwargs: Any) -> None:
        terms = collect(noise)
        check_rows(terms)
        self.seed = seed
        super().__init__(*args, **kwargs)
        self.terms = terms
        self.noise = text_of(terms)
        self.expected = expected_rows(terms)

    def build(self, input_shape: Any = None) -> None:
        # Here, because with weights= Keras builds the layer in its constructor, and tracks nothing
        # that is set afterwards.
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        super().build(input_shape)

    @property
    def noisy(self) -> bool:
        return bool(self.terms)

    def call(self, inputs: Any, training: bool = False, keep_noise: bool = False) -> Any:
        """Looks up rows.

        Args:
            inputs: (batch, ...) whole numbers in [0, input_dim).
            training: whether to drop.
            keep_noise: whether to drop in evaluation too; see `lapse.keras.LSTM`.

        Returns:
            (batch, ..., output_dim).
        """
        rows = super().call(inputs)
        if not (self.terms and self.draws(inputs, training, keep_noise)):
            return rows * self.expected
        batch, *shape = ops.shape(inputs)
        kept = draw_rows(
            self.terms,
            next_seed(self.seed_generator),
            self.compute_dtype,
            batch=batch,
            vocabulary=self.input_dim,
        )
        ids = ops.cast(inputs, "int32")
        if kept.shape[0] == 1:
            factors = ops.take(kept[0], ids)
        else:
            flat = ops.reshape(ids, (batch, reduce(mul, shape, 1)))
            factors = ops.reshape(ops.take_along_axis(kept, flat, axis=1), (batch, *shape))
        return rows * factors[..., None]

    def compute_output_spec(
        self, inputs: Any, training: bool = False, keep_noise: bool = False
    ) -> Any:
        return super().compute_output_spec(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "noise": self.noise, "seed": self.seed}
