"""The kernels: which one runs, and why."""

from lapse.kernels.dispatch import choose as choose
