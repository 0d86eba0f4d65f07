"""A pytest plugin: the tests run on kernels that were built with a sanitizer; see `make sanitize`.

LAPSE_SANITIZED names the folder with `_kernels` and `threads.so`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

folder = Path(os.environ["LAPSE_SANITIZED"])
(path,) = (folder / "lapse" / "engines" / "cpu").glob("_kernels.*.so")
spec = importlib.util.spec_from_file_location("lapse.engines.cpu._kernels", path)
assert spec is not None and spec.loader is not None
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["lapse.engines.cpu._kernels"] = module

from lapse.backends.torch import private  # noqa: E402
from lapse.engines.cpu.loading import extension  # noqa: E402

assert extension() is module
threads = ctypes.CDLL(str(folder / "threads.so"))
address = ctypes.cast(threads.parallel_for, ctypes.c_void_p).value
private.parallel_for = lambda: address  # type: ignore[assignment]
