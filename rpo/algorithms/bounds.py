"""How far one environment can move what is learned from a whole batch.

A contact solver that is about to diverge gives finite but huge numbers in one environment among
hundreds. Each bound here is a multiple of what the median environment of the batch reaches: it has
no units, follows the batch wherever that goes, and up to half of the environments cannot move it.
What lies within it passes to the last digit.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rpo.algorithms.base import Metrics
from rpo.algorithms.devices import device_max, device_mean, environment_median
from rpo.algorithms.rollout import Rollout
from rpo.nets import Normalizer

MAX_DEVIATION = 100.0
"""Of values and observations: as a multiple of the median environment's largest deviation."""
SMALLEST_DEVIATION = 1.0
"""Of values, in units of the return: where most environments' values are all alike (few have found
the reward yet), the others may still differ by MAX_DEVIATION times this."""

LARGEST_GRADIENT = 1e37
"""Above which entries of an action gradient are not told apart. XLA divides by multiplying with the
inverse, and flushes that of larger numbers to zero in single precision."""
SMALLEST_GRADIENT = 1e-30
"""Below which no entry of an action gradient needs to be told from zero."""


def bound_action_gradients(
    rollout: Rollout, ratio: float, axis: str | None
) -> tuple[Rollout, Metrics]:
    """Scales down every environment's action gradient whose norm is beyond the bound.

    The norm is over all steps and actions of the environment, so that the direction remains.
    Neither it nor the result overflows, whatever finite entries there are.

    Args:
        rollout: with gradients of any finite size.
        ratio: the bound, as a multiple of the median norm over all devices' environments. Those
            without any gradient do not count.
        axis: name of the mapped device axis, or None.

    Returns:
        the rollout, and metrics: `action_gradient_norm`, the mean over samples after clipping;
        `action_gradient_norm_max`, the largest norm of an environment before it, and
        `action_gradient_ratio_max`, the same relative to the median;
        `action_gradient_clip_fraction`, the share of environments that were scaled down.
    """
    gradient = rollout.action_gradient
    highest = np.finfo(gradient.dtype).max
    # squares of numbers in [-1, 1] do not overflow
    entries = jnp.clip(gradient, -LARGEST_GRADIENT, LARGEST_GRADIENT)
    largest = jnp.maximum(jnp.max(jnp.abs(entries), axis=(0, 2)), SMALLEST_GRADIENT)
    relative = entries / largest[:, None]
    length = jnp.sqrt(jnp.sum(relative * relative, axis=(0, 2)))
    norm = jnp.minimum(largest * length, highest)

    median = environment_median(norm, axis, counted=norm > 0)
    # no gradient anywhere: no scale, and nothing to bound
    bound = jnp.where(median > 0, ratio * median, jnp.inf)
    clipped = norm > bound
    scale = jnp.where(clipped, bound / jnp.maximum(length, 1), 0)
    gradient = jnp.where(clipped[:, None], relative * scale[:, None], gradient)

    means = {
        "action_gradient_norm": jnp.linalg.norm(gradient, axis=-1).mean(),
        "action_gradient_clip_fraction": jnp.mean(clipped, dtype=norm.dtype),
    }
    norm_max = device_max(jnp.max(norm), axis)
    metrics = device_mean(means, axis) | {
        "action_gradient_norm_max": norm_max,
        "action_gradient_ratio_max": jnp.where(median > 0, norm_max / median, 1).clip(max=highest),
    }
    return dataclasses.replace(rollout, action_gradient=gradient), metrics


def bound_values(
    values: Float[Array, "steps envs"], axis: str | None
) -> tuple[Float[Array, "steps envs"], Float[Array, ""]]:
    """Clips value targets or advantages to MAX_DEVIATION around the median environment's mean.

    Args:
        values: in units of the return; infinite ones are clipped, NaN becomes the centre.
        axis: name of the mapped device axis, or None.

    Returns:
        the values, and the share of them that were clipped.
    """
    centre = environment_median(jnp.mean(values, axis=0), axis)
    reach = environment_median(jnp.max(jnp.abs(values - centre), axis=0), axis)
    bound = MAX_DEVIATION * jnp.maximum(reach, SMALLEST_DEVIATION)
    bounded, clipped = _clip_around(centre, values, bound)
    return bounded, device_mean(jnp.mean(clipped, dtype=values.dtype), axis)


def update_normalizer(
    normalizer: Normalizer, observation: Float[Array, "steps envs features"], axis: str | None
) -> Normalizer:
    """Statistics that also cover `observation`, in which no outlier counts for more than the bound.

    A feature is clipped to MAX_DEVIATION around the running mean: times its standard deviation so
    far (1 at the very start), or times the median environment's largest deviation in this batch
    where that is more. Nothing is left out, so that a feature which was constant at first grows
    its scale within a few iterations, and what all robots learn to do is never an outlier.

    Args:
        normalizer: so far.
        observation: as the environments gave it; infinite entries are clipped, NaN becomes the
            mean.
        axis: name of the mapped device axis, or None.
    """
    deviation = jnp.abs(observation - normalizer.mean)
    reach = environment_median(jnp.max(deviation, axis=0), axis)
    bound = MAX_DEVIATION * jnp.maximum(reach, normalizer.std)
    bounded, _ = _clip_around(normalizer.mean, observation, bound)
    return normalizer.update(bounded, axis)


def _clip_around(
    centre: Float[Array, "..."], x: Float[Array, "*batch"], bound: Float[Array, "..."]
) -> tuple[Float[Array, "*batch"], Bool[Array, "*batch"]]:
    """x clipped to centre +- bound, NaN replaced by the centre; and where that changed it."""
    deviation = x - centre
    inside = jnp.abs(deviation) <= bound  # false for NaN too
    nearest = jnp.where(jnp.isnan(deviation), 0, jnp.clip(deviation, -bound, bound))
    return jnp.where(inside, x, centre + nearest), ~inside
