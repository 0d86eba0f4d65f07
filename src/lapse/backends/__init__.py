"""The frameworks whose arrays engines take, a file each; all answer what `engines.Framework` asks."""

from __future__ import annotations

from importlib import import_module

from lapse.engines import Framework

FRAMEWORKS = ("torch", "jax", "tensorflow")


def named(name: str) -> Framework:
    """The backend of a framework, which is imported then."""
    backend: Framework = import_module(f"lapse.backends.{name}").BACKEND
    return backend
