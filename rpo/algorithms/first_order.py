"""What all first-order methods share: one iteration around a rollout with action gradients."""

from __future__ import annotations

import abc
import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, UInt32

from rpo.algorithms.base import Algorithm, Metrics, TrainState, fresh_state
from rpo.algorithms.bounds import bound_action_gradients, bound_values
from rpo.algorithms.config import MethodConfig, require, require_ranges
from rpo.algorithms.critic_training import fit_critics
from rpo.algorithms.devices import device_mean, device_sum, environment_indices, environment_keys
from rpo.algorithms.iteration import end_iteration
from rpo.algorithms.keys import iteration_keys, start_keys
from rpo.algorithms.optimizer import Schedule, learning_rate_at
from rpo.algorithms.returns import segment_return, td_lambda
from rpo.algorithms.rollout import Rollout, Segment, rollout_with_action_gradients
from rpo.algorithms.surrogate import (
    ActorBatch,
    ActorLoss,
    actor_gradient,
    divergence,
    make_actor_batch,
    reward_with_entropy,
)
from rpo.algorithms.values import frozen_values
from rpo.envs.base import Env
from rpo.nets import Critic, GaussianPolicy, TanhGaussianPolicy, new_state_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstOrderConfig(MethodConfig):
    """Settings that all first-order methods share. The defaults are the paper's (Tables 2, 3, Ant).

    Args:
        td_lambda: lambda of the value targets.
        critic: units of the critics' outputs and their kind: "plain" (as published), "scaled",
            "normalized", "popart" or "categorical"; see `rpo.nets.StateValues`.
        num_critics: independent critics.
        target_value: how critics are combined in the value targets, "mean" or "min".
        actor_learning_rate: at the start.
        actor_learning_rate_final: at the end of the schedule.
        actor_learning_rate_schedule: "constant", "linear" or "exponential".
        actor_learning_rate_hold: share of the run, below 1, before the schedule begins.
        initial_std: standard deviation of actions before squashing, about which a policy starts, in
            [0.01, 5]; its means start as much smaller or larger. Published code has 1.
        critic_learning_rate: constant.
        max_action_gradient_ratio: at which an environment's action gradient is clipped, as a
            multiple of the median environment's; see `rpo.algorithms.bounds`.
        critic_passes: L, passes over the rollout per iteration.
        critic_minibatches: minibatches per pass; must divide the horizon.
        block_size: environments simulated together; a matter of speed only.

    Raises:
        ValueError: if a setting is out of range, with one line that says what to change.
    """

    td_lambda: float = 0.95
    critic: Critic = "plain"
    num_critics: int = 2
    target_value: Literal["mean", "min"] = "mean"
    actor_learning_rate: float = 2e-3
    actor_learning_rate_final: float = 1e-5
    actor_learning_rate_schedule: Schedule = "linear"
    actor_learning_rate_hold: float = 0.0
    initial_std: float = 1.0
    critic_learning_rate: float = 5e-4
    max_action_gradient_ratio: float = 100.0
    critic_passes: int = 16
    critic_minibatches: int = 4
    block_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ranges(
            self,
            counts=("num_critics", "critic_passes", "critic_minibatches", "block_size"),
            positive=(
                *("actor_learning_rate", "actor_learning_rate_final", "critic_learning_rate"),
                "max_action_gradient_ratio",
            ),
            fractions=("td_lambda",),
            shares=("actor_learning_rate_hold",),
            parts_of_horizon=("critic_minibatches",),
        )
        require(
            0.01 <= self.initial_std <= 5,  # well within the bounds of log_std
            f"initial_std is {self.initial_std}, must lie in [0.01, 5]",
        )
        require(
            self.critic != "scaled" or self.discount < 1,
            "critic is 'scaled', in units of 1 / (1 - discount): discount must be below 1",
        )


class FirstOrderAlgorithm(Algorithm):
    """One iteration: differentiable rollout, actor update on cached action gradients, critics.

    A method defines `update_actor`, and what else differs from the defaults: `entropy_coefficient`,
    and if it learns from something else than the gradient of the discounted return, `actor_return`
    and `make_batch`.
    """

    def entropy_coefficient(self, state: TrainState) -> Float[Array, ""] | float:
        """Weight of the normalised entropy sample in the reward, constant within an iteration."""
        del state
        return 0.0

    @abc.abstractmethod
    def update_actor(
        self, state: TrainState, batch: PyTree, learning_rate: Float[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """The state with a new policy and actor optimiser, and metrics.

        They include `actor_gradient_norm`. The batch is that of `make_batch`.
        """

    def actor_return(
        self,
        segment: Segment,
        reward: Float[Array, "steps envs"],
        next_value: Float[Array, "steps envs"],
    ) -> Float[Array, " envs"]:
        """What is differentiated by every action: the discounted return, entropy in the reward."""
        return segment_return(
            reward, next_value, segment.terminated, segment.truncated, self.config.discount
        )

    def make_batch(
        self, state: TrainState, rollout: Rollout, observation: Float[Array, "steps envs size"]
    ) -> PyTree:
        """What the actor learns from; `observation` is normalised."""
        del state
        return make_actor_batch(rollout, observation, self.config.discount)

    def initial_method_state(self, policy: GaussianPolicy) -> PyTree:
        """What only this method keeps in `TrainState.method`."""
        del policy
        return None

    def update_method_state(
        self, state: TrainState, entropy: Float[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """Updates `TrainState.method` after the actor, given the mean entropy in nats."""
        del entropy
        return state, {}

    def init(self, env: Env, key: Array) -> TrainState:
        """See `Algorithm.init`."""
        config, spec, keys = self.config, env.spec, start_keys(key)
        mirror = config.mirror_of(spec)
        policy = TanhGaussianPolicy(
            spec.observation_size,
            spec.action_size,
            config.actor_hidden_sizes,
            keys.policy,
            mirror=mirror,
            initial_std=config.initial_std,
        )
        critics = new_state_values(
            spec.observation_size,
            config.critic_hidden_sizes,
            config.num_critics,
            keys.critics,
            critic=config.critic,
            discount=config.discount,
            mirror=None if mirror is None else mirror.observation,
        )
        return fresh_state(
            env,
            config,
            keys,
            policy=policy,
            critics=critics,
            actor_optimizer=self.optimizer.init(policy),
            critic_optimizer=self.optimizer.init(critics.networks),
            method=self.initial_method_state(policy),
        )

    def update(self, env: Env, state: TrainState) -> tuple[TrainState, Metrics]:
        """See `Algorithm.update`."""
        config, keys = self.config, iteration_keys(state.key, state.iteration)
        learning_rate = self.learning_rate(state)

        rollout = self.rollout(env, state, keys.acting)
        segment, observation = rollout.segment, state.normalizer(rollout.segment.observation)
        metrics = self._rollout_metrics(rollout)
        rollout, gradient_metrics = bound_action_gradients(
            rollout, config.max_action_gradient_ratio, self.axis
        )
        target = self.value_target(segment, rollout.auxiliary, self.entropy_coefficient(state))
        target, metrics["value_target_clip_fraction"] = bound_values(target, self.axis)

        batch = self.make_batch(state, rollout, observation)
        state = dataclasses.replace(state, environments=rollout.environments)
        state, actor_metrics = self.update_actor(state, batch, learning_rate)
        state, method_metrics = self.update_method_state(state, metrics["entropy"])
        state, critic_metrics = self.train_critics(state, observation, target, keys.learning)

        state, ending = end_iteration(state, segment, self.axis)
        metrics |= gradient_metrics | actor_metrics | method_metrics | critic_metrics | ending
        return state, metrics | {"learning_rate": learning_rate}

    def learning_rate(self, state: TrainState) -> Float[Array, ""]:
        """Of the actor, in this iteration."""
        config = self.config
        return learning_rate_at(
            state.iteration,
            schedule=config.actor_learning_rate_schedule,
            initial=config.actor_learning_rate,
            final=config.actor_learning_rate_final,
            total_iterations=config.total_iterations,
            hold=config.actor_learning_rate_hold,
        )

    def rollout(self, env: Env, state: TrainState, key: Array) -> Rollout:
        """Rolls out the current policy; `auxiliary` is next_value (steps, envs, critics).

        What is differentiated is handed down as a function: the rollout works block by block, and
        one block's forward and backward pass must follow each other while its data is in cache.
        """
        coefficient = self.entropy_coefficient(state)
        local_envs = state.environments.episode_return.shape[0]

        def objective(segment: Segment) -> tuple[Array, Array]:
            values = frozen_values(state.critics, state.normalizer(segment.final_observation))
            reward = reward_with_entropy(segment, coefficient)
            value = self.actor_return(segment, reward, jnp.mean(values, axis=0))
            return value, jnp.moveaxis(values, 0, -1)

        return rollout_with_action_gradients(
            env,
            state.policy,
            state.normalizer,
            state.environments,
            environment_keys(key, environment_indices(local_envs, self.axis)),
            horizon=self.config.horizon,
            block_size=self.config.block_size,
            objective=objective,
        )

    def value_target(
        self,
        segment: Segment,
        next_value: Float[Array, "steps envs critics"],
        coefficient: Float[Array, ""] | float,
    ) -> Float[Array, "steps envs"]:
        """TD(lambda) targets of rewards with entropy."""
        combine = jnp.mean if self.config.target_value == "mean" else jnp.min
        return td_lambda(
            reward_with_entropy(segment, coefficient),
            combine(next_value, axis=-1),
            segment.terminated,
            segment.truncated,
            self.config.discount,
            self.config.td_lambda,
        )

    def train_critics(
        self,
        state: TrainState,
        observation: Float[Array, "steps envs size"],
        target: Float[Array, "steps envs"],
        key: UInt32[Array, "2"],
    ) -> tuple[TrainState, Metrics]:
        """All passes of the critics over the rollout; `observation` is normalised."""
        config = self.config
        critics, optimizer, metrics = fit_critics(
            state.critics,
            state.critic_optimizer,
            observation,
            target,
            key,
            environment_indices(target.shape[1], self.axis),
            optimizer=self.optimizer,
            learning_rate=config.critic_learning_rate,
            passes=config.critic_passes,
            minibatches=config.critic_minibatches,
            axis=self.axis,
        )
        return dataclasses.replace(state, critics=critics, critic_optimizer=optimizer), metrics

    def _rollout_metrics(self, rollout: Rollout) -> Metrics:
        segment = rollout.segment
        means = {
            "entropy": segment.entropy.mean(),
            "std": segment.distribution.std.mean(),
            "value": rollout.auxiliary.mean(),
        }
        lost = (~rollout.gradient_finite).sum().astype(segment.reward.dtype)
        return device_mean(means, self.axis) | {"non_finite_gradients": device_sum(lost, self.axis)}


def descend_once(
    algorithm: FirstOrderAlgorithm,
    loss: ActorLoss[ActorBatch],
    state: TrainState,
    batch: ActorBatch,
    learning_rate: Float[Array, ""],
) -> tuple[TrainState, Metrics]:
    """One step of the actor against the gradient of a loss, and how far it moved the policy."""
    gradient, _ = actor_gradient(loss, state.policy, batch, algorithm.axis)
    policy, optimizer, norm = algorithm.optimizer.step(
        state.policy, state.actor_optimizer, gradient, learning_rate
    )
    state = dataclasses.replace(state, policy=policy, actor_optimizer=optimizer)
    kl = device_mean(divergence(policy, batch), algorithm.axis)
    return state, {"actor_gradient_norm": norm, "kl_update": kl}
