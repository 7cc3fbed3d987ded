"""Fitting the critics to value targets, shared by all methods that have state values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

from rpo.algorithms.devices import device_mean, environment_keys
from rpo.algorithms.optimizer import Optimizer, OptimizerState
from rpo.nets import CriticEnsemble


def value_loss(
    critics: CriticEnsemble,
    observation: Float[Array, "samples observation"],
    target: Float[Array, " samples"],
) -> Float[Array, ""]:
    """Mean over critics and samples of the squared error (eq. 15)."""
    return jnp.mean((critics(observation) - target) ** 2)


def fit_critics(
    critics: CriticEnsemble,
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
) -> tuple[CriticEnsemble, OptimizerState, dict[str, Float[Array, ""]]]:
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
        critics, optimiser state, and the metrics `value_loss` and `critic_gradient_norm`, both
        means over all minibatches.
    """
    steps, envs = target.shape
    samples = observation.reshape(steps * envs, -1)
    targets = target.reshape(-1)
    rows = shuffled_rows(key, indices, steps, passes).reshape(passes * minibatches, -1)

    def fit(
        carry: tuple[CriticEnsemble, OptimizerState], chosen: Array
    ) -> tuple[tuple[CriticEnsemble, OptimizerState], tuple[Array, Array]]:
        critics, state = carry
        loss, gradient = jax.value_and_grad(value_loss)(critics, samples[chosen], targets[chosen])
        loss, gradient = device_mean((loss, gradient), axis)
        critics, state, norm = optimizer.step(critics, state, gradient, learning_rate)
        return (critics, state), (loss, norm)

    (critics, optimizer_state), (losses, norms) = lax.scan(fit, (critics, optimizer_state), rows)
    metrics = {"value_loss": losses.mean(), "critic_gradient_norm": norms.mean()}
    return critics, optimizer_state, metrics


def shuffled_rows(
    key: UInt32[Array, "2"], indices: Int[Array, " envs"], steps: int, passes: int
) -> Int[Array, "passes steps envs"]:
    """Rows of the (steps * envs) samples: per pass, each environment's steps in random order."""

    def permutations(env_key: Array) -> Array:
        return jnp.argsort(jax.random.bits(env_key, (passes, steps)), axis=1)

    order = jax.vmap(permutations, out_axes=2)(environment_keys(key, indices))
    return order * len(indices) + jnp.arange(len(indices))
