"""Finished runs on disk, each under the hash of all that decides its numbers.

A run is written whole or not at all, so a study killed at any moment goes on where it was, and
studies that share runs share their files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lapse.compare.result import Run
from lapse.files import write_whole


class Ledger:
    """The runs in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, config: dict[str, Any]) -> Path:
        text = json.dumps(config, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"

    def read(self, config: dict[str, Any]) -> Run | None:
        """The run of this configuration; None if it isn't there, or isn't a whole record of it."""
        try:
            record = json.loads(self.path(config).read_text(encoding="utf-8"))
            if record["config"] != config:
                return None
            return Run.from_fields(record["run"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, config: dict[str, Any], run: Run) -> None:
        record = {"config": config, "run": asdict(run)}
        write_whole(self.path(config), json.dumps(record, indent=1) + "\n")
