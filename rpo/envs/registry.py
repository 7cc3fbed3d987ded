"""Tasks by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from rpo.envs.ant import Ant, AntSettings
from rpo.envs.anymal import Anymal, AnymalSettings
from rpo.envs.base import Env
from rpo.envs.hand import Hand
from rpo.envs.hand_model import HandSettings
from rpo.envs.hopper import Hopper, HopperSettings
from rpo.envs.humanoid import Humanoid, HumanoidSettings
from rpo.envs.robot_file import RobotFile, RobotSettings, is_description
from rpo.envs.settings import TaskSettings
from rpo.errors import suggestion

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
            raise ValueError(_unknown(f"setting of {task}", name, known))
    if is_description(task):
        return RobotFile(task, settings_type(**settings))
    return _TASKS[task][0](settings_type(**settings))


def settings_class(task: str) -> type[Any]:
    """The frozen dataclass that holds every figure of a task.

    Raises:
        ValueError: if there is no such task.
    """
    if is_description(task):
        return RobotSettings
    if task not in _TASKS:
        raise ValueError(_unknown("task", task, names()))
    return _TASKS[task][1]


def describe(task: str) -> dict[str, str]:
    """A task's figures by what they are, in the order of the table in its docstring.

    Raises:
        ValueError: if there is no such task.
    """
    settings_class(task)
    lines = (_TASKS[task][0].__doc__ or "").splitlines()
    figures = {"task": task, "about": lines[0]}
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 2 and cells[0].strip("-"):
            figures[cells[0]] = cells[1]
    return figures


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    return f"unknown {kind} {name!r}{suggestion(name, known)}; known: {', '.join(known)}"
