"""Trained policies: how a run keeps them, and how they come back ready to act."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from rpo import envs
from rpo.algorithms.base import FinishedEpisodes
from rpo.envs.base import Env, EnvSpec
from rpo.envs.robot_file import is_description
from rpo.errors import CheckpointError, RunError, SettingsError, one_line
from rpo.nets import Actor
from rpo.training.origin import restore
from rpo.training.policy_file import (
    Network,
    PolicyFacts,
    PolicyFile,
    WhichCheckpoint,
    read_policy_file,
)
from rpo.training.program import Standing, standing
from rpo.training.run import Run
from rpo.training.selection import Race
from rpo.training.settings import Resolved, is_known, make_env
from rpo.training.task_files import (
    is_task_file,
    load_task,
    recorded_description,
    recorded_digest,
    trusted_task,
)

MOMENTS = 10
"""Policies are kept at the start of a training and at the end of each of so many equal parts."""

Source = Run | str | os.PathLike[str]


class Policy(eqx.Module):
    """A trained policy, ready to act, compiled when it is first called.

    A pytree: `jax.jit(policy)` and `jax.vmap(policy)` work.

    Args:
        actor: network and observation statistics.
        env: the task it was trained on.
    """

    actor: Actor
    env: Env

    def __call__(self, observation: ArrayLike, key: Array | None = None) -> Array:
        """The action for `Env.step`.

        Args:
            observation: (..., observation_size), as the environment gives it.
            key: a JAX random key to sample an action, None for the deterministic one.

        Raises:
            SettingsError: if the observation has another size.
        """
        given = observation if isinstance(observation, Array) else np.asarray(observation)
        size = self.env.spec.observation_size
        if given.shape[-1:] != (size,):
            raise SettingsError(
                f"an observation of {self.env.spec.name} has {size} numbers along its last axis; "
                f"this one has the shape {given.shape}"
            )
        action: Array = _act(self.actor, given, key)
        return action

    # By identity, so that `jax.jit` can tell policies apart without comparing arrays.
    __hash__ = object.__hash__
    __eq__ = object.__eq__


@jax.jit
def _act(actor: Actor, observation: Array, key: Array | None) -> Array:
    return actor(observation, key)


@jax.jit
@jax.vmap
def _episode_returns(episodes: FinishedEpisodes) -> Array:
    """Of each training's latest episodes, NaN before the first has finished."""
    mean: Array = episodes.metrics()["episode_return"]
    return mean


def leading_policies(
    run: Run, resolved: Resolved, state: Standing, race: Race, iteration: int, env_steps: int
) -> PolicyFile:
    """The policies of the trainings that lead, one per seed, and what their file says of them.

    Args:
        run: whose policies they are.
        resolved: its settings.
        state: of the trainings that are left.
        race: which ones these are.
        iteration: finished iterations.
        env_steps: of each seed.
    """
    returns = np.asarray(_episode_returns(state.episodes))
    leaders = np.array(race.leaders(returns))
    spec = resolved.env.spec
    last, best = (
        jax.tree.map(lambda x: np.asarray(x)[leaders], actors)
        for actors in (state.last, state.best)
    )
    facts = PolicyFacts(
        task=resolved.task,
        task_settings=resolved.task_settings,
        algorithm=resolved.algorithm,
        preset=resolved.preset,
        seeds=tuple(run.seeds),
        iteration=iteration,
        total_iterations=race.selection.iterations,
        env_steps=env_steps,
        episode_returns=tuple(float(x) if np.isfinite(x) else None for x in returns[leaders]),
        network=Network.of(last.policy),
        observation_names=spec.observation_names,
        observation_units=spec.observation_units,
        action_names=spec.action_names,
        action_units=spec.action_units,
        control_dt=spec.control_dt,
        run=run.config.get("id"),
        task_sha256=recorded_digest(run.config),
    )
    return PolicyFile(facts, last, best)


def open_policies(source: Source, env: Env | str | None = None) -> PolicyFile:
    """The policies of a run, of a policy file, or those that ship with `rpo` for a task.

    Args:
        source: a run, its directory, a policy file (.npz), or the name of a shipped task.
        env: the environment, if it is a user's own; only for runs without a policy file.

    Raises:
        RunError: if there is nothing of the kind.
        CheckpointError: if there is no readable policy.
    """
    if not isinstance(source, Run):
        path = Path(source)
        if path.is_file():
            return read_policy_file(path)
        if not path.exists():
            return _shipped(os.fspath(source))
    run = source if isinstance(source, Run) else Run.load(source)
    if run.policy_path.is_file():
        return _own(run, run.policy_path)
    return _from_checkpoint(run, env)


def open_moments(source: Source) -> list[PolicyFile]:
    """A run's policies at the moments that were kept, in the order of time.

    Raises:
        RunError: if it is no run directory.
        CheckpointError: if there are none, or one is not readable.
    """
    run = source if isinstance(source, Run) else Run.load(source)
    files = sorted(run.moments.glob("iteration_*.npz"))
    if not files:
        raise CheckpointError(f"{run.path} keeps no policies of its training in {run.moments.name}")
    return [_own(run, file) for file in files]


def _own(run: Run, path: Path) -> PolicyFile:
    """A policy file in a run directory, which must be one that the run wrote."""
    file, known = read_policy_file(path), run.config.get("id")
    if file.facts.run is not None and known is not None and file.facts.run != known:
        raise CheckpointError(
            f"policy file {path} is of another run; give the file itself to use it, or delete it "
            "to have the run's own policies again from its checkpoint"
        )
    return file


def _shipped(name: str) -> PolicyFile:
    """The policies that come with the package."""
    known = envs.names()
    if name not in known:
        raise RunError(
            f"{name} is no run directory, no policy file and no task (tasks: {', '.join(known)})"
        )
    with resources.as_file(resources.files("rpo") / "pretrained" / f"{name}.npz") as path:
        if not path.is_file():
            raise RunError(f"no policy of {name} comes with rpo yet; train one: rpo train {name}")
        return read_policy_file(path)


def _from_checkpoint(run: Run, env: Env | str | None) -> PolicyFile:
    """The policies of a run from before there were policy files."""
    resolved = run.resolved(env)
    restored = restore(run, resolved)
    program, iteration = restored.program, restored.facts["iteration"]
    steps = program.selection.spent(iteration) * program.algorithm.steps_per_iteration
    state = standing(restored.state)
    return leading_policies(run, resolved, state, restored.race, iteration, steps)


def env_of(source: Source, file: PolicyFile, env: Env | str | None = None) -> Env:
    """The environment that policies were trained on. No file is executed but one given as `env`.

    Args:
        source: where the policies come from.
        file: the policies.
        env: a user's own environment: an instance, which is checked, or `FILE.py:CLASS`.

    Raises:
        SettingsError: if `env` has other sizes.
        RunError: if the task cannot be made, or is a file that nobody has named.
        TaskError: if the file fails.
    """
    if isinstance(source, Run) or Path(source).is_dir():
        run = source if isinstance(source, Run) else Run.load(source)
        chosen = run.resolved(env).env
    elif isinstance(env, Env):
        chosen = env
    else:
        chosen = _task_of_file(Path(source), file.facts, env)
    _require_sizes(chosen.spec, file.facts.network)
    return chosen


def _task_of_file(path: Path, facts: PolicyFacts, task: str | None) -> Env:
    """The task of a policy file: what the user names, or the one it was trained on, if its name is
    enough to make it."""
    recorded = {"task": facts.task, "task_file": {"sha256": facts.task_sha256}}
    if task is not None:
        return load_task(trusted_task(path, recorded, task, trust=False))
    if is_task_file(facts.task) or not is_known(facts.task):
        raise RunError(
            f"the policy was trained on {facts.task}, an environment of your own; give it as the "
            "task (a file is executed)"
        )
    described = is_description(facts.task)
    name = recorded_description(path, recorded) if described else facts.task
    try:
        return make_env(name, facts.task_settings)
    except ValueError as error:
        raise RunError(f"the policy's task: {one_line(error)}") from error


def _require_sizes(spec: EnvSpec, network: Network) -> None:
    pairs: dict[str, Any] = {
        "observation_size": network.observation_size,
        "action_size": network.action_size,
    }
    for name, size in pairs.items():
        if getattr(spec, name) != size:
            raise SettingsError(
                f"the policy has {name} {size}, the environment {spec.name} {getattr(spec, name)}"
            )


def load_policies(
    source: Source, *, checkpoint: WhichCheckpoint = "last", env: Env | str | None = None
) -> list[Policy]:
    """The policies of all seeds of a run.

    Args:
        source: a run, its directory, a policy file (.npz), or the name of a shipped task.
        checkpoint: the newest one, or the one with the best training return.
        env: the environment, if it is a user's own: an instance or `FILE.py:CLASS`.

    Raises:
        RunError: if there is nothing of the kind.
        CheckpointError: if there is no readable policy.
        SettingsError: if `env` has other sizes than the policy.
    """
    file = open_policies(source, env)
    chosen = env_of(source, file, env)
    return [Policy(actor, chosen) for actor in file.actors(checkpoint)]


def load_policy(
    source: Source,
    *,
    seed: int | None = None,
    checkpoint: WhichCheckpoint = "last",
    env: Env | str | None = None,
) -> Policy:
    """A trained policy, ready to act.

    Args:
        source: a run, its directory, a policy file (.npz), or the name of a shipped task.
        seed: which of its seeds, the first by default.
        checkpoint: the newest one, or the one with the best training return.
        env: the environment, if it is a user's own: an instance or `FILE.py:CLASS`.

    Raises:
        RunError: if there is nothing of the kind.
        CheckpointError: if there is no readable policy.
        SettingsError: if there is no such seed, or `env` has other sizes than the policy.
    """
    file = open_policies(source, env)
    return Policy(file.actors(checkpoint)[file.index(seed)], env_of(source, file, env))
