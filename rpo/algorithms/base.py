"""What every algorithm offers, and the state of a training run."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from rpo.algorithms.config import per_mille
from rpo.algorithms.devices import gather_environments
from rpo.algorithms.keys import StartKeys
from rpo.algorithms.optimizer import Optimizer, OptimizerState
from rpo.envs.base import Env, EnvState
from rpo.nets import GaussianPolicy, Normalizer, new_normalizer

EPISODE_WINDOW = 100
"""Number of finished episodes behind the reported return and length."""

Metrics = dict[str, Float[Array, ""]]


class Environments(eqx.Module):
    """The environments and their unfinished episodes. Every leaf leads with num_envs.

    Args:
        state: of the environments.
        episode_return: undiscounted reward collected so far in the current episode; NaN if it was
            not seen from its start.
        episode_length: steps taken so far in the current episode.
        first_count: steps that an episode counts as having behind it when it begins, so that the
            time limit cuts it short; None for none. Episodes cut short are not reported.
    """

    state: EnvState
    episode_return: Float[Array, " envs"]
    episode_length: Int[Array, " envs"]
    first_count: Int[Array, " envs"] | None = None

    def step(
        self, env: Env, action: Float[Array, "envs action"]
    ) -> tuple[Environments, dict[str, Any]]:
        """Steps the environments.

        Args:
            env: the task.
            action: for `Env.step`.

        Returns:
            the environments, and what every rollout records of the step.
        """
        state, transition = env.step(self.state, action)
        ended = transition.terminated | transition.truncated
        episode_return = self.episode_return + lax.stop_gradient(transition.reward)
        episode_length = self.episode_length + 1
        beginning: Array | float = 0.0
        if self.first_count is not None:
            count = jnp.where(ended, self.first_count, state.step_count)
            state = dataclasses.replace(state, step_count=count)
            beginning = _reported_return(self.first_count, episode_return.dtype)
        after = Environments(
            state=state,
            episode_return=jnp.where(ended, beginning, episode_return),
            episode_length=jnp.where(ended, 0, episode_length),
            first_count=self.first_count,
        )
        return after, {
            "reward": transition.reward,
            "terminated": transition.terminated,
            "truncated": transition.truncated,
            "final_observation": transition.final_observation,
            "non_finite": transition.info["non_finite"],
            "episode_return": episode_return,
            "episode_length": episode_length,
            "report": {
                name: transition.info[name].astype(episode_return.dtype)
                for name in env.report_names
            },
        }


class Steps(eqx.Module):
    """What learning needs of every step.

    Every leaf leads with (steps, environments); within a scan and a map with less.

    Args:
        observation: acted on, as the environment gave it.
        action: given to the environment, which clips it to [-1, 1]; in a `Segment` before
            squashing.
        reward: of the step.
        terminated: the episode ended by itself.
        truncated: the episode hit the time limit.
        final_observation: that the step led to, before any reset.
    """

    observation: Float[Array, "*batch observation"]
    action: Float[Array, "*batch action"]
    reward: Float[Array, "*batch"]
    terminated: Bool[Array, "*batch"]
    truncated: Bool[Array, "*batch"]
    final_observation: Float[Array, "*batch observation"]

    @property
    def ended(self) -> Bool[Array, "*batch"]:
        """The episode ended, one way or the other."""
        return self.terminated | self.truncated


class Experience(Steps):
    """What acting records.

    Args:
        non_finite: the environment diverged and was reset.
        episode_return: of the current episode up to and including this step.
        episode_length: the same in steps.
        report: what the task reports of the current episode, by name.
    """

    non_finite: Bool[Array, "*batch"]
    episode_return: Float[Array, "*batch"]
    episode_length: Int[Array, "*batch"]
    report: dict[str, Float[Array, "*batch"]]


class FinishedEpisodes(eqx.Module):
    """Ring buffer of the latest finished episodes.

    Args:
        returns: undiscounted returns.
        lengths: numbers of steps.
        count: episodes finished since the start of the run; entry i % window is the i-th one.
        reports: what the task reports of an episode, by name (`Env.report_names`).
    """

    returns: Float[Array, " window"]
    lengths: Float[Array, " window"]
    count: Int[Array, ""]
    reports: dict[str, Float[Array, " window"]]

    def add(self, experience: Experience, axis: str | None) -> FinishedEpisodes:
        """Appends the episodes that ended, in the order of time, then of environments.

        Those without a finite return, which were not seen from their start, are left out.
        """
        x = experience
        ended, returns, lengths, reports = jax.tree.map(
            lambda values: gather_environments(values, axis).ravel(),
            (x.ended, x.episode_return, x.episode_length, x.report),
        )
        window = self.returns.shape[0]
        ended = ended & jnp.isfinite(returns)
        added = jnp.sum(ended, dtype=jnp.int32)
        count = self.count + added
        # the latest ends first; nothing is scattered: jaxlib 0.10.2 aborts while compiling that
        latest = lax.top_k(
            jnp.where(ended, jnp.arange(1, ended.size + 1), 0), min(window, ended.size)
        )[1]
        age = (count - 1 - jnp.arange(window)) % window
        chosen = latest[jnp.minimum(age, latest.size - 1)]
        new = age < jnp.minimum(added, latest.size)

        def enter(values: Array, old: Array) -> Array:
            return jnp.where(new, values[chosen].astype(old.dtype), old)

        return FinishedEpisodes(
            returns=enter(returns, self.returns),
            lengths=enter(lengths, self.lengths),
            count=count,
            reports=jax.tree.map(enter, reports, self.reports),
        )

    def metrics(self) -> Metrics:
        """`episode_return`, `episode_length` and what the task reports, means over the window, NaN
        before the first episode has finished."""
        window = self.returns.shape[0]
        filled = jnp.minimum(self.count, window)
        mask = jnp.arange(window) < filled
        scale = jnp.where(filled > 0, 1.0 / jnp.maximum(filled, 1), jnp.nan)
        figures = {"episode_return": self.returns, "episode_length": self.lengths} | self.reports
        means = {name: jnp.sum(jnp.where(mask, x, 0)) * scale for name, x in figures.items()}
        return means | {"episodes_finished": self.count.astype(self.returns.dtype)}


class TrainState(eqx.Module):
    """The whole truth about a run: storing and loading this pytree of plain arrays continues it.

    Of several trainings side by side every leaf leads with their number.

    Args:
        environments: every leaf leads with num_envs.
        policy: actor parameters.
        critics: the value function, `StateValues` or, for PPO and SAC, `CriticEnsemble`.
        actor_optimizer: state of the actor's optimiser.
        critic_optimizer: state of the critics' optimiser.
        normalizer: observation statistics.
        episodes: the latest finished episodes.
        key: raw random key of the run; it never changes, `iteration` is folded into it.
        iteration: finished calls of `update`. Environment steps are this times
            `Algorithm.steps_per_iteration`, to be multiplied outside 32-bit arithmetic.
        method: what only one algorithm keeps (SAPO: its temperature), else None.
    """

    environments: Environments
    policy: GaussianPolicy
    critics: PyTree
    actor_optimizer: OptimizerState
    critic_optimizer: OptimizerState
    normalizer: Normalizer
    episodes: FinishedEpisodes
    key: UInt32[Array, "*trainings 2"]
    iteration: Int[Array, "*trainings"]
    method: PyTree


class Algorithm(eqx.Module):
    """A training method. `init` and `update` are pure and can be compiled and mapped over seeds.

    Args:
        config: a frozen dataclass of the algorithm's settings.
        axis: name of the mapped device axis over which environments are split, or None. With it,
            `update` runs inside `jax.shard_map`, with the specs of `partition`.
    """

    config: eqx.AbstractVar[Any]
    axis: str | None = eqx.field(static=True, default=None, kw_only=True)

    @abc.abstractmethod
    def init(self, env: Env, key: Array) -> TrainState:
        """A fresh state: networks, optimisers, and environments at the start of an episode.

        Args:
            env: the task.
            key: a JAX random key, raw or typed.
        """

    @abc.abstractmethod
    def update(self, env: Env, state: TrainState) -> tuple[TrainState, Metrics]:
        """One iteration: collect experience, improve the actor and the critics.

        Returns:
            the new state, and scalars by name.
        """

    def continued(self, fresh: TrainState, old: TrainState) -> TrainState:
        """A fresh state with what another training of this method has learned.

        Args:
            fresh: from `init`: environments, random key and counters are kept.
            old: the other training's, with networks of the same shapes.
        """
        return dataclasses.replace(
            fresh,
            policy=old.policy,
            critics=old.critics,
            actor_optimizer=fresh.actor_optimizer.with_moments(old.actor_optimizer.adam),
            critic_optimizer=fresh.critic_optimizer.with_moments(old.critic_optimizer.adam),
            normalizer=old.normalizer,
            method=old.method,
        )

    @property
    def optimizer(self) -> Optimizer:
        """Of all that is learned, with the settings' figures."""
        config = self.config
        return Optimizer(config.betas, config.weight_decay, config.max_gradient_norm)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps taken by one `update`."""
        steps: int = self.config.num_envs * self.config.horizon
        return steps

    def partition(self, state: TrainState, batch_axes: int = 0) -> TrainState:
        """Which axis of each leaf is split over devices, in the shape of `state`.

        Args:
            state: as from `init` (shapes are all that matters).
            batch_axes: number of leading axes before the algorithm's own, 1 for mapped seeds.

        Returns:
            `state` with a `PartitionSpec` for every leaf.
        """
        split = PartitionSpec(*[None] * batch_axes, self.axis)
        whole = jax.tree.map(lambda _: PartitionSpec(), state)
        environments = jax.tree.map(lambda _: split, state.environments)
        partition: TrainState = eqx.tree_at(lambda s: s.environments, whole, environments)
        return partition


def fresh_state(
    env: Env,
    config: Any,
    keys: StartKeys,
    *,
    policy: GaussianPolicy,
    critics: PyTree,
    actor_optimizer: OptimizerState,
    critic_optimizer: OptimizerState,
    method: PyTree,
) -> TrainState:
    """The state before the first iteration; `config` is a `MethodConfig`."""
    mirror = policy.mirror
    return TrainState(
        environments=start_environments(
            env,
            keys.environments,
            config.num_envs,
            stagger=config.stagger_episodes,
            short_share=config.short_episodes,
            short_steps=config.short_episode_steps,
        ),
        policy=policy,
        critics=critics,
        actor_optimizer=actor_optimizer,
        critic_optimizer=critic_optimizer,
        normalizer=new_normalizer(
            env.spec.observation_size, None if mirror is None else mirror.observation
        ),
        episodes=no_episodes(env),
        key=keys.run,
        iteration=jnp.zeros((), jnp.int32),
        method=method,
    )


def start_environments(
    env: Env,
    key: Array,
    num_envs: int,
    *,
    stagger: bool = False,
    short_share: float = 0.0,
    short_steps: int = 0,
) -> Environments:
    """Environments at the start of an episode.

    Args:
        env: the task.
        key: a JAX random key, raw or typed.
        num_envs: how many.
        stagger: spread the episodes' ends over the time limit: environment k counts as being
            k / num_envs of an episode old. Such a first episode, shorter than others, is finished
            like any other but not reported.
        short_share: share of the environments whose episodes are short, below 1.
        short_steps: how long these are at most. They are not reported.
    """
    dtype = jax.dtypes.canonicalize_dtype(float)
    state = env.reset(key, num_envs)
    limit, index = env.spec.episode_length, jnp.arange(num_envs)
    share = per_mille(short_share)
    short = (index + 1) * share // 1000 > index * share // 1000
    first = jnp.where(short, max(limit - short_steps, 0), 0)
    rank = jnp.where(short, jnp.cumsum(short) - 1, index)
    among = jnp.where(short, jnp.maximum(jnp.sum(short), 1), num_envs)
    age = first + (rank * (limit - first) // among if stagger else 0)
    age, first = age.astype(state.step_count.dtype), first.astype(state.step_count.dtype)
    return Environments(
        state=dataclasses.replace(state, step_count=age),
        episode_return=_reported_return(age, dtype),
        episode_length=jnp.zeros(num_envs, jnp.int32),
        first_count=first if share and short_steps < limit else None,
    )


def _reported_return(behind: Int[Array, " envs"], dtype: Any) -> Float[Array, " envs"]:
    """Where return begins: at zero, or at NaN for episodes that count as having steps behind."""
    return jnp.where(behind > 0, jnp.nan, 0.0).astype(dtype)


def no_episodes(env: Env) -> FinishedEpisodes:
    """An empty buffer for a task's episodes."""
    return FinishedEpisodes(
        returns=jnp.zeros(EPISODE_WINDOW),
        lengths=jnp.zeros(EPISODE_WINDOW),
        count=jnp.zeros((), jnp.int32),
        reports={name: jnp.zeros(EPISODE_WINDOW) for name in env.report_names},
    )


def per_epoch(**values: Float[Array, " epochs"]) -> Metrics:
    """A metric for each epoch, counted from one: `kl` becomes `kl_epoch_1`, `kl_epoch_2`, ..."""
    return {f"{name}_epoch_{m + 1}": x[m] for name, x in values.items() for m in range(len(x))}
