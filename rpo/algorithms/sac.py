"""Soft Actor-Critic (Haarnoja et al. 2018). No derivative of the environment is taken.

Each iteration collects H steps in N environments into a replay buffer and makes several steps of
descent on minibatches from it, each on the critics, the actor and the temperature alpha:

    critics  (Q(o, a) - y)^2,  y = r_1 + ... + gamma^(n-1) r_n
                                   + gamma^n (min Q_target(o', a') - alpha * log pi(a'|o'))
    actor    alpha * log pi(a|o) - min Q(o, a)
    alpha    alpha * (entropy - target entropy),  target entropy = -action_size / 2

followed by a step of the target critics towards the critics. Windows of n steps stop where an
episode ends.
"""

from __future__ import annotations

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, UInt32

from rpo.algorithms.base import (
    Algorithm,
    Environments,
    Experience,
    Metrics,
    TrainState,
    fresh_state,
)
from rpo.algorithms.bounds import bound_values
from rpo.algorithms.collection import collect
from rpo.algorithms.config import MethodConfig, require, require_ranges
from rpo.algorithms.devices import (
    device_mean,
    environment_indices,
    environment_keys,
    environment_noise,
)
from rpo.algorithms.iteration import end_iteration
from rpo.algorithms.keys import iteration_keys, start_keys
from rpo.algorithms.optimizer import OptimizerState
from rpo.algorithms.replay import Replay, Windows, empty_replay
from rpo.algorithms.temperature import Temperature, new_temperature, target_entropy
from rpo.envs.base import Env
from rpo.nets import CriticEnsemble, GaussianPolicy, Normalizer, TanhGaussianPolicy

LEARNING_METRICS = (
    *("value", "value_loss", "entropy", "std", "temperature"),
    *("actor_gradient_norm", "critic_gradient_norm", "value_target_clip_fraction"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SACConfig(MethodConfig):
    """Settings of SAC. The defaults are those of the paper's Table 7 for ANYmal.

    Args:
        warmup_steps: per environment, with random actions and without learning.
        replay_capacity: transitions kept, over all environments, rounded down to whole iterations.
        batch_size: transitions per gradient step; a multiple of `num_envs`.
        gradient_steps: per iteration.
        n_step: n, rewards in a critic's target; at most the horizon.
        target_smoothing: tau, share of the critics in each update of the target critics.
        actor_learning_rate: constant.
        critic_learning_rate: constant.
        initial_temperature: alpha at the start.
        temperature_learning_rate: of log(alpha); zero keeps alpha fixed.

    Raises:
        ValueError: if a setting is out of range, with one line that says what to change.
    """

    warmup_steps: int = 32
    replay_capacity: int = 1_000_000
    batch_size: int = 2048
    gradient_steps: int = 8
    n_step: int = 10
    target_smoothing: float = 0.6
    actor_learning_rate: float = 2e-3
    critic_learning_rate: float = 5e-4
    initial_temperature: float = 1.0
    temperature_learning_rate: float = 5e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ranges(
            self,
            counts=("batch_size", "gradient_steps", "n_step"),
            positive=("actor_learning_rate", "critic_learning_rate", "initial_temperature"),
            not_negative=("warmup_steps", "temperature_learning_rate"),
            fractions=("target_smoothing",),
        )
        require(
            self.replay_capacity >= self.num_envs * self.horizon,
            f"replay_capacity is {self.replay_capacity}, must hold one iteration "
            f"({self.num_envs * self.horizon} transitions)",
        )
        require(
            self.batch_size % self.num_envs == 0,
            f"batch_size is {self.batch_size}, must be a multiple of num_envs ({self.num_envs})",
        )
        require(
            self.n_step <= self.horizon,
            f"n_step is {self.n_step}, must not exceed the horizon ({self.horizon})",
        )

    @property
    def replay_steps(self) -> int:
        """Steps per environment that the replay buffer holds, a multiple of the horizon."""
        return self.replay_capacity // (self.num_envs * self.horizon) * self.horizon


def value_loss(
    critics: CriticEnsemble,
    observation: Float[Array, "*batch observation"],
    action: Float[Array, "*batch action"],
    target: Float[Array, "*batch"],
) -> Float[Array, ""]:
    """Mean over critics and samples of the squared error."""
    return jnp.mean((action_values(critics, observation, action) - target) ** 2)


def smoothed(target: CriticEnsemble, critics: CriticEnsemble, share: float) -> CriticEnsemble:
    """(1 - share) * target + share * critics (Polyak averaging)."""
    following: CriticEnsemble = jax.tree.map(
        lambda old, new: (1 - share) * old + share * new, target, critics
    )
    return following


def action_values(
    critics: CriticEnsemble,
    observation: Float[Array, "*batch observation"],
    action: Float[Array, "*batch action"],
) -> Float[Array, "critics *batch"]:
    """Q of normalised observations and squashed actions, one row per critic."""
    return critics(jnp.concatenate([observation, action], axis=-1))


class SACState(eqx.Module):
    """What SAC keeps beside the shared state.

    Args:
        target_critics: slow copy of the critics.
        temperature: alpha and its optimiser.
        replay: past experience.
    """

    target_critics: CriticEnsemble
    temperature: Temperature
    replay: Replay


class Learner(eqx.Module):
    """What a gradient step moves."""

    policy: GaussianPolicy
    critics: CriticEnsemble
    target_critics: CriticEnsemble
    temperature: Temperature
    actor_optimizer: OptimizerState
    critic_optimizer: OptimizerState


class SAC(Algorithm):
    """Soft Actor-Critic."""

    config: SACConfig = eqx.field(static=True)

    def init(self, env: Env, key: Array) -> TrainState:
        """See `Algorithm.init`."""
        config, spec, keys = self.config, env.spec, start_keys(key)
        sizes = (spec.observation_size, spec.action_size)
        mirror = config.mirror_of(spec)
        policy = TanhGaussianPolicy(*sizes, config.actor_hidden_sizes, keys.policy, mirror=mirror)
        critics = CriticEnsemble(
            sum(sizes),
            config.critic_hidden_sizes,
            2,
            keys.critics,
            mirror=None if mirror is None else mirror.observation + mirror.action,
        )
        return fresh_state(
            env,
            config,
            keys,
            policy=policy,
            critics=critics,
            actor_optimizer=self.optimizer.init(policy),
            critic_optimizer=self.optimizer.init(critics),
            method=SACState(
                # buffers of its own: training loops reuse the memory of their argument
                target_critics=jax.tree.map(jnp.copy, critics),
                temperature=new_temperature(config.initial_temperature, self.optimizer),
                replay=empty_replay(config.replay_steps, config.num_envs, *sizes),
            ),
        )

    def continued(self, fresh: TrainState, old: TrainState) -> TrainState:
        """See `Algorithm.continued`; the replay is of the new environments."""
        state = super().continued(fresh, old)
        method = dataclasses.replace(old.method, replay=fresh.method.replay)
        return dataclasses.replace(state, method=method)

    def partition(self, state: TrainState, batch_axes: int = 0) -> TrainState:
        """See `Algorithm.partition`; the replay's environments are split, too."""
        split = PartitionSpec(*[None] * (batch_axes + 1), self.axis)
        steps = jax.tree.map(lambda _: split, state.method.replay.steps)
        whole = super().partition(state, batch_axes)
        partition: TrainState = eqx.tree_at(lambda x: x.method.replay.steps, whole, steps)
        return partition

    def update(self, env: Env, state: TrainState) -> tuple[TrainState, Metrics]:
        """See `Algorithm.update`."""
        config, keys = self.config, iteration_keys(state.key, state.iteration)
        environments, experience = self.collect(env, state, keys.acting)
        replay = state.method.replay.add(experience)
        learner = Learner(
            state.policy,
            state.critics,
            state.method.target_critics,
            state.method.temperature,
            state.actor_optimizer,
            state.critic_optimizer,
        )

        def learn(learner: Learner) -> tuple[Learner, Metrics]:
            def step(learner: Learner, key: Array) -> tuple[Learner, Metrics]:
                return self.learn(learner, replay, state.normalizer, key)

            step_keys = jax.random.split(keys.learning, config.gradient_steps)
            learner, metrics = lax.scan(step, learner, step_keys)
            return learner, {name: values.mean() for name, values in metrics.items()}

        def wait(learner: Learner) -> tuple[Learner, Metrics]:
            nothing = jnp.full((), jnp.nan, experience.reward.dtype)
            return learner, dict.fromkeys(LEARNING_METRICS, nothing)

        warm = state.iteration * config.horizon >= config.warmup_steps
        learner, metrics = lax.cond(warm, learn, wait, learner)
        state = dataclasses.replace(
            state,
            environments=environments,
            policy=learner.policy,
            critics=learner.critics,
            actor_optimizer=learner.actor_optimizer,
            critic_optimizer=learner.critic_optimizer,
            method=SACState(learner.target_critics, learner.temperature, replay),
        )
        state, ending = end_iteration(state, experience, self.axis)
        return state, metrics | ending

    def collect(
        self, env: Env, state: TrainState, key: UInt32[Array, "2"]
    ) -> tuple[Environments, Experience]:
        """H steps of the policy, or of uniformly random actions, by plain forward simulation."""
        config, policy, normalizer = self.config, state.policy, state.normalizer
        indices = environment_indices(state.environments.episode_return.shape[0], self.axis)
        keys = environment_keys(key, indices)
        noise = environment_noise(keys, (config.horizon, env.spec.action_size))
        step = state.iteration * config.horizon + jnp.arange(config.horizon)

        def act(observation: Array, row: tuple[Array, Array]) -> Array:
            noise, warming_up = row
            action = policy.squash(policy(normalizer(observation)).sample(noise))
            # the distribution function of the normal makes its argument uniform
            return jnp.where(warming_up, lax.erf(noise / math.sqrt(2)), action)

        return collect(env, act, state.environments, (noise, step < config.warmup_steps))

    def learn(
        self, learner: Learner, replay: Replay, normalizer: Normalizer, key: UInt32[Array, "2"]
    ) -> tuple[Learner, Metrics]:
        """One gradient step of the critics, the actor and the temperature, on one minibatch."""
        config = self.config
        sample_key, *noise_keys = jax.random.split(key, 3)
        indices = environment_indices(replay.steps.reward.shape[1], self.axis)
        count = config.batch_size // config.num_envs
        windows = replay.sample(
            environment_keys(sample_key, indices), count, config.n_step, config.discount
        )
        windows = dataclasses.replace(
            windows,
            observation=normalizer(windows.observation),
            final_observation=normalizer(windows.final_observation),
        )
        shape = (count, windows.action.shape[-1])
        target_noise, actor_noise = (
            environment_noise(environment_keys(noise_key, indices), shape)
            for noise_key in noise_keys
        )
        learner, critic_metrics = self.update_critics(learner, windows, target_noise)
        learner, actor_metrics = self.update_actor(learner, windows.observation, actor_noise)
        return learner, critic_metrics | actor_metrics

    def critic_target(
        self, learner: Learner, windows: Windows, noise: Float[Array, "samples envs action"]
    ) -> Float[Array, "samples envs"]:
        """y, with a' sampled by the current policy."""
        observation = windows.final_observation
        distribution = learner.policy(observation)
        action = learner.policy.squash(distribution.sample(noise))
        value = jnp.min(action_values(learner.target_critics, observation, action), axis=0)
        entropy = distribution.squashed_entropy_sample(noise)
        alpha = learner.temperature.alpha
        return windows.reward + windows.discount * (value + alpha * entropy)

    def update_critics(
        self, learner: Learner, windows: Windows, noise: Float[Array, "samples envs action"]
    ) -> tuple[Learner, Metrics]:
        """One step of the critics, and of the target critics after them."""
        target = self.critic_target(learner, windows, noise)
        target, clipped = bound_values(target, self.axis)
        loss, gradient = jax.value_and_grad(value_loss)(
            learner.critics, windows.observation, windows.action, target
        )
        means = {"value_loss": loss, "value": target.mean()}
        gradient, means = device_mean((gradient, means), self.axis)
        critics, optimizer, norm = self.optimizer.step(
            learner.critics, learner.critic_optimizer, gradient, self.config.critic_learning_rate
        )
        learner = dataclasses.replace(
            learner,
            critics=critics,
            target_critics=smoothed(learner.target_critics, critics, self.config.target_smoothing),
            critic_optimizer=optimizer,
        )
        means |= {"critic_gradient_norm": norm, "value_target_clip_fraction": clipped}
        return learner, means

    def actor_loss(
        self,
        policy: GaussianPolicy,
        learner: Learner,
        observation: Float[Array, "samples envs observation"],
        noise: Float[Array, "samples envs action"],
    ) -> tuple[Float[Array, ""], Metrics]:
        """alpha * log pi - min Q, a mean over samples, and the policy's entropy and std."""
        distribution = policy(observation)
        action = policy.squash(distribution.sample(noise))
        value = jnp.min(action_values(learner.critics, observation, action), axis=0)
        entropy = distribution.squashed_entropy_sample(noise)
        alpha = learner.temperature.alpha
        metrics = {"entropy": entropy.mean(), "std": distribution.std.mean()}
        return -jnp.mean(value + alpha * entropy), metrics

    def update_actor(
        self,
        learner: Learner,
        observation: Float[Array, "samples envs observation"],
        noise: Float[Array, "samples envs action"],
    ) -> tuple[Learner, Metrics]:
        """One step of the actor, and one of the temperature with the entropy before it."""
        gradient, means = jax.grad(self.actor_loss, has_aux=True)(
            learner.policy, learner, observation, noise
        )
        gradient, means = device_mean((gradient, means), self.axis)
        policy, optimizer, norm = self.optimizer.step(
            learner.policy, learner.actor_optimizer, gradient, self.config.actor_learning_rate
        )
        alpha = learner.temperature.alpha
        learner = dataclasses.replace(
            learner,
            policy=policy,
            actor_optimizer=optimizer,
            temperature=learner.temperature.step(
                means["entropy"] - target_entropy(noise.shape[-1]),
                self.optimizer,
                self.config.temperature_learning_rate,
            ),
        )
        return learner, means | {"actor_gradient_norm": norm, "temperature": alpha}
