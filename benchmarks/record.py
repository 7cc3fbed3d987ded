"""What the measurements have in common: a clock, a table to read, and a file to keep."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any


def best_of(run: Callable[[], Any], repeat: int, seconds: float = math.inf) -> float:
    """Shortest of several calls, in seconds; the caller has made one to warm up.

    Args:
        run: what is called.
        repeat: so many times, at least once.
        seconds: no further call begins after so long.
    """
    durations: list[float] = []
    while not durations or (len(durations) < repeat and sum(durations) < seconds):
        start = time.perf_counter()
        run()
        durations.append(time.perf_counter() - start)
    return min(durations)


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def write_record(path: Path, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Writes the measurements, and with what they were taken, as JSON."""
    import rpo  # not before: what starts other processes must not have JAX loaded
    from rpo.runtime import usable_cores

    record = {
        "command": " ".join(["python", *sys.argv]),
        "date": str(date.today()),
        "hardware": f"{platform.machine()}, {usable_cores()} cores",
        "versions": {name: version(name) for name in ("jax", "jaxlib", "numpy")}
        | {"rpo": rpo.__version__},
    }
    path.write_text(json.dumps(record | facts | {"rows": rows}, indent=1) + "\n")
