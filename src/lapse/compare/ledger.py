"""Finished runs on disk, each stored under a hash of everything that determines its numbers.

A run is written atomically. A study that was killed therefore continues where it stopped, and
studies that have runs in common share their files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lapse.compare.result import Run
from lapse.files import write_atomically


class Ledger:
    """The runs in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, config: dict[str, Any]) -> Path:
        text = json.dumps(config, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"

    def read(self, config: dict[str, Any]) -> Run | None:
        """The run with this configuration; None if its file is missing or incomplete."""
        try:
            record = json.loads(self.path(config).read_text(encoding="utf-8"))
            if record["config"] != config:
                return None
            return Run.from_fields(record["run"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, config: dict[str, Any], run: Run) -> None:
        record = {"config": config, "run": asdict(run)}
        write_atomically(self.path(config), json.dumps(record, indent=1) + "\n")
