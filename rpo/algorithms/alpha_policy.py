"""The alpha policy of GI-PPO: the actor after small steps of all actions along dA/du.

The actions mean + std * eps, with the recorded noise eps held constant, are fitted to the targets
u + alpha * dA/du. If the loss has grown, that starts anew with a smaller learning rate.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from rpo.algorithms.base import Metrics
from rpo.algorithms.devices import device_mean
from rpo.algorithms.optimizer import Optimizer, OptimizerState
from rpo.algorithms.surrogate import actor_gradient
from rpo.nets import Gaussian, GaussianPolicy

RATE_FACTOR = 1.5
"""By which the learning rate falls with every new attempt."""

Actor = tuple[GaussianPolicy, OptimizerState]


class AdvantageBatch(eqx.Module):
    """The cached samples; all lead with (steps, envs), or with samples.

    Args:
        observation: normalised.
        action: u, before squashing.
        old: distribution that u was drawn from.
        advantage: A_t, not normalised.
        gradient: dA_t/du_t.
    """

    observation: Float[Array, "steps envs observation"]
    action: Float[Array, "steps envs action"]
    old: Gaussian
    advantage: Float[Array, "steps envs"]
    gradient: Float[Array, "steps envs action"]


class Fit(eqx.Module):
    """Result of `fit_alpha_policy`.

    Args:
        actor: policy and optimiser after it.
        first_loss: before the first step.
        last_loss: before the last step of the last attempt.
        attempts: how many there were.
        gradient_norm: mean over the steps of the last attempt, before clipping.
    """

    actor: Actor
    first_loss: Float[Array, ""]
    last_loss: Float[Array, ""]
    attempts: Int[Array, ""]
    gradient_norm: Float[Array, ""]

    @property
    def failed(self) -> Array:
        """The loss has grown."""
        return self.last_loss > self.first_loss


def regression_loss(
    policy: GaussianPolicy, batch: AdvantageBatch, alpha: Float[Array, ""]
) -> Float[Array, ""]:
    """Mean over samples of |mean + std * eps - (u + alpha * dA/du)|^2, eps being that behind u."""
    noise = batch.old.noise_of(batch.action)
    target = batch.action + alpha * batch.gradient
    error = policy(batch.observation).sample(noise) - target
    return jnp.mean(jnp.sum(error * error, axis=-1))


def fit_alpha_policy(
    actor: Actor,
    batch: AdvantageBatch,
    alpha: Float[Array, ""],
    *,
    optimizer: Optimizer,
    learning_rate: Float[Array, ""] | float,
    steps: int,
    retries: int,
    axis: str | None,
) -> Fit:
    """Fits the actor to u + alpha * dA/du.

    An attempt fails if the last step's loss exceeds the first one's. Every attempt starts from the
    given actor and moments, with the last one's rate / 1.5. If all fail, the actor stays as it is.

    Args:
        actor: policy that collected the batch, and its optimiser.
        batch: the samples.
        alpha: step length.
        optimizer: that makes the steps.
        learning_rate: of the first attempt.
        steps: of an attempt, on the full batch.
        retries: attempts after the first one.
        axis: name of the mapped device axis, if any.
    """
    start, start_optimizer = actor

    def loss(policy: GaussianPolicy, chunk: AdvantageBatch) -> tuple[Array, Metrics]:
        value = regression_loss(policy, chunk, alpha)
        return value, {"loss": value}

    def attempt(fit: Fit) -> Fit:
        rate = learning_rate / RATE_FACTOR**fit.attempts

        def step(actor: Actor, _: None) -> tuple[Actor, tuple[Array, Array]]:
            policy, state = actor
            gradient, chunks = actor_gradient(loss, policy, batch)
            gradient, value = device_mean((gradient, chunks["loss"].mean()), axis)
            policy, state, norm = optimizer.step(policy, state, gradient, rate)
            return (policy, state), (value, norm)

        again = (start, _with_counts_of(fit.actor[1], start_optimizer))
        fitted, (losses, norms) = lax.scan(step, again, length=steps)
        return Fit(fitted, losses[0], losses[-1], fit.attempts + 1, norms.mean())

    zero = jnp.zeros((), batch.advantage.dtype)
    untried = Fit(actor, zero, zero + jnp.inf, jnp.zeros((), jnp.int32), zero)
    fit: Fit = lax.while_loop(lambda fit: fit.failed & (fit.attempts <= retries), attempt, untried)
    restored = (start, _with_counts_of(fit.actor[1], start_optimizer))
    kept = jax.tree.map(lambda old, new: jnp.where(fit.failed, old, new), restored, fit.actor)
    return Fit(kept, fit.first_loss, fit.last_loss, fit.attempts, fit.gradient_norm)


def _with_counts_of(counted: OptimizerState, moments: OptimizerState) -> OptimizerState:
    """The moments of one state and the counts of skipped steps of another."""
    return OptimizerState(moments.adam, counted.skipped, counted.skipped_in_a_row)
