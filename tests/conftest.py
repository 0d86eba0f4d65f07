"""How many configurations hypothesis draws: 500 in `make test`, the same ones each time, and 10,000
new ones in `make fuzz`, which prints how to repeat one that fails.

`strategies.share` says which test has how many of them.
"""

import os

from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS

# Before anything imports NumPy: the arrays here are so small that threads only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Hypothesis's own way to draw. Under its own name, five of six examples would be earlier ones with
# a value or two copied from elsewhere in them; a backend by another name draws each anew.
AVAILABLE_PROVIDERS["anew"] = "hypothesis.internal.conjecture.providers.HypothesisProvider"

# Layers and their gradients take longer than what hypothesis was made for.
settings.register_profile(
    "test",
    max_examples=500,
    backend="anew",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "fuzz", settings.get_profile("test"), max_examples=10_000, derandomize=False, print_blob=True
)
settings.load_profile("test")
