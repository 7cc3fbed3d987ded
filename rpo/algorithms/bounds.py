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
from jaxtyping import Array, Float

from rpo.algorithms.base import Metrics
from rpo.algorithms.devices import device_max, device_mean, environment_median
from rpo.algorithms.rollout import Rollout
from rpo.nets import Normalizer

MAX_DEVIATION = 100.0
"""Of values and observations: as a multiple of the median environment's largest deviation."""
SMALLEST_DEVIATION = 1.0
"""That counts as such, in their own units: where most environments' numbers are all alike (few have
found the reward, or touch anything), the others may still differ by MAX_DEVIATION times this."""
LARGEST_VALUE = 1e8
"""Deviation that no value exceeds, so that sums of squares are finite in single precision."""

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
    centre, reach = _centre_and_reach(values, axis)
    bound = MAX_DEVIATION * jnp.maximum(reach, SMALLEST_DEVIATION)
    bound = jnp.minimum(bound, LARGEST_VALUE)
    deviation = values - centre
    inside = jnp.abs(deviation) <= bound  # false for NaN too
    nearest = jnp.where(jnp.isnan(deviation), 0, jnp.clip(deviation, -bound, bound))
    share = device_mean(jnp.mean(~inside, dtype=values.dtype), axis)
    return jnp.where(inside, values, centre + nearest), share


def update_normalizer(
    normalizer: Normalizer, observation: Float[Array, "steps envs features"], axis: str | None
) -> Normalizer:
    """Statistics that also cover `observation`, with the centre in place of absurd numbers.

    Absurd is what is not finite, or further from the centre (the median environment's mean in this
    batch) than MAX_DEVIATION times the largest of: the standard deviation so far, the median
    environment's largest deviation in this batch, and SMALLEST_DEVIATION. What all robots learn to
    do is never absurd, nor is a contact force up to 100 N that few feel and none felt before. It is
    left out, not clipped: an environment that gives such numbers all the time would raise a scale
    to which they are clipped step by step.

    Args:
        normalizer: so far.
        observation: as the environments gave it.
        axis: name of the mapped device axis, or None.
    """
    centre, reach = _centre_and_reach(observation, axis)
    bound = MAX_DEVIATION * jnp.maximum(jnp.maximum(reach, normalizer.std), SMALLEST_DEVIATION)
    inside = jnp.abs(observation - centre) <= bound  # false for NaN too
    return normalizer.update(jnp.where(inside, observation, centre), axis)


def _centre_and_reach(
    x: Float[Array, "steps envs *rest"], axis: str | None
) -> tuple[Float[Array, "*rest"], Float[Array, "*rest"]]:
    """The median environment's mean over the steps, and its largest distance from that median."""
    centre = environment_median(jnp.mean(x, axis=0), axis)
    return centre, environment_median(jnp.max(jnp.abs(x - centre), axis=0), axis)
