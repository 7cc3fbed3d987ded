"""Running mean and variance of observations."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rpo.mirror import SignedPermutation

VARIANCE_EPSILON = 1e-5
LARGEST = 1e3
"""Magnitude that no normalised number exceeds. Layer normalisation makes networks blind to more;
from 1e19 on, its variance would overflow."""


class Normalizer(eqx.Module):
    """Maps observations to about zero mean and unit variance, with statistics of all data so far.

    Args:
        mean: running mean per feature.
        variance: running (population) variance per feature.
        count: number of samples behind them; zero at first, when mean 0 and variance 1 hold.
        mirror: counts every sample as if what it makes of it had been seen as well, if there is
            one; else None.
    """

    mean: Float[Array, " features"]
    variance: Float[Array, " features"]
    count: Float[Array, ""]
    mirror: SignedPermutation | None = eqx.field(static=True, default=None)

    @property
    def std(self) -> Float[Array, " features"]:
        """sqrt(variance + 1e-5), the unit of normalised numbers."""
        return jnp.sqrt(self.variance + VARIANCE_EPSILON)

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        """(x - mean) / sqrt(variance + 1e-5), clipped to +-1000.

        No gradient reaches the statistics, and none passes where it was clipped.
        """
        mean, variance = lax.stop_gradient((self.mean, self.variance))
        return jnp.clip((x - mean) * lax.rsqrt(variance + VARIANCE_EPSILON), -LARGEST, LARGEST)

    def denormalize(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        """The inverse of calling it."""
        return x * self.std + self.mean

    def update(self, batch: Float[Array, "*batch features"], axis: str | None = None) -> Normalizer:
        """Statistics that also cover `batch` (Chan et al.'s parallel form of Welford's update).

        Args:
            batch: new samples; every axis but the last is a batch axis.
            axis: name of the mapped device axis that `batch` is split over, if any.
        """
        samples = batch.reshape(-1, batch.shape[-1])
        if self.mirror is not None:
            samples = jnp.concatenate([samples, self.mirror(samples)])
        count = jnp.asarray(samples.shape[0], self.count.dtype)
        mean = jnp.mean(samples, axis=0)
        if axis is not None:
            mean = lax.pmean(mean, axis)
            count = count * lax.axis_size(axis)
        variance = jnp.mean((samples - mean) ** 2, axis=0)
        if axis is not None:
            variance = lax.pmean(variance, axis)

        total = self.count + count
        difference = mean - self.mean
        share = count / total
        return Normalizer(
            mean=self.mean + difference * share,
            variance=self.variance * (1.0 - share)
            + variance * share
            + difference * difference * share * (1.0 - share),
            count=total,
            mirror=self.mirror,
        )


def new_normalizer(features: int, mirror: SignedPermutation | None = None) -> Normalizer:
    """The identity, up to epsilon: no samples seen. The mirror as in `Normalizer`."""
    return Normalizer(jnp.zeros(features), jnp.ones(features), jnp.zeros(()), mirror)
