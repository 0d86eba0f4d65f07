"""The kernels: which one runs, and why."""

from lapse.kernels.dispatch import check_kernel as check_kernel
from lapse.kernels.dispatch import choose as choose
