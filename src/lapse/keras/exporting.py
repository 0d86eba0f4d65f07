"""Whether a call is being written down to run elsewhere, where neither lapse nor Python is."""

from __future__ import annotations

import sys

import keras

# Whose functions run a model only to write down what it does.
_EXPORTERS = (
    "keras.src.export",  # model.export and keras.export.ExportArchive, in any format
    "jax._src.export",  # jax.export
    "jax.experimental.jax2tf",
    "tensorflow.python.saved_model",  # tf.saved_model.save
)


def exporting() -> bool:
    """Whether the layer that asks is being exported: called to be traced, not to be run.

    PyTorch says so itself. JAX and TensorFlow trace to export as they trace to run, and Keras keeps
    no state that tells the two apart, so there it is read off the functions that are being called.
    """
    if keras.backend.backend() == "torch":
        import torch

        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        return tracing or torch.compiler.is_exporting()
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__", "").startswith(_EXPORTERS):
            return True
    return False
