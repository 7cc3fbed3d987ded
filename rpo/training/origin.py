"""A run that starts from another: what it takes over, and what it begins anew.

Taken over are the actor, the critics, their optimisers' moments, the observation statistics and
what a method has learned beside them, such as a temperature. New are the environments, random
numbers, replay, counters and learning-rate schedules. The new run records where it came from, and
its first checkpoint, of iteration 0, makes it independent of the other.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rpo.envs.base import Env
from rpo.envs.robot_file import is_description
from rpo.errors import CheckpointError, RunError, SettingsError
from rpo.nets import Actor
from rpo.training import processes
from rpo.training.array_file import describe, difference
from rpo.training.checkpoint import restore_last
from rpo.training.program import Program, Progressing
from rpo.training.run import Run
from rpo.training.selection import Race
from rpo.training.settings import Resolved, is_known
from rpo.training.task_files import is_task_file, recorded_description


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a run's newest checkpoint holds.

    Args:
        state: of all its trainings.
        program: that made it, on one device.
        race: which trainings are left.
        leaders: the training of each seed that does best, by its number.
        facts: stored beside it.
        path: of the checkpoint.
    """

    state: Progressing
    program: Program
    race: Race
    leaders: list[int]
    facts: dict[str, Any]
    path: Path


def restore_origin(run: Run, env: Env) -> Restored:
    """Reads the newest checkpoint of a run that another, with this environment, starts from.

    Raises:
        RunError: see `restore`.
    """
    own = is_known(run.config["task"])  # perhaps another task, or with other settings
    return restore(run, run.resolved(None if own else env))


def restore(run: Run, resolved: Resolved) -> Restored:
    """Reads the newest checkpoint of a run.

    Args:
        run: which.
        resolved: its settings.

    Raises:
        CheckpointError: if there is none that can be read.
    """
    one_device = dataclasses.replace(resolved.run_settings, devices=None)  # whatever it had
    program = Program(dataclasses.replace(resolved, run_settings=one_device))
    found = read_own(run, program)
    if found is None:
        raise CheckpointError(f"{run.path} holds no checkpoint yet")
    path, state, facts, race = found
    returns = jax.vmap(lambda episodes: episodes.metrics()["episode_return"])(state.train.episodes)
    return Restored(state, program, race, race.leaders(np.asarray(returns)), facts, path)


def read_own(run: Run, program: Program) -> tuple[Path, Progressing, dict[str, Any], Race] | None:
    """The newest checkpoint of a run, its contents and the trainings that are left; None if there
    is none yet.

    Raises:
        CheckpointError: if it cannot be read, or is of another run.
    """
    found = restore_last(run.checkpoints, program.shapes)
    if found is None:
        return None
    path, state, facts = found
    if facts.get("run") != run.config.get("id"):
        raise CheckpointError(f"checkpoint {path} is of another run")
    if facts["iteration"] > program.selection.iterations:
        raise CheckpointError(
            f"checkpoint {path} cannot be: the run has {program.selection.iterations} iterations"
        )
    race = Race.resume(program.selection, len(program.seeds), facts, path)
    return path, state, facts, race


def settings_from(
    run: Run, env: Env | str | None, algorithm: str, settings: Mapping[str, Any]
) -> tuple[Env | str, str, str, dict[str, Any]]:
    """Task, method, preset and settings of a run that starts from another.

    Args:
        run: the other one.
        env: the task as the user gives it, or None for the same.
        algorithm: the method as the user gives it; "rpo" means that of the other run.
        settings: what the user changes.

    Raises:
        SettingsError: if the method is another one.
        RunError: if the other run needs a user's file as its task.
    """
    own = isinstance(env, Env) or (env is not None and is_task_file(env))
    resolved = run.resolved(env if own else None)
    if algorithm not in (resolved.algorithm, "rpo"):
        raise SettingsError(f"{run.path} was trained by {resolved.algorithm}, not by {algorithm}")
    kept = dict(vars(resolved.config))
    for name in ("critic", "num_critics", "symmetric"):  # the same numbers would mean another thing
        if name in kept and settings.get(name, kept[name]) != kept[name]:
            raise SettingsError(
                f"{name} is {settings[name]}; a run that starts from another keeps its networks "
                f"({name} {kept[name]})"
            )
    if "warmup_steps" in kept:  # of random actions, which the policy is past
        kept["warmup_steps"] = 0
    same_task = env is None or env == resolved.task
    kept |= resolved.task_settings if same_task else {}
    kept |= vars(resolved.run_settings) | {"candidates": 1, "devices": None}
    task: Env | str = env if env is not None else resolved.task
    if env is None and is_description(resolved.task):  # where it was, not what is called so here
        task = recorded_description(run.path, run.config)
    preset = resolved.preset if same_task else "fast"
    return task, resolved.algorithm, preset, kept | dict(settings)


def resume_settings(
    run: Run, task: str | Env | None, total_steps: int | None, settings: dict[str, Any]
) -> Resolved:
    """The settings of a run to be resumed, all of them its own.

    Learning-rate schedules depend on the number of steps, so a run cannot be made longer.

    Raises:
        SettingsError: if the user gives another one.
    """
    if settings:
        names = ", ".join(sorted(settings))
        raise SettingsError(f"a resumed run keeps its settings; leave out {names}")
    name = task.spec.name if isinstance(task, Env) else task
    # a file may lie elsewhere
    known, given = (
        x.rpartition(":")[2] if x and is_task_file(x) else x for x in (run.config["task"], name)
    )
    same_file = isinstance(task, Env) and is_task_file(run.config["task"])
    if given is not None and given != known and not same_file:
        raise SettingsError(f"{run.path} is a run of {run.config['task']}, not of {name}")
    stored = run.config["algorithm_settings"].get("total_steps")
    if total_steps is not None and total_steps != stored:
        raise SettingsError(
            f"{run.path} was started for {stored} steps and its learning rates follow that; "
            f"start a new run from it: rpo train --from {run.path} --total-steps {total_steps}"
        )
    own = isinstance(task, Env) or (task is not None and is_task_file(task))
    return run.resolved(task if own else None)


def origin_of(run: Run, restored: Restored) -> dict[str, Any]:
    """What a run records of the one that it started from, ready for JSON."""
    return {
        "path": str(run.path.absolute()),
        "id": run.config.get("id"),
        "checkpoint": restored.path.stem,
        "digest": restored.facts["digest"],
        "origin": run.config.get("origin"),
    }


def reopen(origin: Mapping[str, Any], env: Env) -> Restored:
    """The origin that a run has recorded, for one that was killed before its first checkpoint.

    Raises:
        RunError: if it is not there any more, or has gone on since.
    """
    run = Run.load(os.fspath(str(origin.get("path"))))
    restored = restore_origin(run, env)
    if restored.facts["digest"] != origin.get("digest"):
        raise RunError(
            f"{run.path} has gone on since this run started from it; start this run again"
        )
    return restored


def generation(origin: Mapping[str, Any] | None) -> int:
    """How many runs led to this one; random numbers depend on it."""
    count = 0
    while isinstance(origin, dict) and count < 1000:
        origin, count = origin.get("origin"), count + 1
    return count


def begin(program: Program, run: Run) -> list[Progressing]:
    """States of a run's first iteration: fresh ones, or those that start from another run.

    Raises:
        RunError: see `reopen`.
    """
    origin = run.config.get("origin")
    lanes = program.init(generation(origin))
    if origin is None:
        return lanes
    fresh = program.to_host(lanes)
    if processes.is_first():  # the others' states do not count
        fresh = started_from(program, fresh, reopen(origin, program.env))
    return program.from_host(fresh)


def started_from(program: Program, fresh: Progressing, restored: Restored) -> Progressing:
    """Fresh states with what the origin's trainings have learned.

    Args:
        program: of the new run.
        fresh: numpy arrays that lead with the training.
        restored: of the origin. Seed k goes on from its seed k, or all from its only one.

    Raises:
        SettingsError: if the numbers of seeds, or the networks, do not fit.
    """
    seeds, given = len(program.seeds), len(restored.leaders)
    if given not in (1, seeds):
        raise SettingsError(
            f"seeds is {seeds}, but the origin {restored.path.parents[1]} has {given}; "
            f"start from it with --seeds {given}"
        )
    candidates = program.selection.candidates
    each = restored.leaders if given == seeds else restored.leaders * seeds
    rows = np.repeat(each, candidates)
    state = jax.tree.map(lambda x: x[rows], restored.state)
    old = dataclasses.replace(state.train, policy=state.actor.policy)
    train = program.algorithm.continued(fresh.train, old)
    _require_alike(fresh.train, train, restored.path)
    average = None if fresh.average is None else train.policy
    actor = Actor(train.policy, train.normalizer)
    return dataclasses.replace(fresh, train=train, best=actor, average=average)


def _require_alike(fresh: Any, train: Any, path: Path) -> None:
    """The compiled step takes the shapes that fresh states have."""
    trouble = difference(describe(train), describe(fresh))
    if trouble is not None:
        raise SettingsError(
            f"the origin {path} does not fit: {trouble}; a run that starts from another keeps its "
            "networks' sizes and its critics"
        )
