"""Means and medians over environments that may be split over devices, and who holds which one."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, UInt32

T = TypeVar("T")


def device_mean(tree: T, axis: str | None) -> T:
    """Mean of every leaf over the devices of `axis`, exchanged as one vector.

    Args:
        tree: a pytree of floating-point arrays, each the mean over one device's environments.
        axis: name of the mapped device axis, or None where there is only one device.
    """
    if axis is None:
        return tree
    vector, unravel = ravel_pytree(tree)
    averaged: T = unravel(lax.pmean(vector, axis))
    return averaged


def device_sum(tree: T, axis: str | None) -> T:
    """Sum of every leaf over the devices of `axis` (counts)."""
    return tree if axis is None else lax.psum(tree, axis)


def device_max(x: Array, axis: str | None) -> Array:
    """Largest value over the devices of `axis`, entry by entry."""
    return x if axis is None else lax.pmax(x, axis)


def standardize(x: Array, axis: str | None) -> Array:
    """Shifted and scaled to zero mean and unit variance over all entries of all devices."""
    centred = x - device_mean(jnp.mean(x), axis)
    variance = device_mean(jnp.mean(centred**2), axis)
    return centred / (jnp.sqrt(variance) + 1e-8)


def gather_environments(x: Array, axis: str | None) -> Array:
    """All devices' environments, joined along array axis 1 in their global order."""
    return x if axis is None else lax.all_gather(x, axis, axis=1, tiled=True)


def environment_median(
    x: Float[Array, "envs *rest"],
    axis: str | None,
    counted: Bool[Array, "envs *rest"] | None = None,
) -> Float[Array, "*rest"]:
    """Median over all devices' environments, the lower of the two in the middle.

    Args:
        x: one row per environment of this device; NaN counts as larger than all else.
        axis: name of the mapped device axis, or None.
        counted: which entries count. Zero where none does.
    """
    counted = jnp.ones_like(x, bool) if counted is None else counted
    x, counted = (y if axis is None else lax.all_gather(y, axis, tiled=True) for y in (x, counted))
    ordered = jnp.sort(jnp.where(counted, x, jnp.inf), axis=0)
    middle = (jnp.sum(counted, axis=0, keepdims=True) - 1) // 2
    chosen = jnp.take_along_axis(ordered, jnp.maximum(middle, 0), axis=0)
    return jnp.where(middle < 0, 0, chosen)[0]


def environment_indices(local_count: int, axis: str | None) -> Int[Array, " envs"]:
    """Global indices of this device's environments."""
    indices = jnp.arange(local_count)
    return indices if axis is None else indices + lax.axis_index(axis) * local_count


def environment_keys(
    key: UInt32[Array, "2"], indices: Int[Array, " envs"]
) -> UInt32[Array, "envs 2"]:
    """One raw key per environment, the same however environments are split over devices."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)


def environment_noise(
    keys: UInt32[Array, "envs 2"], shape: tuple[int, ...]
) -> Float[Array, "*rows envs columns"]:
    """Standard normal noise of `shape` (rows, columns) for each environment, from its own key."""
    noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    return jnp.moveaxis(noise, 0, -2)
