"""`rpo.train`: the training program with its curve drawn at the end."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from rpo.envs.base import Env
from rpo.training import Callback, Progress, Run, RunError
from rpo.training import train as train_without_curve


def draw_curve(progress: Progress) -> None:
    """A training callback: writes the run's `curve.png` when the training has ended."""
    if not progress.ended:
        return
    from rpo.report.curves import curves_of, plot_runs

    try:
        if curves_of(progress.run):
            plot_runs([progress.run], progress.run.path / "curve.png")
    except RunError:
        return  # interrupted before the first iteration: there is nothing to draw


@functools.wraps(train_without_curve)
def train(
    task: str | Env | None = None,
    algorithm: str = "rpo",
    *,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Run:
    """See `rpo.training.train`."""
    return train_without_curve(task, algorithm, callbacks=(*callbacks, draw_curve), **settings)
