"""The diagonal Gaussian over pre-squash actions, and its image under tanh."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Gaussian(eqx.Module):
    """Independent normal distributions; the last axis is the action dimension.

    Args:
        mean: centre.
        log_std: natural logarithm of the standard deviation.
    """

    mean: Float[Array, "*batch action"]
    log_std: Float[Array, "*batch action"]

    @property
    def std(self) -> Float[Array, "*batch action"]:
        """Standard deviation."""
        return jnp.exp(self.log_std)

    def sample(self, noise: Float[Array, "*batch action"]) -> Float[Array, "*batch action"]:
        """The reparameterised sample mean + std * noise (eq. 2), noise being standard normal."""
        return self.mean + self.std * noise

    def noise_of(self, sample: Float[Array, "*batch action"]) -> Float[Array, "*batch action"]:
        """The noise that `sample` would have needed: the inverse of `sample` (eq. 10)."""
        return (sample - self.mean) * jnp.exp(-self.log_std)

    def log_prob(self, sample: Float[Array, "*batch action"]) -> Float[Array, "*batch"]:
        """Log density of `sample`, joint over the action dimensions, in nats."""
        noise = self.noise_of(sample)
        per_dimension = -0.5 * noise * noise - self.log_std - 0.5 * math.log(2.0 * math.pi)
        return jnp.sum(per_dimension, axis=-1)

    def entropy(self) -> Float[Array, "*batch"]:
        """Differential entropy before squashing, joint over the action dimensions, in nats."""
        return jnp.sum(self.log_std + 0.5 * (1.0 + math.log(2.0 * math.pi)), axis=-1)

    def kl_from(self, old: Gaussian) -> Float[Array, "*batch"]:
        """KL(old || self), analytic, joint over the action dimensions (eq. 12), in nats.

        tanh is invertible, so the squashed distributions have the same divergence.
        """
        log_ratio = self.log_std - old.log_std
        distance = (old.mean - self.mean) * jnp.exp(-self.log_std)
        # expm1 keeps the cancellation exact when the two are equal or nearly so
        per_dimension = 0.5 * (jnp.expm1(-2.0 * log_ratio) + distance * distance) + log_ratio
        return jnp.sum(per_dimension, axis=-1)

    def squashed_entropy_sample(
        self, noise: Float[Array, "*batch action"]
    ) -> Float[Array, "*batch"]:
        """One-sample estimate of the entropy of tanh(sample): minus its log density, in nats.

        Differentiable through the sample. Averaged over standard normal `noise` it is the entropy.
        """
        sample = self.sample(noise)
        log_prob = -0.5 * noise * noise - self.log_std - 0.5 * math.log(2.0 * math.pi)
        return jnp.sum(log_tanh_slope(sample) - log_prob, axis=-1)


def log_tanh_slope(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 - tanh(x)^2), without the cancellation that makes it infinite beyond |x| = 9."""
    return 2.0 * (math.log(2.0) - x - jax.nn.softplus(-2.0 * x))
