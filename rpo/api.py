"""`rpo.train`: the training program with its curve drawn at the end."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from rpo import algorithms
from rpo.adapters import foreign
from rpo.envs.base import Env
from rpo.errors import SettingsError
from rpo.show import draw_curve
from rpo.training import Callback, Run
from rpo.training import train as train_without_curve
from rpo.training.processes import is_first
from rpo.training.settings import make_env

WITHOUT_DERIVATIVE = ("ppo", "sac")
"""Methods that never differentiate the task."""


def _look_at_derivative(task: str, algorithm: str, settings: Mapping[str, Any]) -> None:
    """Tells what another package's derivative is worth, before a method follows it.

    Raises:
        SettingsError: if there is none.
    """
    from rpo.envs.verdict import Verdict, judge, obstacle

    if algorithm in WITHOUT_DERIVATIVE or algorithm not in algorithms.names():
        return
    foreign.prepare(task)
    own = {field.name for field in dataclasses.fields(foreign.settings_class(task))}
    env = make_env(task, {name: value for name, value in settings.items() if name in own})
    if settings.get("verbose", True) and is_first():
        print(f"comparing the derivative of {task} with finite differences", flush=True)
        verdict = judge(env, task)
        missing = str(verdict) if verdict.kind == "missing" else None
        if missing is None:
            print(verdict, flush=True)
    else:  # a trace is enough
        found = obstacle(env)
        missing = None if found is None else str(Verdict(task, "missing", found))
    if missing is not None:
        raise SettingsError(missing)


@functools.wraps(train_without_curve)
def train(
    task: str | Env | None = None,
    algorithm: str = "rpo",
    *,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Run:
    """See `rpo.training.train`."""
    if isinstance(task, str) and foreign.is_foreign(task) and settings.get("resume") is None:
        _look_at_derivative(task, algorithm, settings)
    return train_without_curve(task, algorithm, callbacks=(*callbacks, draw_curve), **settings)
