"""What can go wrong for reasons that the user can act on. Every message is one line, but a
`TaskError`'s."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class SettingsError(ValueError):
    """A task, method, preset or setting that does not exist, or a value out of range."""


class TaskError(SettingsError):
    """A user's own task is wrong; up to three lines: what, where, and what to do."""


class RunError(RuntimeError):
    """A run directory that is missing, foreign, or in use."""


class CheckpointError(RunError):
    """A checkpoint that is missing, truncated, or belongs to another run."""


class TrainingError(RuntimeError):
    """Training could not go on; the message names the cause and what is left."""


class TrainingInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; the run was saved first.

    Args:
        run: the `rpo.training.Run`, which `rpo.train(resume=run.path)` continues.
    """

    def __init__(self, run: Any) -> None:
        super().__init__(f"interrupted; resume with: {run.resume_command}")
        self.run = run


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> str:
    """What to say of a name that does not exist: the nearest one, and all there are.

    Args:
        kind: of thing: "task", "setting".
        name: that was given.
        known: the others.
        where: they are known, with its preposition.
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.65)
    maybe = f" (did you mean {close[0]}?)" if close else ""
    there = f" {where}" if where else ""
    return f"unknown {kind} {name!r}{maybe}{there}; known: {', '.join(known)}"


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split())
