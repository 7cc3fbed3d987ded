"""What to show of a run, as settings."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rpo.envs.base import Env

Checkpoint = Literal["last", "best", "all"]


@dataclasses.dataclass(frozen=True)
class Scene:
    """What is shown.

    Args:
        seed: which of the run's seeds, the first by default.
        checkpoint: the newest policy, the one with the best training return, or (films only) those
            of all moments that the run has kept, side by side.
        envs: films only: so many environments side by side, each with a start of its own.
        sampled: act with noise, as in training.
        start: seed of the random starts and of the noise.
        skip: seconds of the episode to leave out at its start.
        seconds: at most so much of what follows, all of it by default.
    """

    seed: int | None = None
    checkpoint: Checkpoint = "last"
    envs: int = 1
    sampled: bool = False
    start: int = 0
    skip: float = 0.0
    seconds: float | None = None

    def steps(self, env: Env) -> int | None:
        """How many steps of an episode to play; None for all."""
        if self.seconds is None:
            return None
        return max(round((self.skip + self.seconds) / env.spec.control_dt), 0)
