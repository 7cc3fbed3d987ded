"""Looking at trainings and policies, and taking them away: curves, pictures, pages, files."""

from __future__ import annotations

from rpo.errors import RunError
from rpo.training.progress import Progress


def draw_curve(progress: Progress) -> None:
    """A training callback: writes the run's `curve.png` when the training has ended."""
    if not progress.ended:
        return
    from rpo.show.curves import curves_of, plot_runs  # slow: only those who draw wait for it

    try:
        if curves_of(progress.run):
            plot_runs([progress.run], progress.run.path / "curve.png")
    except RunError:
        return  # interrupted before the first iteration: there is nothing to draw
