"""Counts of a run of fuzzing, kept in a file while it goes on: whatever ends it, they are there."""

from __future__ import annotations

import json
import platform
import resource
import time
from datetime import date
from pathlib import Path
from typing import Any

from rpo.runtime import usable_cores
from rpo.training.provenance import git_state
from rpo.training.run_files import write_json

SECONDS = 60.0
"""Between two times that they are written."""


class Record:
    """One row of counts, in a file beside the rows of others.

    Args:
        path: of the file, None for none; where there is none yet, it is made.
        target: what is fuzzed.
        how: the command.
        number: seed.
    """

    def __init__(self, path: Path | None, target: str, how: str, number: int) -> None:
        self.path, self.begin, self.written = path, time.monotonic(), time.monotonic()
        state = git_state()
        self.row: dict[str, Any] = {
            "target": target,
            "how": how,
            "date": str(date.today()),
            "started": round(time.time(), 3),  # tells the row from others
            "commit": state["commit"][:7] if state else None,
            "seed": number,
            "hardware": f"{platform.machine()}, {usable_cores()} cores",
        }

    def tell(self, broken: str | None = None) -> dict[str, Any]:
        """Writes what has been counted so far.

        Args:
            broken: the promise that was, if one was.

        Returns:
            the row.
        """
        from tests.fuzz import targets

        target, self.written = self.row["target"], time.monotonic()
        taken, refused = (targets.counted[f"{target} {how}"] for how in ("taken", "refused"))
        self.row |= {
            "inputs": taken + refused + (broken is not None),
            "taken": taken,
            "broken_promises": int(broken is not None),
            "seconds": round(self.written - self.begin, 1),
            "processor_seconds": round(time.process_time(), 1),
            "slowest_seconds": round(targets.slowest.get(target, 0.0), 2),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
        if broken is not None:
            self.row["broken"] = broken
        if self.path is not None:
            kept = json.loads(self.path.read_text()) if self.path.exists() else {"rows": []}
            others = [row for row in kept["rows"] if row.get("started") != self.row["started"]]
            write_json(self.path, kept | {"rows": [*others, self.row]})
        return self.row

    def tell_now_and_then(self) -> None:
        """The same, if a minute has passed."""
        if time.monotonic() - self.written > SECONDS:
            self.tell()
