"""Looking at trainings and policies, and taking them away: curves, pictures, pages, files."""

from __future__ import annotations

import contextlib

from rpo.errors import RunError
from rpo.training.progress import Progress


def draw_curve(progress: Progress) -> None:
    """A training callback: writes the run's `curve.png` when the training has ended."""
    if not progress.ended:
        return
    from rpo.show.curves import plot_runs  # slow: only those who draw wait for it

    with contextlib.suppress(RunError):  # no episode has finished: there is nothing to draw
        plot_runs([progress.run], progress.run.path / "curve.png")
