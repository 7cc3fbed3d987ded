"""The PPO phase of GI-PPO: from the alpha policy on, on samples of the policy before it.

Importance ratios are relative to (pi_old + pi_alpha) / 2.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt32

from rpo.algorithms.attempts import Actor, Outcome, Trained, attempt_until_better
from rpo.algorithms.base import Metrics, per_epoch
from rpo.algorithms.critic_training import shuffled_rows
from rpo.algorithms.devices import device_max, environment_indices
from rpo.algorithms.optimizer import Optimizer
from rpo.algorithms.surrogate import Samples, actor_gradient, clipped_objective
from rpo.nets import GaussianPolicy

MAX_LOG_RATIO = 16.0
"""At which log ratios are clamped."""
MAX_LOG_DIFFERENCE = 4.0
"""Of pi_alpha and pi_old, beyond which their mean no longer is the denominator of the ratio."""


class PPOBatch(Samples):
    """The samples of the PPO phase.

    Args:
        log_denominator: log density of u that ratios are relative to.
        advantage: normalised over the batch.
    """

    log_denominator: Float[Array, "*batch"]
    advantage: Float[Array, "*batch"]


def density_ratio(
    log_numerator: Float[Array, "*batch"], log_denominator: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """The ratio of two densities; its logarithm is clamped to +-16."""
    return jnp.exp(jnp.clip(log_numerator - log_denominator, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def log_denominator(
    log_old: Float[Array, "*batch"], log_alpha: Float[Array, "*batch"], axis: str | None
) -> Float[Array, "*batch"]:
    """log((pi_old + pi_alpha) / 2); log pi_alpha if the two are far apart in any sample."""
    largest = device_max(jnp.max(jnp.abs(log_alpha - log_old)), axis)
    mean = jnp.logaddexp(log_old, log_alpha) - math.log(2.0)
    return jnp.where(largest > MAX_LOG_DIFFERENCE, log_alpha, mean)


def ppo_loss(
    policy: GaussianPolicy, batch: PPOBatch, clip: float
) -> tuple[Float[Array, ""], Metrics]:
    """Minus the clipped objective, and its diagnostics."""
    distribution = policy(batch.observation)
    ratio = density_ratio(distribution.log_prob(batch.action), batch.log_denominator)
    loss = -jnp.mean(clipped_objective(ratio, batch.advantage, clip))
    return loss, {
        "loss": loss,
        "kl": jnp.mean(distribution.kl_from(batch.old)),
        "clip_fraction": jnp.mean(jnp.abs(ratio - 1) > clip),
        "ratio_max": jnp.max(ratio),
    }


def train_ppo(
    actor: Actor,
    batch: PPOBatch,
    key: UInt32[Array, "2"],
    *,
    optimizer: Optimizer,
    learning_rate: Float[Array, ""],
    clip: float,
    epochs: int,
    minibatches: int,
    attempts: int,
    axis: str | None,
) -> Outcome:
    """All epochs of the phase.

    An attempt (`attempt_until_better`) fails if its last epoch's mean loss exceeds its first one's.
    Minibatches do not depend on how environments are split over devices, nor on the attempt.

    Args:
        actor: the alpha policy, and PPO's optimiser.
        batch: the samples.
        key: raw random key of the minibatches.
        optimizer: that makes the steps.
        learning_rate: of the first attempt.
        clip: how far a ratio may leave 1.
        epochs: passes over the batch.
        minibatches: per pass; must divide the number of steps.
        attempts: at most.
        axis: name of the mapped device axis, if any.
    """
    steps, envs = batch.advantage.shape
    samples = jax.tree.map(lambda x: x.reshape(steps * envs, *x.shape[2:]), batch)
    rows = shuffled_rows(key, environment_indices(envs, axis), steps, epochs)
    rows = rows.reshape(epochs * minibatches, -1, envs)

    def loss(policy: GaussianPolicy, chunk: PPOBatch) -> tuple[Array, Metrics]:
        return ppo_loss(policy, chunk, clip)

    def descent(actor: Actor, rate: Float[Array, ""]) -> Trained:
        def step(actor: Actor, chosen: Array) -> tuple[Actor, Metrics]:
            policy, state = actor
            minibatch = jax.tree.map(lambda x: x[chosen], samples)
            gradient, found = actor_gradient(loss, policy, minibatch, axis)
            policy, state, norm = optimizer.step(policy, state, gradient, rate)
            return (policy, state), found | {"actor_gradient_norm": norm}

        trained, metrics = lax.scan(step, actor, rows)
        losses, kl, ratio_max = (
            metrics.pop(name).reshape(epochs, minibatches) for name in ("loss", "kl", "ratio_max")
        )
        losses = losses.mean(axis=1)
        means = {name: value.mean() for name, value in metrics.items()}
        means |= per_epoch(kl=kl.mean(axis=1), ratio_max=ratio_max.max(axis=1))
        return Trained(trained, losses[0], losses[-1], means)

    return attempt_until_better(descent, actor, learning_rate, attempts)
