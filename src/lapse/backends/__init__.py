"""The frameworks whose arrays the engines take, each as an `engines.Framework`."""

from __future__ import annotations

from importlib import import_module

from lapse.engines import Framework


def named(name: str) -> Framework:
    """The backend of "torch", "jax" or "tensorflow", imported when it is needed."""
    backend: Framework = import_module(f"lapse.backends.{name}").BACKEND
    return backend
