"""The frameworks whose arrays engines take: one `engines.Framework` each."""

from __future__ import annotations

from importlib import import_module

from lapse.engines import Framework


def named(name: str) -> Framework:
    """The backend of "torch", "jax" or "tensorflow", imported when it is asked for."""
    backend: Framework = import_module(f"lapse.backends.{name}").BACKEND
    return backend
