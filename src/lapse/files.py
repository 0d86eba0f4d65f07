"""Result files: their folder is checked before the work, and they are written atomically."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lapse.core.errors import LapseError


def check_writable(folder: Path) -> None:
    """Creates the folder if needed, and raises LapseError if no file can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that nobody ever sees a part of it, even after a crash."""
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


def _unwritable(path: Path, error: OSError) -> LapseError:
    return LapseError(
        f"{path} can't be written: {error.strerror}; choose another location with --out."
    )
