"""One example of each published form, for lists, tables and benchmarks."""

from __future__ import annotations

from lapse.core.forms import FORMS, Form, KerasDropout


def examples() -> tuple[Form, ...]:
    """Each form at its default rates; KerasDropout, whose defaults drop nothing, at 0.5."""
    return tuple(KerasDropout(0.5, 0.5) if form is KerasDropout else form() for form in FORMS)
