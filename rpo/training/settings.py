"""From what the user asked for to every setting of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from rpo import algorithms, envs
from rpo.adapters import foreign
from rpo.envs.base import Env
from rpo.errors import SettingsError, one_line, unknown
from rpo.training.presets import preset_selection, preset_settings
from rpo.training.selection import SCORES, Score
from rpo.training.task_check import check_env
from rpo.training.task_files import is_task_file, load_task
from rpo.training.typed import typed

MAX_TRAININGS = 1024
"""Of one run, seeds times candidates."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of a run that are neither the task's nor the method's.

    Args:
        seed: of the first training.
        seeds: how many trainings, with seeds `seed`, `seed` + 1, ..., in one program.
        candidates: trainings per seed that start side by side; the worse ones, by the latest
            returns, are dropped again and again until one is left. `total_steps` counts the steps
            of all of them. None takes the preset's number.
        selection_share: of the remaining training's length, after which it is alone.
        selection_start: the same, after which the first are dropped; from there to
            `selection_share` all rounds are equally long. 0 means: from the beginning.
        selection_keep: share of the candidates that are kept each time, rounded up.
        selection_score: what they are compared by: "return", the mean of their latest finished
            episodes, or "reward", the mean reward of a step in their latest iterations.
        devices: how many the run uses, of all processes together. Trainings are spread over them;
            where there are more devices than trainings, the environments of each are split. None
            takes one accelerator, or all CPU cores that can share the work, and with several
            processes as many devices of each as divide the environments.
        checkpoint_interval: seconds between two checkpoints; 0 means every iteration.
        evaluation_episodes: episodes per seed of the evaluation after training; 0 means none.

    Raises:
        SettingsError: if a value is out of range.
    """

    seed: int = 0
    seeds: int = 1
    candidates: int | None = None
    selection_share: float = 0.35
    selection_start: float = 0.0
    selection_keep: float = 0.5
    selection_score: Score = "return"
    devices: int | None = None
    checkpoint_interval: float = 60.0
    evaluation_episodes: int = 128

    def __post_init__(self) -> None:
        ranges = {
            "seeds": (1, MAX_TRAININGS),
            "candidates": (1, MAX_TRAININGS),
            "devices": (1, 2**20),
            "evaluation_episodes": (0, 10**6),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                bound = f"at least {low}" if value < low else f"at most {high}"
                raise SettingsError(f"{name} is {value}, must be {bound}")
        trainings = self.seeds * (self.candidates or 1)
        if trainings > MAX_TRAININGS:
            raise SettingsError(
                f"seeds x candidates is {trainings}, must be at most {MAX_TRAININGS}; "
                "start several runs"
            )
        for name in ("selection_share", "selection_keep"):
            if not 0 < getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}, must lie between 0 and 1")
        if self.selection_score not in SCORES:
            raise SettingsError(
                f"selection_score is {self.selection_score!r}, must be one of {', '.join(SCORES)}"
            )
        if not 0 <= self.selection_start < self.selection_share:
            raise SettingsError(
                f"selection_start is {self.selection_start}, must be at least 0 and less than "
                f"selection_share = {self.selection_share}"
            )
        if not 0 <= self.seed < 2**31 - self.seeds:
            raise SettingsError(f"seed is {self.seed}, must lie between 0 and 2^31 - 1")
        if not self.checkpoint_interval >= 0:
            raise SettingsError(
                f"checkpoint_interval is {self.checkpoint_interval}, must not be negative"
            )


@dataclasses.dataclass(frozen=True)
class Resolved:
    """Everything that determines a run.

    Args:
        task: name of the task, or `file.py:Class` of a user's own.
        algorithm: name of the method.
        preset: the settings it started from.
        config: every setting of the method.
        task_settings: every setting of the task.
        run_settings: the rest.
        env: the task itself.
    """

    task: str
    algorithm: str
    preset: str
    config: Any
    task_settings: dict[str, Any]
    run_settings: RunSettings
    env: Env


def resolve(
    task: str | Env,
    algorithm: str = "rpo",
    preset: str = "fast",
    settings: Mapping[str, Any] | None = None,
) -> Resolved:
    """Fills in every setting.

    Args:
        task: name of a shipped task, of another package's such as `brax:ant`, `file.py:Class`, or
            an environment.
        algorithm: name of the method.
        preset: name of the settings to start from.
        settings: what differs from the preset, by name: settings of the method, of the task,
            or of the run.

    Raises:
        SettingsError: in one line, if a name is unknown or a value is out of range.
    """
    try:
        config_class = algorithms.config_class(algorithm)
        task_class = task_settings_class(task)
        name = task if isinstance(task, str) else task.spec.name
        base = preset_settings(algorithm, name, preset)
        mine = _sort(dict(settings or {}), config_class, task_class, name, algorithm)
        config = config_class(**(base | typed(config_class, mine["algorithm"])))
        chosen = {key: value for key, value in mine["run"].items() if value is not None}
        selecting = preset_selection(algorithm, name, preset)
        run_settings = RunSettings(**typed(RunSettings, selecting | chosen))
        candidates = run_settings.candidates or 1
        trainings = run_settings.seeds * candidates
        devices = run_settings.devices or default_devices(config.num_envs, trainings)
        run_settings = dataclasses.replace(run_settings, candidates=candidates, devices=devices)
        task_settings = {}
        if task_class is not None:
            task_settings = dataclasses.asdict(task_class(**typed(task_class, mine["task"])))
        env = make_env(task, task_settings)
        config.require_effect(env.spec)
    except SettingsError:
        raise
    except (ValueError, TypeError) as error:
        raise SettingsError(one_line(error)) from error
    return Resolved(name, algorithm, preset, config, task_settings, run_settings, env)


def default_devices(num_envs: int, trainings: int = 1) -> int:
    """One accelerator, or as many CPU devices as can share the work.

    `rpo.runtime` makes one CPU device per core, because the physics kernels run on one core each.
    Several trainings take a device each; one is split over the largest number that divides its
    environments. Several processes give equally many devices each, of whatever kind.

    Args:
        num_envs: environments of one training.
        trainings: that run side by side.

    Raises:
        SettingsError: if the environments cannot be split over the processes.
    """
    processes = jax.process_count()
    if processes == 1 and jax.default_backend() != "cpu":
        return 1
    if processes == 1 and trainings > 1:
        return len(jax.devices())
    together = range(processes, len(jax.devices()) + 1, processes)
    fitting = [count for count in together if num_envs % count == 0]
    if not fitting:
        raise SettingsError(
            f"num_envs is {num_envs}, must be a multiple of the number of processes, {processes}"
        )
    return max(fitting)


def task_settings_class(task: str | Env) -> type[Any] | None:
    """The dataclass of a named task's settings, None for a user's own environment.

    Raises:
        ValueError: if there is no such task.
    """
    if isinstance(task, Env) or is_task_file(task):
        return None
    settings_class: type[Any] = _home(task).settings_class(task)
    return settings_class


def is_known(task: str) -> bool:
    """Whether a name makes a task: a shipped one, a robot's description, one of a package."""
    return envs.is_known(task) or foreign.is_foreign(task)


def make_env(task: str | Env, task_settings: Mapping[str, Any]) -> Env:
    """The environment of a resolved task.

    A task that is a file is executed.

    Raises:
        ValueError: if the task or a setting is unknown.
        TaskError: if a user's own environment fails, or gives other shapes than it says.
    """
    if isinstance(task, Env):
        if not type(task).__module__.startswith("rpo.envs."):
            check_env(task)
        return task
    if is_task_file(task):
        return load_task(task)
    env: Env = _home(task).make(task, **typed(_home(task).settings_class(task), task_settings))
    if foreign.is_foreign(task):
        check_env(env)
    return env


def _home(task: str) -> Any:
    """The module that makes tasks of such a name."""
    return foreign if foreign.is_foreign(task) else envs


def _sort(
    settings: dict[str, Any],
    config_class: type[Any],
    task_class: type[Any] | None,
    task: str,
    algorithm: str,
) -> dict[str, dict[str, Any]]:
    """Who owns which setting."""
    owners = {
        "algorithm": _field_names(config_class),
        "task": _field_names(task_class) if task_class else [],
        "run": _field_names(RunSettings),
    }
    known = [name for names in owners.values() for name in names]
    for name in settings:
        if name not in known:
            raise SettingsError(unknown("setting", name, known, f"for {algorithm} on {task}"))
    return {
        owner: {name: value for name, value in settings.items() if name in names}
        for owner, names in owners.items()
    }


def _field_names(settings_class: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(settings_class)]
