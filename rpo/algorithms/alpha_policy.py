"""The alpha policy of GI-PPO: the actor after small steps of all actions along dA/du.

The actions mean + std * eps, with the recorded noise eps held constant, are fitted to the targets
u + alpha * dA/du.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rpo.algorithms.attempts import Actor, Outcome, Trained, attempt_until_better
from rpo.algorithms.base import Metrics
from rpo.algorithms.optimizer import Optimizer
from rpo.algorithms.surrogate import Samples, actor_gradient
from rpo.nets import GaussianPolicy


class AdvantageBatch(Samples):
    """The cached samples.

    Args:
        advantage: A_t, not normalised.
        gradient: dA_t/du_t.
    """

    advantage: Float[Array, "*batch"]
    gradient: Float[Array, "*batch action"]


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
    attempts: int,
    axis: str | None,
) -> Outcome:
    """Fits the actor to u + alpha * dA/du.

    An attempt (`attempt_until_better`) fails if the loss before its last step exceeds that before
    its first one. The metric `gradient_norm` is the mean over the steps, before clipping.

    Args:
        actor: policy that collected the batch, and its optimiser.
        batch: the samples.
        alpha: step length.
        optimizer: that makes the steps.
        learning_rate: of the first attempt.
        steps: of an attempt, on the full batch.
        attempts: at most.
        axis: name of the mapped device axis, if any.
    """

    def loss(policy: GaussianPolicy, chunk: AdvantageBatch) -> tuple[Array, Metrics]:
        value = regression_loss(policy, chunk, alpha)
        return value, {"loss": value}

    def regression(actor: Actor, rate: Float[Array, ""]) -> Trained:
        def step(actor: Actor, _: None) -> tuple[Actor, tuple[Array, Array]]:
            policy, state = actor
            gradient, found = actor_gradient(loss, policy, batch, axis)
            policy, state, norm = optimizer.step(policy, state, gradient, rate)
            return (policy, state), (found["loss"], norm)

        fitted, (losses, norms) = lax.scan(step, actor, length=steps)
        return Trained(fitted, losses[0], losses[-1], {"gradient_norm": norms.mean()})

    return attempt_until_better(regression, actor, learning_rate, attempts)
