"""All private parts of Keras that lapse uses; a new version of Keras may break them."""

from __future__ import annotations

import sys
from typing import Any

from keras.src.backend import AutocastScope
from keras.src.backend import get_keras_mask as get_keras_mask

# Modules whose functions call a model to trace it for another program.
_EXPORTERS = (
    "keras.src.export",  # model.export and keras.export.ExportArchive, in any format
    "jax._src.export",  # jax.export
    "jax.experimental.jax2tf",
    "tensorflow.python.saved_model",  # tf.saved_model.save
)


def called_to_export() -> bool:
    """Whether one of the functions that are being called exports a model.

    JAX and TensorFlow trace an export as they trace a run, and Keras has no state that tells the
    two apart.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__", "").startswith(_EXPORTERS):
            return True
    return False


def call_context(layer: Any) -> Any:
    """The context of the outermost call that a layer is part of; it holds `training`."""
    context = layer._get_call_context()
    if "training" not in vars(context):  # every call sets it, so this context is a new one
        layer._maybe_reset_call_context()
    return context


def uncast() -> Any:
    """In its block, variables are read in their own type, also under a policy of mixed types."""
    return AutocastScope(None)


def layers_inside(layer: Any, **options: Any) -> list[Any]:
    """A layer and all layers inside it, at any depth."""
    return list(layer._flatten_layers(**options))


def seed_generators(layer: Any) -> list[Any]:
    """Those of the layer itself."""
    return list(layer._seed_generators)


class NoMasksOfKeras:
    """Mixin in front of a Keras recurrent layer: its loop draws no masks of its own."""

    def _maybe_config_dropout_masks(self, *args: Any) -> None:
        """Keras would draw masks here, also at evaluation."""

    def _maybe_reset_dropout_masks(self, *args: Any) -> None:
        """Does nothing, because the layer keeps no mask."""
