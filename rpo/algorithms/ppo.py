"""Proximal Policy Optimization (Schulman et al. 2017). No derivative of the environment is taken.

Each iteration collects H steps in N environments and makes several epochs of minibatch descent on

    - mean min(rho * A, clip(rho, 1 - c, 1 + c) * A) + value_coefficient / 2 * mean (V - target)^2
    + bound_coefficient * bound loss - entropy_coefficient * entropy

with the importance ratio rho of the recorded actions and advantages A from generalised advantage
estimation, normalised over the batch. After each epoch the learning rate follows the divergence
from the policy that collected the batch.
"""

from __future__ import annotations

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt32

from rpo.algorithms.base import (
    Algorithm,
    Environments,
    Experience,
    Metrics,
    TrainState,
    fresh_state,
    per_epoch,
)
from rpo.algorithms.bounds import bound_values
from rpo.algorithms.collection import collect
from rpo.algorithms.config import MethodConfig, require, require_ranges
from rpo.algorithms.critic_training import shuffled_rows
from rpo.algorithms.devices import (
    device_max,
    device_mean,
    environment_indices,
    environment_keys,
    environment_noise,
    standardize,
)
from rpo.algorithms.iteration import end_iteration
from rpo.algorithms.keys import iteration_keys, start_keys
from rpo.algorithms.optimizer import Optimizer, OptimizerState
from rpo.algorithms.returns import generalized_advantage
from rpo.algorithms.surrogate import Samples, clipped_objective, importance_ratio
from rpo.envs.base import Env
from rpo.nets import (
    ClippedGaussianPolicy,
    CriticEnsemble,
    GaussianPolicy,
    Normalizer,
    new_normalizer,
)

RATE_FACTOR = 1.5
"""By which the learning rate moves after an epoch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOConfig(MethodConfig):
    """Settings of PPO. The defaults are the paper's (Tables 2 and 3, Ant).

    Args:
        gae_lambda: lambda of the advantages.
        epochs: passes over the batch per iteration.
        minibatches: per epoch; must divide the horizon.
        clip: c, how far the importance ratio may leave 1 before its gradient vanishes.
        value_coefficient: weight of half the mean squared error of the values.
        entropy_coefficient: weight of the entropy before clipping by the environment.
        bound_coefficient: weight of the bound loss.
        bound_limit: magnitude of the mean beyond which the bound loss begins.
        learning_rate: at the start, of actor and critic.
        kl_threshold: divergence per epoch that the learning rate aims at; 0 keeps the rate fixed.
        min_learning_rate: lowest rate.
        max_learning_rate: highest rate.
        epsilon: of AdamW.

    Raises:
        ValueError: if a setting is out of range, with one line that says what to change.
    """

    gae_lambda: float = 0.95
    epochs: int = 5
    minibatches: int = 4
    clip: float = 0.2
    value_coefficient: float = 4.0
    entropy_coefficient: float = 0.0
    bound_coefficient: float = 1e-4
    bound_limit: float = 1.1
    learning_rate: float = 5e-4
    kl_threshold: float = 0.008
    min_learning_rate: float = 1e-6
    max_learning_rate: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ranges(
            self,
            counts=("epochs", "minibatches"),
            positive=("clip", "learning_rate", "min_learning_rate", "epsilon"),
            not_negative=(
                *("value_coefficient", "entropy_coefficient", "bound_coefficient", "bound_limit"),
                "kl_threshold",
            ),
            fractions=("gae_lambda",),
            parts_of_horizon=("minibatches",),
        )
        require(self.clip <= 1, f"clip is {self.clip}, must be at most 1: ratios are positive")
        require(
            self.max_learning_rate >= self.min_learning_rate,
            f"max_learning_rate is {self.max_learning_rate}, must be at least min_learning_rate "
            f"({self.min_learning_rate})",
        )


def bound_loss(mean: Float[Array, "*batch action"], limit: float) -> Float[Array, "*batch"]:
    """Squared excess of |mean| over `limit`, summed; zero for means in tanh's range and 1.1."""
    return jnp.sum(jnp.maximum(jnp.abs(mean) - limit, 0) ** 2, axis=-1)


def adapted_learning_rate(
    learning_rate: Float[Array, ""],
    kl: Float[Array, ""],
    *,
    threshold: float,
    lowest: float,
    highest: float,
) -> Float[Array, ""]:
    """Divided by 1.5 if the divergence exceeds twice the threshold, times 1.5 if below half of it.

    A threshold of 0 leaves the rate as it is.
    """
    if threshold == 0:
        return learning_rate
    lower = jnp.maximum(learning_rate / RATE_FACTOR, lowest)
    higher = jnp.minimum(learning_rate * RATE_FACTOR, highest)
    rate = jnp.where(kl > 2 * threshold, lower, learning_rate)
    return jnp.where(kl < threshold / 2, higher, rate)


class PPOState(eqx.Module):
    """What PPO keeps beside the shared state.

    Args:
        value_normalizer: running statistics of the value targets; the critic's output is relative
            to them.
        learning_rate: current.
    """

    value_normalizer: Normalizer
    learning_rate: Float[Array, ""]


class PPOBatch(Samples):
    """The samples of an iteration.

    Args:
        advantage: normalised over the batch.
        target: of the value, normalised.
    """

    advantage: Float[Array, "*batch"]
    target: Float[Array, "*batch"]


class Networks(eqx.Module):
    """What one optimiser moves."""

    policy: GaussianPolicy
    critics: CriticEnsemble


Learner = tuple[Networks, OptimizerState]


class PPO(Algorithm):
    """Proximal Policy Optimization."""

    config: PPOConfig = eqx.field(static=True)

    @property
    def optimizer(self) -> Optimizer:
        """Of actor and critic together: gradients are clipped by their joint norm."""
        return dataclasses.replace(super().optimizer, epsilon=self.config.epsilon)

    def init(self, env: Env, key: Array) -> TrainState:
        """See `Algorithm.init`. The state of the only optimiser is `actor_optimizer`."""
        config, spec, keys = self.config, env.spec, start_keys(key)
        mirror, observation = config.mirror_of(spec), spec.observation_size
        policy = ClippedGaussianPolicy(
            observation, spec.action_size, config.actor_hidden_sizes, keys.policy, mirror=mirror
        )
        critics = CriticEnsemble(
            observation,
            config.critic_hidden_sizes,
            1,
            keys.critics,
            gain=math.sqrt(2),
            mirror=None if mirror is None else mirror.observation,
        )
        dtype = jax.dtypes.canonicalize_dtype(float)
        return fresh_state(
            env,
            config,
            keys,
            policy=policy,
            critics=critics,
            actor_optimizer=self.optimizer.init(Networks(policy, critics)),
            critic_optimizer=self.optimizer.init(()),
            method=PPOState(new_normalizer(1), jnp.asarray(config.learning_rate, dtype)),
        )

    def continued(self, fresh: TrainState, old: TrainState) -> TrainState:
        """See `Algorithm.continued`; the learning rate starts anew."""
        state = super().continued(fresh, old)
        method = PPOState(old.method.value_normalizer, fresh.method.learning_rate)
        return dataclasses.replace(state, method=method)

    def update(self, env: Env, state: TrainState) -> tuple[TrainState, Metrics]:
        """See `Algorithm.update`."""
        keys = iteration_keys(state.key, state.iteration)
        environments, experience = self.collect(env, state, keys.acting)
        batch, value_normalizer, metrics = self.make_batch(state, experience)
        method = PPOState(value_normalizer, state.method.learning_rate)
        state = dataclasses.replace(state, environments=environments, method=method)
        state, learning_metrics = self.learn(state, batch, keys.learning)
        state, ending = end_iteration(state, experience, self.axis)
        metrics |= {"learning_rate": method.learning_rate}
        return state, metrics | learning_metrics | ending

    def collect(
        self, env: Env, state: TrainState, key: UInt32[Array, "2"]
    ) -> tuple[Environments, Experience]:
        """Lets the policy act for H steps, with a plain forward simulation."""
        policy, normalizer = state.policy, state.normalizer
        indices = environment_indices(state.environments.episode_return.shape[0], self.axis)
        shape = (self.config.horizon, env.spec.action_size)
        noise = environment_noise(environment_keys(key, indices), shape)

        def act(observation: Array, noise: Array) -> Array:
            return policy.squash(policy(normalizer(observation)).sample(noise))

        return collect(env, act, state.environments, noise)

    def make_batch(
        self, state: TrainState, experience: Experience
    ) -> tuple[PPOBatch, Normalizer, Metrics]:
        """Advantages and value targets.

        Returns:
            the batch, the statistics of value targets that cover it, and metrics of the policy
            that collected it.
        """
        config = self.config
        observation = state.normalizer(experience.observation)
        value = self.value(state, observation)
        advantage = generalized_advantage(
            experience.reward,
            value,
            self.value(state, state.normalizer(experience.final_observation)),
            experience.terminated,
            experience.truncated,
            config.discount,
            config.gae_lambda,
        )
        advantage, clipped = bound_values(advantage, self.axis)
        target = (advantage + value)[..., None]
        value_normalizer = state.method.value_normalizer.update(target, self.axis)
        old = state.policy(observation)
        batch = PPOBatch(
            observation=observation,
            action=experience.action,
            old=old,
            advantage=standardize(advantage, self.axis),
            target=value_normalizer(target)[..., 0],
        )
        means = {"value": value.mean(), "std": old.std.mean(), "entropy": old.entropy().mean()}
        metrics = device_mean(means, self.axis) | {"value_target_clip_fraction": clipped}
        return batch, value_normalizer, metrics

    def value(
        self, state: TrainState, observation: Float[Array, "*batch observation"]
    ) -> Float[Array, "*batch"]:
        """Value in units of reward, for normalised observations."""
        normalizer: Normalizer = state.method.value_normalizer
        return normalizer.denormalize(state.critics(observation)[0][..., None])[..., 0]

    def loss(self, networks: Networks, batch: PPOBatch) -> tuple[Float[Array, ""], Metrics]:
        """What is minimised, a mean over samples, and its diagnostics."""
        config = self.config
        distribution = networks.policy(batch.observation)
        ratio = importance_ratio(distribution, batch)
        value_loss = jnp.mean((networks.critics(batch.observation) - batch.target) ** 2)
        loss = 0.5 * config.value_coefficient * value_loss
        loss -= jnp.mean(clipped_objective(ratio, batch.advantage, config.clip))
        loss -= config.entropy_coefficient * jnp.mean(distribution.entropy())
        loss += config.bound_coefficient * jnp.mean(
            bound_loss(distribution.mean, config.bound_limit)
        )
        return loss, {
            "kl": jnp.mean(distribution.kl_from(batch.old)),
            "clip_fraction": jnp.mean(jnp.abs(ratio - 1) > config.clip),
            "ratio_max": jnp.max(ratio),
            "value_loss": value_loss,
        }

    def learn(
        self, state: TrainState, batch: PPOBatch, key: UInt32[Array, "2"]
    ) -> tuple[TrainState, Metrics]:
        """All epochs. Minibatches do not depend on how environments are split over devices."""
        config = self.config
        steps, envs = batch.advantage.shape
        samples = jax.tree.map(lambda x: x.reshape(steps * envs, *x.shape[2:]), batch)
        indices = environment_indices(envs, self.axis)
        rows = shuffled_rows(key, indices, steps, config.epochs)

        def epoch(
            carry: tuple[Learner, Array], rows: Array
        ) -> tuple[tuple[Learner, Array], Metrics]:
            learner, learning_rate = carry

            def step(learner: Learner, chosen: Array) -> tuple[Learner, Metrics]:
                minibatch = jax.tree.map(lambda x: x[chosen], samples)
                return self.descend(learner, minibatch, learning_rate)

            learner, metrics = lax.scan(step, learner, rows)
            ratio_max = metrics.pop("ratio_max").max()
            metrics = {name: value.mean() for name, value in metrics.items()}
            learning_rate = adapted_learning_rate(
                learning_rate,
                metrics["kl"],
                threshold=config.kl_threshold,
                lowest=config.min_learning_rate,
                highest=config.max_learning_rate,
            )
            return (learner, learning_rate), metrics | {"ratio_max": ratio_max}

        learner = (Networks(state.policy, state.critics), state.actor_optimizer)
        ((networks, optimizer), learning_rate), epochs = lax.scan(
            epoch,
            (learner, state.method.learning_rate),
            rows.reshape(config.epochs, config.minibatches, -1),
        )
        state = dataclasses.replace(
            state,
            policy=networks.policy,
            critics=networks.critics,
            actor_optimizer=optimizer,
            method=PPOState(state.method.value_normalizer, learning_rate),
        )
        metrics = per_epoch(kl=epochs.pop("kl"), ratio_max=epochs.pop("ratio_max"))
        return state, metrics | {name: values.mean() for name, values in epochs.items()}

    def descend(
        self, learner: Learner, minibatch: PPOBatch, learning_rate: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        """One step of descent on a minibatch."""
        networks, optimizer = learner
        gradient, metrics = jax.grad(self.loss, has_aux=True)(networks, minibatch)
        ratio_max = device_max(metrics.pop("ratio_max"), self.axis)
        gradient, metrics = device_mean((gradient, metrics), self.axis)
        networks, optimizer, norm = self.optimizer.step(
            networks, optimizer, gradient, learning_rate
        )
        return (networks, optimizer), metrics | {"ratio_max": ratio_max, "gradient_norm": norm}
