"""The commands that show a policy or take it away: their arguments, and what they print."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

RunOrTask = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]


@dataclasses.dataclass(frozen=True)
class ExportArguments:
    """Writes a policy as ONNX, checked on 1,000 observations before it is called written.

    Args:
        run: run directory, policy file, or the name of a task whose policy comes with rpo.
        output: ONNX file; by default policy.onnx in the run directory, or TASK.onnx here.
        seed: which of the run's seeds, the first by default.
        checkpoint: the newest policy, or the one with the best training return.
    """

    run: RunOrTask
    output: Path | None = None
    seed: int | None = None
    checkpoint: Literal["last", "best"] = "last"


def export(given: ExportArguments) -> int:
    """Runs `rpo export`."""
    from rpo.show.export import CHECKED_OBSERVATIONS, export_policy

    output = given.output or default_output(given.run, "policy", ".onnx")
    difference = export_policy(given.run, output, seed=given.seed, checkpoint=given.checkpoint)
    print(
        f"{output} (actions differ by at most {difference:.1e} over "
        f"{CHECKED_OBSERVATIONS:,} observations)"
    )
    return 0


def default_output(run: str, name: str, suffix: str) -> Path:
    """`name` in a run directory; elsewhere a file called like the source, where we are."""
    path = Path(run)
    return path / f"{name}{suffix}" if path.is_dir() else Path(f"{path.stem}{suffix}")
