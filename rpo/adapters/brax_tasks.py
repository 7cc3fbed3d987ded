"""Brax's environments as tasks: `brax:ant`, `brax:halfcheetah`, ..., on any of its engines."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias

from rpo.adapters.foreign import ForeignTask, as_task, imported, require_length

Backend: TypeAlias = Literal["generalized", "positional", "spring", "mjx"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BraxSettings:
    """Settings of a Brax environment.

    Raises:
        SettingsError: if the time limit does not lie between 1 and 10^8.
    """

    backend: Backend = "generalized"
    """Which of Brax's engines."""
    episode_length: int = 1000
    """Steps after which an episode is truncated."""

    def __post_init__(self) -> None:
        require_length(self.episode_length)


SETTINGS = BraxSettings
"""Of all environments."""


def names() -> list[str]:
    """Of the environments that Brax has registered."""
    registered: dict[str, Any] = _brax()._envs  # it has no public list
    own = (name for name in registered if not name.startswith("rpo_"))
    return sorted(name for name in own if name != "fast")  # a fake for Brax's tests


def make(name: str, settings: BraxSettings) -> ForeignTask:
    """Brax's environment of this name as a task.

    Raises:
        SettingsError: if it cannot serve.
    """
    env = _brax().get_environment(name, backend=settings.backend)
    return as_task(f"brax:{name}", env, settings.episode_length)


def _brax() -> Any:
    return imported("brax.envs", "brax")
