"""What can go wrong for reasons that the user can act on. Every message is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class HasPath(Protocol):
    """A run directory, as far as an error needs to know it."""

    path: Path


class SettingsError(ValueError):
    """A task, method, preset or setting that does not exist, or a value out of range."""


class RunError(RuntimeError):
    """A run directory that is missing, foreign, or in use."""


class CheckpointError(RunError):
    """A checkpoint that is missing, truncated, or belongs to another run."""


class TrainingError(RuntimeError):
    """Training could not go on; the message names the cause and what is left."""


class TrainingInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; the run was saved first.

    Args:
        run: which `resume` continues.
    """

    def __init__(self, run: HasPath) -> None:
        super().__init__(f"interrupted; resume with: rpo train --resume {run.path}")
        self.run = run
