"""Tasks by name."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rpo.envs.ant import Ant, AntSettings
from rpo.envs.anymal import Anymal, AnymalSettings
from rpo.envs.base import Env
from rpo.envs.hand import Hand
from rpo.envs.hand_model import HandSettings
from rpo.envs.hopper import Hopper, HopperSettings
from rpo.envs.humanoid import Humanoid, HumanoidSettings
from rpo.envs.randomization import FIELDS
from rpo.envs.robot_file import SUFFIXES, RobotFile, RobotSettings, is_description
from rpo.envs.settings import TaskSettings
from rpo.errors import SettingsError, unknown

_TASKS: dict[str, tuple[Callable[[Any], Env], type[TaskSettings]]] = {
    "hopper": (Hopper, HopperSettings),
    "ant": (Ant, AntSettings),
    "anymal": (Anymal, AnymalSettings),
    "humanoid": (Humanoid, HumanoidSettings),
    "hand": (Hand, HandSettings),
}


def names() -> tuple[str, ...]:
    """Names of the shipped tasks."""
    return tuple(_TASKS)


def is_known(task: str) -> bool:
    """Whether a task can be made from its name: a shipped one, or a robot's description."""
    return task in _TASKS or is_description(task)


def make(task: str, **settings: Any) -> Env:
    """The task of this name.

    Args:
        task: one of `names()`, or the path of a robot's description (MJCF, URDF) that is to walk.
        settings: fields of `settings_class(task)` that differ from their defaults.

    Raises:
        ValueError: in one line, if the task or a setting is unknown (lists the known ones), a
            value is out of range, or a described robot cannot be simulated or cannot walk.
    """
    settings_type = settings_class(task)
    known = [field.name for field in dataclasses.fields(settings_type)]
    for name in settings:
        if name not in known:
            raise ValueError(unknown(f"setting of {task}", name, known))
    if is_description(task):
        return RobotFile(task, settings_type(**settings))
    return _TASKS[task][0](settings_type(**settings))


def made(task: str | Env, settings: dict[str, Any]) -> Env:
    """A shipped task with its settings, or an environment as it is.

    Raises:
        ValueError: see `make`; also if there are settings for an environment.
    """
    if isinstance(task, str):
        return make(task, **settings)
    if settings:
        raise SettingsError(f"{task.spec.name} is made already; leave out {', '.join(settings)}")
    return task


def settings_class(task: str) -> type[Any]:
    """The frozen dataclass that holds every figure of a task.

    Raises:
        ValueError: if there is no such task.
    """
    if is_description(task):
        return RobotSettings
    if task not in _TASKS:
        told = unknown("task", task, names())
        if os.sep in task or "." in task:
            ends = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
            told += f"; a robot's description ends in {ends}, a task of your own is FILE.py:CLASS"
        raise ValueError(told)
    return _TASKS[task][1]


def describe(task: str) -> dict[str, str]:
    """A task's sizes, the terms of its reward, and every setting with its default, by name.

    Raises:
        ValueError: if there is no such task.
    """
    env: Any = make(task)
    spec, settings = env.spec, env.settings
    about = (type(env).__doc__ or "").splitlines()[0]
    names = [field.name for field in dataclasses.fields(settings)]
    names.sort(key=lambda name: name in FIELDS)  # those of the randomisation last
    return {
        "task": task,
        "about": about,
        "robot": f"{env.model.nq} coordinates, {env.model.nv} velocities",
        "observation": f"{spec.observation_size} numbers: {_some(spec.observation_names)}",
        "actions": f"{spec.action_size}: {_some(spec.action_names)}; 1 is {spec.action_units[0]}",
        "episode": f"{spec.episode_length} steps of {spec.control_dt:.4g} s",
        "reward": ", ".join(_reward_terms(env)),
    } | {name: _shown(getattr(settings, name)) for name in names}


def _reward_terms(env: Any) -> list[str]:
    """Names of what the reward is the sum of; nothing is computed."""

    names: list[str] = []

    def trace(key: Array) -> None:
        state = env.reset(key, 1).physics
        names.extend(env.reward_terms(state, jnp.zeros((1, env.spec.action_size)), state))

    jax.eval_shape(trace, jax.random.key(0))
    return names


def _some(names: tuple[str, ...]) -> str:
    """The names, or the first and the last of many."""
    return ", ".join(names if len(names) <= 8 else (*names[:6], "...", names[-1]))


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
