"""What to show of a run, as settings."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rpo.envs.base import Env
from rpo.errors import SettingsError

Checkpoint = Literal["last", "best", "all"]
MAX_ENVS = 256
LONGEST = 10**6
"""Seconds of an episode."""


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
        seconds: at most so much of what follows, above 0; all of it by default.

    Raises:
        SettingsError: if a figure is out of range.
    """

    seed: int | None = None
    checkpoint: Checkpoint = "last"
    envs: int = 1
    sampled: bool = False
    start: int = 0
    skip: float = 0.0
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("envs", self.envs, 1, MAX_ENVS),
            ("start", self.start, 0, 2**31 - 1),
            ("skip", self.skip, 0, LONGEST),
            ("seconds", 1 if self.seconds is None else self.seconds, 0, LONGEST),
        ):
            if not low <= value <= high:  # nor NaN
                raise SettingsError(f"{name} is {value}, must lie between {low} and {high:,}")
        if self.seconds == 0:
            raise SettingsError("seconds is 0, must be positive")

    def steps(self, env: Env) -> int | None:
        """How many steps of an episode to play; None for all."""
        if self.seconds is None:
            return None
        return max(round((self.skip + self.seconds) / env.spec.control_dt), 1)
