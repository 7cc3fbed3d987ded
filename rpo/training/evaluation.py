"""What a policy is worth: full episodes on fresh environments."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rpo.algorithms.base import Environments, start_environments
from rpo.algorithms.devices import environment_keys
from rpo.envs.base import Env, EpisodicEnv
from rpo.envs.randomization import OFF
from rpo.errors import RunError, SettingsError
from rpo.nets import Actor
from rpo.training.memory import bytes_of, require_memory, require_room_to_run
from rpo.training.policies import Policy, Source, env_of, open_policies
from rpo.training.policy_file import WhichCheckpoint
from rpo.training.run import Run
from rpo.training.run_files import set_aside, write_json

FEW_EPISODES = 4096
"""At once; more of them may need more memory than there is."""
STEPS_PER_CALL = 125
"""Steps of one compiled call; between calls the evaluation may find that all episodes are over."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Returns of full episodes.

    Args:
        returns: undiscounted (seeds, episodes).
        lengths: steps (seeds, episodes).
        deterministic: whether the policy acted without noise.
        randomization: what differed from episode to episode, "off" if that was turned off, empty
            for a task that has none.
    """

    returns: Float[np.ndarray, "seeds episodes"]
    lengths: Int[np.ndarray, "seeds episodes"]
    deterministic: bool
    randomization: str = ""

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
            "randomization": self.randomization or "off",
            "episodes_per_seed": self.returns.shape[1],
            "mean_return_per_seed": [float(x) for x in self.returns.mean(axis=1)],
            "mean_length_per_seed": [float(x) for x in self.lengths.mean(axis=1)],
            "returns": [[float(x) for x in row] for row in self.returns],
        }

    def __str__(self) -> str:
        mode = "deterministic" if self.deterministic else "stochastic"
        over = "seeds" if len(self.returns) > 1 else "episodes"
        how = f", randomised: {self.randomization}" if self.randomization else ""
        how = ", without randomisation" if self.randomization == "off" else how
        return f"{mode} return {self.mean:,.1f} (std over {over} {self.std:,.1f}){how}"


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
    many = episodes > FEW_EPISODES
    if many:
        _require_room_to_start(env, start_key, episodes)
    carry = _start(env, start_key, episodes)
    if many:
        step = (env, policy.actor, carry, noise, jnp.asarray(0), without_noise)
        _require_room_to_advance(*step, episodes=episodes)
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
    return Evaluation(
        returns[None].astype(float), lengths[None], deterministic, _randomization(env)
    )


def _randomization(env: Env) -> str:
    """What differs from episode to episode, in words; empty if nothing does."""
    if not isinstance(env, EpisodicEnv) or not env.randomization.active:
        return ""
    return str(env.randomization)


def _require_room_to_start(env: Env, key: Array, episodes: int) -> None:
    """Refuses more episodes at once than memory holds; nothing is computed."""
    size = bytes_of(eqx.filter_eval_shape(_start, env, key, episodes))
    require_memory(2 * size, f"{episodes:,} episodes at once need", "lower episodes")


def _require_room_to_advance(*arguments: Any, episodes: int) -> None:
    """Refuses more of them than memory holds while they go on, before any has."""
    advance: Any = _advance  # jitted by equinox, whose types do not say so
    compiled = advance.lower(*arguments).compile().compiled
    words = "episodes of about {} would fit"
    require_room_to_run(compiled, 1, episodes, "a step of so many episodes", words)


@eqx.filter_jit
def _start(env: Env, key: Array, episodes: int) -> _Carry:
    running = jnp.ones(episodes, bool)
    return _Carry(start_environments(env, key, episodes), running, ~running)


@eqx.filter_jit
def _advance(
    env: Env, actor: Actor, carry: _Carry, key: Array, first: Array, deterministic: Array
) -> _Carry:
    """Takes `STEPS_PER_CALL` steps; compiled once for all seeds and both ways to act."""
    act = jax.vmap(actor)

    def step(carry: _Carry, number: Array) -> tuple[_Carry, None]:
        environments = carry.environments
        observation = environments.state.observation
        step_key = jax.random.fold_in(key, number)
        noisy = act(observation, environment_keys(step_key, jnp.arange(len(observation))))
        quiet = actor(observation)
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


def evaluate(
    source: Policy | Source,
    *,
    episodes: int = 128,
    deterministic: bool = False,
    checkpoint: WhichCheckpoint = "last",
    seed: int = 0,
    env: Env | str | None = None,
    randomization: bool = True,
) -> Evaluation:
    """Runs one full episode in each of `episodes` fresh environments, for each seed of a run.

    The result of a run is also written to its `evaluation.json`.

    Args:
        source: a policy, a run, its directory, a policy file, or the name of a shipped task.
        episodes: per seed.
        deterministic: act without noise.
        checkpoint: the newest one, or the one with the best training return.
        seed: of the evaluation's own starts and noise.
        env: the environment, if it is a user's own: an instance or `FILE.py:CLASS`; or a task that
            is randomised otherwise than in training.
        randomization: randomise the task as `env`, or the training, did; False leaves it nominal.

    Raises:
        SettingsError: if `episodes` is less than one.
        RunError: if there is nothing of the kind.
        CheckpointError: if there is no readable policy.
        OSError: if the result cannot be written.
    """
    how: dict[str, Any] = {"episodes": episodes, "deterministic": deterministic, "seed": seed}
    how["randomization"] = randomization
    if isinstance(source, Policy):
        return evaluate_policies([source], **how)
    if not isinstance(source, Run) and Path(source).is_dir():
        source = Run.load(source)
    file = open_policies(source, env)
    chosen = env_of(source, file, env)
    evaluation = evaluate_policies([Policy(one, chosen) for one in file.actors(checkpoint)], **how)
    if isinstance(source, Run):
        store_evaluation(source, evaluation, file.facts.iteration, checkpoint=checkpoint, seed=seed)
    return evaluation


def evaluate_policies(
    policies: list[Policy],
    *,
    episodes: int,
    deterministic: bool,
    seed: int = 0,
    randomization: bool = True,
) -> Evaluation:
    """The policies of several seeds of one task, all on the same starts; see `evaluate`."""
    env, turned_off = policies[0].env, False
    if not randomization and isinstance(env, EpisodicEnv) and env.randomization.active:
        nominal, turned_off = env.with_randomization(OFF), True
        policies = [Policy(policy.actor, nominal) for policy in policies]
    each = [
        evaluate_policy(policy, episodes=episodes, deterministic=deterministic, seed=seed)
        for policy in policies
    ]
    return Evaluation(
        np.concatenate([one.returns for one in each]),
        np.concatenate([one.lengths for one in each]),
        deterministic,
        "off" if turned_off else each[0].randomization,
    )


def store_evaluation(
    run: Run,
    evaluation: Evaluation,
    iteration: int,
    *,
    checkpoint: WhichCheckpoint = "last",
    seed: int = 0,
) -> None:
    """Adds an evaluation to the run's `evaluation.json`; one of the same kind is replaced.

    Args:
        run: where.
        evaluation: what was found.
        iteration: finished iterations of the policies.
        checkpoint: which of them acted.
        seed: of the evaluation.

    Raises:
        OSError: if it cannot be written.
    """
    mode = "deterministic" if evaluation.deterministic else "stochastic"
    kind = mode if checkpoint == "last" else f"{mode}_best"
    kind = f"{kind}_nominal" if evaluation.randomization == "off" else kind
    try:
        stored = run.evaluation() or {}
    except RunError as error:
        aside = set_aside(run.path / "evaluation.json")
        warnings.warn(f"{error}; kept as {aside.name}", stacklevel=2)
        stored = {}
    stored[kind] = {
        "checkpoint": checkpoint,
        "checkpoint_name": f"iteration_{iteration:08d}",
        "evaluation_seed": seed,
        "training_seeds": run.seeds,
        **evaluation.summary(),
    }
    write_json(run.path / "evaluation.json", stored)
