"""The entropy coefficient alpha of SAPO and SAC, which moves the policy's entropy to a target."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rpo.algorithms.optimizer import Optimizer, OptimizerState


def target_entropy(action_size: int) -> float:
    """-action_size / 2, in nats."""
    return -0.5 * action_size


class Temperature(eqx.Module):
    """alpha = exp(log_alpha) and its optimiser."""

    log_alpha: Float[Array, ""]
    optimizer: OptimizerState

    @property
    def alpha(self) -> Float[Array, ""]:
        """The entropy coefficient."""
        return jnp.exp(self.log_alpha)

    def step(
        self, excess: Float[Array, ""], optimizer: Optimizer, learning_rate: float
    ) -> Temperature:
        """One descent step on alpha * excess.

        Args:
            excess: mean entropy beyond the target, in nats; a constant factor scales the gradient.
            optimizer: that makes the step.
            learning_rate: of log(alpha); zero keeps alpha fixed.
        """
        log_alpha, state, _ = optimizer.step(
            self.log_alpha, self.optimizer, self.alpha * excess, learning_rate
        )
        return Temperature(log_alpha, state)


def new_temperature(initial: float, optimizer: Optimizer) -> Temperature:
    """A temperature that starts at `initial`."""
    log_alpha = jnp.asarray(math.log(initial), jax.dtypes.canonicalize_dtype(float))
    return Temperature(log_alpha, optimizer.init(log_alpha))
