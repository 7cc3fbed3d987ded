"""What a policy is worth: full episodes on fresh environments."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rpo.algorithms.base import Environments, start_environments
from rpo.algorithms.devices import environment_keys
from rpo.envs.base import Env
from rpo.errors import RunError, SettingsError
from rpo.nets import policy_action
from rpo.training.checkpoint import last_checkpoint
from rpo.training.origin import restore
from rpo.training.program import Actor
from rpo.training.run import Run
from rpo.training.run_files import set_aside, write_json

STEPS_PER_CALL = 125
"""Steps of one compiled call; between calls the evaluation may find that all episodes are over."""

WhichCheckpoint = Literal["last", "best"]


@dataclasses.dataclass(frozen=True)
class Policy:
    """A trained policy, ready to act.

    Args:
        actor: network and observation statistics.
        env: the task it was trained on.
        checkpoint: name of the one it was read from, None if it was not.
    """

    actor: Actor
    env: Env
    checkpoint: str | None = None

    def __call__(self, observation: Array, key: Array | None = None) -> Array:
        """The action for `Env.step`.

        Args:
            observation: (..., observation_size), as the environment gives it.
            key: a JAX random key to sample an action, None for the deterministic one.

        Raises:
            ValueError: if the observation has another size.
        """
        observation = jnp.asarray(observation)
        size = self.env.spec.observation_size
        if observation.ndim == 0 or observation.shape[-1] != size:
            raise ValueError(
                f"the observation has the shape {observation.shape}; {self.env.spec.name} gives "
                f"{size} numbers, so its last axis must have length {size}"
            )
        return policy_action(self.actor.policy, self.actor.normalizer, observation, key)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Returns of full episodes.

    Args:
        returns: undiscounted (seeds, episodes).
        lengths: steps (seeds, episodes).
        deterministic: whether the policy acted without noise.
    """

    returns: Float[np.ndarray, "seeds episodes"]
    lengths: Int[np.ndarray, "seeds episodes"]
    deterministic: bool

    @property
    def mean(self) -> float:
        """Mean return over episodes and seeds."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the mean return over seeds (of one seed: over episodes)."""
        per_seed = self.returns.mean(axis=1)
        return float(per_seed.std() if len(per_seed) > 1 else self.returns.std())

    def summary(self) -> dict[str, Any]:
        """Figures ready for JSON."""
        return {
            "mean_return": self.mean,
            "std_return": self.std,
            "std_over": "seeds" if len(self.returns) > 1 else "episodes",
            "episodes_per_seed": self.returns.shape[1],
            "mean_return_per_seed": [float(x) for x in self.returns.mean(axis=1)],
            "mean_length_per_seed": [float(x) for x in self.lengths.mean(axis=1)],
            "returns": [[float(x) for x in row] for row in self.returns],
        }

    def __str__(self) -> str:
        mode = "deterministic" if self.deterministic else "stochastic"
        over = "seeds" if len(self.returns) > 1 else "episodes"
        return f"{mode} return {self.mean:,.1f} (std over {over} {self.std:,.1f})"


class _Carry(eqx.Module):
    environments: Environments
    running: Bool[Array, " episodes"]
    broken: Bool[Array, " episodes"]  # ended because a number was not finite


def evaluate_policy(
    policy: Policy, *, episodes: int = 128, deterministic: bool = False, seed: int = 0
) -> Evaluation:
    """Runs one full episode in each of `episodes` fresh environments.

    Args:
        policy: what acts.
        episodes: how many.
        deterministic: act without noise.
        seed: of the starts and of the noise.

    Raises:
        SettingsError: if `episodes` is less than one, or so many that they do not fit into memory.
    """
    if not 1 <= episodes <= 10**6:
        bound = "at least 1" if episodes < 1 else "at most 1,000,000"
        raise SettingsError(f"episodes is {episodes}, must be {bound}")
    if not 0 <= seed < 2**31:
        raise SettingsError(f"seed is {seed}, must lie between 0 and 2^31 - 1")
    start_key, noise_key = jax.random.split(jax.random.key(seed), 2)
    env = policy.env
    noise = jax.random.key_data(noise_key)
    without_noise = jnp.asarray(deterministic)
    running = jnp.ones(episodes, bool)
    carry = _Carry(_start(env, start_key, episodes), running, ~running)
    for first in range(0, env.spec.episode_length, STEPS_PER_CALL):
        carry = _advance(env, policy.actor, carry, noise, jnp.asarray(first), without_noise)
        if not carry.running.any():
            break
    returns, lengths = jax.device_get(
        (carry.environments.episode_return, carry.environments.episode_length)
    )
    broken = int(carry.broken.sum())
    if broken:
        warnings.warn(
            f"{broken} of {episodes} episodes ended because a state, observation or reward was "
            "not finite",
            stacklevel=2,
        )
    return Evaluation(returns[None].astype(float), lengths[None], deterministic)


@eqx.filter_jit
def _start(env: Env, key: Array, episodes: int) -> Environments:
    return start_environments(env, key, episodes)


@eqx.filter_jit
def _advance(
    env: Env, actor: Actor, carry: _Carry, key: Array, first: Array, deterministic: Array
) -> _Carry:
    """Takes `STEPS_PER_CALL` steps; compiled once for all seeds and both ways to act."""
    act = jax.vmap(functools.partial(policy_action, actor.policy, actor.normalizer))

    def step(carry: _Carry, number: Array) -> tuple[_Carry, None]:
        environments = carry.environments
        observation = environments.state.observation
        step_key = jax.random.fold_in(key, number)
        noisy = act(observation, environment_keys(step_key, jnp.arange(len(observation))))
        quiet = policy_action(actor.policy, actor.normalizer, observation, None)
        state, transition = env.step(environments.state, jnp.where(deterministic, quiet, noisy))
        counted = carry.running & (number < env.spec.episode_length)
        reward = jnp.where(counted, transition.reward, 0)
        following = Environments(
            state=state,
            episode_return=environments.episode_return + reward,
            episode_length=environments.episode_length + counted,
        )
        running = counted & ~(transition.terminated | transition.truncated)
        broken = carry.broken | (counted & transition.info["non_finite"])
        return _Carry(following, running, broken), None

    carry, _ = lax.scan(step, carry, first + jnp.arange(STEPS_PER_CALL))
    return carry


def load_policies(
    run: Run | str | os.PathLike[str],
    *,
    checkpoint: WhichCheckpoint = "last",
    env: Env | str | None = None,
) -> list[Policy]:
    """The policies of all seeds of a run.

    Args:
        run: a run or its directory.
        checkpoint: the newest one, or the one with the best training return.
        env: the environment, if it is a user's own: an instance or `FILE.py:CLASS`.

    Raises:
        RunError: if it is no run directory.
        CheckpointError: if there is no readable checkpoint.
    """
    if checkpoint not in ("last", "best"):
        raise SettingsError(f"checkpoint is {checkpoint!r}, must be 'last' or 'best'")
    run = run if isinstance(run, Run) else Run.load(Path(run))
    resolved = run.resolved(env)
    restored = restore(run, resolved)
    state, name = restored.state, restored.path.name
    actors = (
        state.best if checkpoint == "best" else Actor(state.train.policy, state.train.normalizer)
    )
    return [
        Policy(jax.tree.map(lambda x, k=k: jnp.asarray(x[k]), actors), resolved.env, name)
        for k in restored.leaders
    ]


def load_policy(
    run: Run | str | os.PathLike[str],
    *,
    seed: int | None = None,
    checkpoint: WhichCheckpoint = "last",
    env: Env | str | None = None,
) -> Policy:
    """A trained policy, ready to act.

    Args:
        run: a run or its directory.
        seed: which of its seeds, the first by default.
        checkpoint: the newest one, or the one with the best training return.
        env: the environment, if it is a user's own: an instance or `FILE.py:CLASS`.

    Raises:
        RunError: if it is no run directory.
        CheckpointError: if there is no readable checkpoint.
        SettingsError: if the run has no such seed.
    """
    run = run if isinstance(run, Run) else Run.load(Path(run))
    if seed is not None and seed not in run.seeds:
        raise SettingsError(f"{run.path} has the seeds {run.seeds}, not {seed}")
    policies = load_policies(run, checkpoint=checkpoint, env=env)
    return policies[0 if seed is None else run.seeds.index(seed)]


def evaluate(
    run_or_policy: Run | Policy | str | os.PathLike[str],
    *,
    episodes: int = 128,
    deterministic: bool = False,
    checkpoint: WhichCheckpoint = "last",
    seed: int = 0,
    env: Env | str | None = None,
) -> Evaluation:
    """Runs one full episode in each of `episodes` fresh environments, for each seed of a run.

    The result of a run is also written to its `evaluation.json`.

    Args:
        run_or_policy: a run, its directory, or a policy.
        episodes: per seed.
        deterministic: act without noise.
        checkpoint: the newest one, or the one with the best training return.
        seed: of the evaluation's own starts and noise.
        env: the environment, if it is a user's own: an instance or `FILE.py:CLASS`.

    Raises:
        SettingsError: if `episodes` is less than one.
        RunError: if it is no run directory.
        CheckpointError: if there is no readable checkpoint.
        OSError: if the result cannot be written.
    """
    if isinstance(run_or_policy, Policy):
        return evaluate_policy(
            run_or_policy, episodes=episodes, deterministic=deterministic, seed=seed
        )
    run = run_or_policy if isinstance(run_or_policy, Run) else Run.load(run_or_policy)
    policies = load_policies(run, checkpoint=checkpoint, env=env)
    evaluation = evaluate_policies(
        policies, episodes=episodes, deterministic=deterministic, seed=seed
    )
    name = policies[0].checkpoint
    store_evaluation(run, evaluation, checkpoint=checkpoint, seed=seed, name=name)
    return evaluation


def evaluate_policies(
    policies: list[Policy], *, episodes: int, deterministic: bool, seed: int = 0
) -> Evaluation:
    """The policies of several seeds, all on the same starts."""
    each = [
        evaluate_policy(policy, episodes=episodes, deterministic=deterministic, seed=seed)
        for policy in policies
    ]
    return Evaluation(
        np.concatenate([one.returns for one in each]),
        np.concatenate([one.lengths for one in each]),
        deterministic,
    )


def store_evaluation(
    run: Run,
    evaluation: Evaluation,
    *,
    checkpoint: WhichCheckpoint,
    seed: int,
    name: str | None = None,
) -> None:
    """Adds an evaluation to the run's `evaluation.json`; one of the same kind is replaced.

    A damaged file is kept under another name.

    Args:
        run: that was evaluated.
        evaluation: its result.
        checkpoint: which actor of the checkpoint acted.
        seed: of the evaluation.
        name: of the checkpoint, by default the newest.

    Raises:
        OSError: if it cannot be written.
    """
    path = last_checkpoint(run.checkpoints)
    name = name or (path.name if path else None)
    mode = "deterministic" if evaluation.deterministic else "stochastic"
    kind = mode if checkpoint == "last" else f"{mode}_best"
    try:
        stored = run.evaluation() or {}
    except RunError as error:
        aside = set_aside(run.path / "evaluation.json")
        warnings.warn(f"{error}; kept as {aside.name}", stacklevel=2)
        stored = {}
    stored[kind] = {
        "checkpoint": checkpoint,
        "checkpoint_name": name,
        "evaluation_seed": seed,
        "training_seeds": run.seeds,
        **evaluation.summary(),
    }
    write_json(run.path / "evaluation.json", stored)
