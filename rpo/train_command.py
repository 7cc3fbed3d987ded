"""The command `rpo train`: forms of its settings, and the three ways to begin."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated, Any

import tyro

from rpo import algorithms, api, envs
from rpo.arguments import UsageError, parse, value_of
from rpo.envs.robot_file import RobotFile, is_description
from rpo.errors import SettingsError
from rpo.runtime import Processes
from rpo.training import Run
from rpo.training.origin import settings_from
from rpo.training.presets import preset_selection, preset_settings
from rpo.training.processes import join
from rpo.training.settings import RunSettings, resolve, task_settings_class

WANDB = "Send metrics to Weights & Biases, too (extra `wandb`)."


@dataclasses.dataclass(frozen=True)
class ResumeArguments:
    """Continues an interrupted run, with the settings it has.

    Args:
        resume: run directory.
        trust: execute the file that the run names as its task.
        wandb: send metrics to Weights & Biases, too; extra `wandb`.
        processes: where the others are.
    """

    resume: Path
    trust: bool = False
    wandb: bool = False
    processes: Processes = dataclasses.field(default_factory=Processes)


def train(arguments: list[str]) -> int:
    """Starts, continues or extends a run.

    Args:
        arguments: after `rpo train`.

    Returns:
        the exit status.

    Raises:
        UsageError: if they cannot be understood.
    """
    task = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    origin_path, arguments = value_of("from", arguments)
    resume, _ = value_of("resume", arguments)
    if resume is not None and origin_path is not None:
        raise UsageError("--resume goes on with a run, --from starts a new one; give one of them")
    if resume is not None:
        hint = "a resumed run keeps its settings"
        resumed = parse(ResumeArguments, arguments, "rpo train", hint=hint)
        join(resumed.processes)
        task = task_of(resumed.resume, task, resumed.trust)
        api.train(task, resume=resumed.resume, callbacks=_callbacks(resumed.wandb))
        return 0
    if origin_path is not None:
        return _train_from(Path(origin_path), task, arguments)
    if task is None:
        raise UsageError(f"name a task: rpo train TASK, with TASK one of {', '.join(envs.names())}")
    algorithm, arguments = value_of("algorithm", arguments)
    preset, arguments = value_of("preset", arguments)
    algorithm = "rpo" if algorithm is None else algorithm
    preset = "fast" if preset is None else preset
    parsed, settings = _read(_train_form(task, algorithm, preset), arguments, f"rpo train {task}")
    if is_description(task):
        try:
            print(RobotFile(task, parsed.task_settings).summary())  # what was chosen for it
        except ValueError as error:
            raise SettingsError(str(error)) from error
    api.train(task, algorithm, preset=preset, **settings)
    return 0


def _train_from(path: Path, task: str | None, arguments: list[str]) -> int:
    """Starts a run from another: its settings are the defaults."""

    trust, arguments = "--trust" in arguments, [x for x in arguments if x != "--trust"]
    algorithm, arguments = value_of("algorithm", arguments)
    preset, arguments = value_of("preset", arguments)
    if preset is not None:
        raise UsageError("a run that starts from another has its settings, not those of a preset")
    task = task_of(path, task, trust)
    one = {"devices": 1}  # JAX must not start before the processes have joined
    given, algorithm, preset, settings = settings_from(
        Run.load(path), task, "rpo" if algorithm is None else algorithm, one
    )
    resolved = resolve(given, algorithm, preset, settings)
    task_class = task_settings_class(given)
    task_settings = task_class(**resolved.task_settings) if task_class is not None else None
    run = dataclasses.replace(resolved.run_settings, devices=None)
    form = _form(resolved.task, algorithm, preset, resolved.config, run, task_settings)
    _, settings = _read(form, arguments, f"rpo train --from {path}", "trust")
    api.train(task, algorithm, from_run=path, **settings)
    return 0


def _read(
    form: tuple[type[Any], Any], arguments: list[str], program: str, *others: str
) -> tuple[Any, dict[str, Any]]:
    """A form as the user has filled it in, and all of it as arguments of `train`; from here on the
    processes have joined. Flags that are called as `others` are known, too."""
    kind, default = form
    parsed = parse(kind, arguments, program, default, others=others)
    join(parsed.processes)
    groups = [getattr(parsed, name, None) for name in ("run", "method", "task_settings")]
    chosen = [vars(group).items() for group in groups if group is not None]
    settings = dict(itertools.chain(*chosen))
    return parsed, settings | {"run_dir": parsed.run_dir, "callbacks": _callbacks(parsed.wandb)}


def _callbacks(wandb: bool) -> list[Any]:
    """What is told how a training goes, beside its own records."""
    if not wandb:
        return []
    from rpo.training.wandb_log import WandbLog

    return [WandbLog()]


def _train_form(task: str, algorithm: str, preset: str) -> tuple[type[Any], Any]:
    """A dataclass of everything `rpo train` can set for this task, and the preset's values."""

    try:
        config = algorithms.config_class(algorithm)(**preset_settings(algorithm, task, preset))
        task_class = task_settings_class(task)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    task_settings = task_class() if task_class is not None else None
    run_settings = RunSettings(**preset_selection(algorithm, task, preset))
    return _form(task, algorithm, preset, config, run_settings, task_settings)


def _form(
    task: str, algorithm: str, preset: str, config: Any, run_settings: Any, task_settings: Any
) -> tuple[type[Any], Any]:
    """A dataclass of settings, and one filled in with these."""

    shown = tyro.conf.arg(help="Method: " + ", ".join(algorithms.names()))
    groups: list[tuple[str, Any, Any]] = [
        ("algorithm", Annotated[str, shown], algorithm),
        ("preset", Annotated[str, tyro.conf.arg(help="Settings to start from.")], preset),
        ("run_dir", Annotated[Path | None, tyro.conf.arg(help="New directory for the run.")], None),
        ("wandb", Annotated[bool, tyro.conf.arg(help=WANDB)], False),
        ("run", RunSettings, run_settings),
        ("method", type(config), config),
        ("processes", Processes, Processes()),
    ]
    if task_settings is not None:
        groups.append(("task_settings", type(task_settings), task_settings))
    form = dataclasses.make_dataclass("Train", [(name, kind) for name, kind, _ in groups])
    form.__doc__ = (
        f"Trains a policy for {task}. Defaults are those of {algorithm}, preset {preset}."
    )
    return form, form(**{name: value for name, _, value in groups})


def task_of(run: Path | str, task: str | None, trust: bool) -> str | None:
    """What the user names as a run's task, or with his trust the file that the run names."""
    return Run.load(run).recorded_task if task is None and trust else task
