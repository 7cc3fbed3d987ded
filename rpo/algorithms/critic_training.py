"""Fitting the critics to value targets, shared by all methods that have state values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

from rpo.algorithms.base import Metrics
from rpo.algorithms.chunks import chunked
from rpo.algorithms.devices import device_mean, environment_keys
from rpo.algorithms.optimizer import Optimizer, OptimizerState
from rpo.nets import CriticEnsemble, StateValues

TINY = 1e-12
"""Variance below which targets count as all alike."""


def fit_critics(
    critics: StateValues,
    optimizer_state: OptimizerState,
    observation: Float[Array, "steps envs observation"],
    target: Float[Array, "steps envs"],
    key: UInt32[Array, "2"],
    indices: Int[Array, " envs"],
    *,
    optimizer: Optimizer,
    learning_rate: float | Float[Array, ""],
    passes: int,
    minibatches: int,
    axis: str | None,
) -> tuple[StateValues, OptimizerState, Metrics]:
    """Several passes of minibatch descent over a rollout.

    In every pass each environment's steps are shuffled with a key of its own, and minibatch k takes
    the k-th part of every environment: the minibatches do not depend on how environments are split.

    Args:
        critics: to start from.
        optimizer_state: theirs.
        observation: normalised.
        target: values to regress on.
        key: raw random key of this call.
        indices: global indices of the environments at hand.
        optimizer: that makes the steps.
        learning_rate: of every step.
        passes: over all samples.
        minibatches: per pass; must divide the number of steps.
        axis: name of the mapped device axis, if any.

    Returns:
        critics, optimiser state, and metrics: `value_loss` (mean squared error) and
        `critic_gradient_norm`, both means over all minibatches, and how well the critics predicted
        the targets before they were fitted to them: `explained_variance`, 1 - Var(target - value)
        / Var(target), and `value_bias`, the mean of value - target.
    """
    steps, envs = target.shape
    samples = observation.reshape(steps * envs, -1)
    targets = target.reshape(-1)
    rows = shuffled_rows(key, indices, steps, passes).reshape(passes * minibatches, -1)

    metrics = prediction_metrics(critics, samples, targets, axis)
    moments = (jnp.mean(targets), jnp.mean(targets * targets))
    critics = critics.following(*device_mean(moments, axis))

    def fit(
        carry: tuple[CriticEnsemble, OptimizerState], chosen: Array
    ) -> tuple[tuple[CriticEnsemble, OptimizerState], tuple[Array, Array]]:
        networks, state = carry
        gradient, error = jax.grad(critics.loss, has_aux=True)(
            networks, samples[chosen], targets[chosen]
        )
        gradient, error = device_mean((gradient, error), axis)
        networks, state, norm = optimizer.step(networks, state, gradient, learning_rate)
        return (networks, state), (error, norm)

    start = (critics.networks, optimizer_state)
    (networks, optimizer_state), (errors, norms) = lax.scan(fit, start, rows)
    critics = StateValues(networks, critics.units, critics.critic)
    metrics |= {"value_loss": errors.mean(), "critic_gradient_norm": norms.mean()}
    return critics, optimizer_state, metrics


def prediction_metrics(
    critics: StateValues,
    observation: Float[Array, "samples observation"],
    target: Float[Array, " samples"],
    axis: str | None,
) -> Metrics:
    """`explained_variance` (1 where the mean of the critics is right up to a constant, at most 0
    where it knows no more than the mean target) and `value_bias`, of the critics as they are.
    """
    chunks = chunked(observation, 1)
    value = lax.map(lambda chunk: jnp.mean(critics(chunk), axis=0), chunks).reshape(-1)
    error = value - target
    sums = (error, error * error, target, target * target)
    bias, error_square, mean, square = device_mean(tuple(jnp.mean(x) for x in sums), axis)
    unexplained = (error_square - bias * bias) / jnp.maximum(square - mean * mean, TINY)
    return {"explained_variance": 1.0 - unexplained, "value_bias": bias}


def shuffled_rows(
    key: UInt32[Array, "2"], indices: Int[Array, " envs"], steps: int, passes: int
) -> Int[Array, "passes steps envs"]:
    """Rows of the (steps * envs) samples: per pass, each environment's steps in random order."""

    def permutations(env_key: Array) -> Array:
        return jnp.argsort(jax.random.bits(env_key, (passes, steps)), axis=1)

    order = jax.vmap(permutations, out_axes=2)(environment_keys(key, indices))
    return order * len(indices) + jnp.arange(len(indices))
