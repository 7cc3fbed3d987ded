"""What a training tells while it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from rpo.training.run import Run


@dataclasses.dataclass(frozen=True)
class Progress:
    """What callbacks are told after every iteration.

    Args:
        run: the run directory.
        iteration: finished iterations.
        total_iterations: of the whole run.
        env_steps: environment steps of each seed, those of all its candidates together.
        seconds: of training, earlier sessions included.
        metrics: by name, one value per seed.
        ended: the training has ended; told once more, after the last files are written.
    """

    run: Run
    iteration: int
    total_iterations: int
    env_steps: int
    seconds: float
    metrics: dict[str, np.ndarray]
    ended: bool = False


Callback = Callable[[Progress], None]
