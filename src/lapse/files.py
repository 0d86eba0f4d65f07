"""Files for results: tried before the work, and written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lapse.core.errors import LapseError


def ready(folder: Path) -> Path:
    """The folder, made where there is none, and tried."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(path: Path, error: OSError) -> LapseError:
    return LapseError(f"{path} can't be written: {error.strerror}; give --out a place that can.")


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it is never seen half-written, not even after a crash."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise _unwritable(path, error) from None
