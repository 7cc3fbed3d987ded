"""Training phases that are undone and tried again at a smaller rate where they make things worse.

GI-PPO has two of them, the regression and PPO (Son et al. 2023, published code).
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from rpo.algorithms.base import Metrics
from rpo.algorithms.optimizer import OptimizerState
from rpo.nets import GaussianPolicy

RATE_FACTOR = 1.5
"""By which the learning rate falls with every new attempt."""

Actor = tuple[GaussianPolicy, OptimizerState]


class Trained(eqx.Module):
    """Result of one attempt at a phase.

    Args:
        actor: policy and optimiser after it.
        first_loss: at its beginning.
        last_loss: at its end.
        metrics: of this attempt, scalars.
    """

    actor: Actor
    first_loss: Float[Array, ""]
    last_loss: Float[Array, ""]
    metrics: Metrics

    @property
    def failed(self) -> Array:
        """The loss has grown."""
        return self.last_loss > self.first_loss


class Outcome(eqx.Module):
    """Result of all attempts at a phase.

    Args:
        actor: policy and optimiser to go on with; those before the phase if it has failed.
        last: the last attempt, undone or not.
        attempts: how many there were.
    """

    actor: Actor
    last: Trained
    attempts: Int[Array, ""]

    @property
    def failed(self) -> Array:
        """No attempt has succeeded: everything was undone."""
        return self.last.failed


def attempt_until_better(
    phase: Callable[[Actor, Float[Array, ""]], Trained],
    actor: Actor,
    learning_rate: Float[Array, ""] | float,
    attempts: int,
) -> Outcome:
    """Runs a phase until its loss has not grown, at most `attempts` times.

    Every attempt starts from the given policy and moments, with the last one's rate / 1.5.
    (The published code keeps the moments of failed attempts, and PPO's rate falls only once.) Only
    the counts of skipped steps go on.

    Args:
        phase: maps an actor and a learning rate to the attempt's result.
        actor: to start from.
        learning_rate: of the first attempt.
        attempts: at least 1.
    """
    rate = jnp.asarray(learning_rate)

    def again(carry: tuple[Int[Array, ""], Trained]) -> tuple[Int[Array, ""], Trained]:
        done, last = carry
        trained = phase(_restored(actor, last.actor), rate / RATE_FACTOR**done)
        return done + 1, trained

    def wanted(carry: tuple[Int[Array, ""], Trained]) -> Array:
        done, last = carry
        return (done == 0) | (last.failed & (done < attempts))

    shapes = jax.eval_shape(phase, actor, rate)
    untried: Trained = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    untried = Trained(actor, untried.first_loss, untried.last_loss, untried.metrics)
    done, last = lax.while_loop(wanted, again, (jnp.zeros((), jnp.int32), untried))
    kept = jax.tree.map(
        lambda old, new: jnp.where(last.failed, old, new), _restored(actor, last.actor), last.actor
    )
    return Outcome(kept, last, done)


def _restored(start: Actor, now: Actor) -> Actor:
    """Policy and moments of `start`, and the counts of skipped steps of `now`."""
    policy, state = start
    return policy, now[1].with_moments(state.adam)
