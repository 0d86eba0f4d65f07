"""The frameworks whose arrays engines take; each answers what `engines.Framework` asks."""

from __future__ import annotations

from importlib import import_module

from lapse.engines import Framework


def named(name: str) -> Framework:
    """The backend of "torch", "jax" or "tensorflow", which is imported only then."""
    backend: Framework = import_module(f"lapse.backends.{name}").BACKEND
    return backend
