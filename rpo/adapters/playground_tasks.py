"""MuJoCo Playground's environments as tasks: `playground:CheetahRun` and so on."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias

from rpo.adapters.foreign import ForeignTask, as_task, imported, require_length

Implementation: TypeAlias = Literal["jax", "warp"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlaygroundSettings:
    """Settings of a Playground environment.

    Raises:
        SettingsError: if the time limit does not lie between 1 and 10^8.
    """

    implementation: Implementation = "jax"
    """Of MJX: `warp` has no derivative."""
    episode_length: int | None = None
    """Actions after which an episode is truncated; None takes the environment's own."""

    def __post_init__(self) -> None:
        if self.episode_length is not None:
            require_length(self.episode_length)


SETTINGS = PlaygroundSettings
"""Of all environments."""


def names() -> list[str]:
    """Of the environments that Playground has registered."""
    return sorted(_registry().ALL_ENVS)


def make(name: str, settings: PlaygroundSettings) -> ForeignTask:
    """Playground's environment of this name as a task.

    The first use of one of its robots makes Playground clone their descriptions with git.

    Raises:
        SettingsError: if it cannot serve.
    """
    config = _registry().get_default_config(name)
    changes = {"impl": settings.implementation} if "impl" in config else {}
    env = _registry().load(name, config=config, config_overrides=changes)
    repeat = int(config.get("action_repeat", 1))
    length = settings.episode_length or int(config.get("episode_length", 1000)) // repeat
    return as_task(f"playground:{name}", env, length, repeat)


def _registry() -> Any:
    return imported("mujoco_playground", "playground").registry
