"""Which directed pairs of shapes may touch, as a list that is worked off in rounds.

A pair is left out only when it provably cannot touch: with c the distance of A's centre from B's
box and n the direction of that distance, every point of A has d >= c - (extent of A along n) -
radii. The list runs over all environments of the batch, so a round's slots are filled by whoever
has contacts, and as many rounds are made as the list is long: nothing is ever dropped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rpo.physics.pair_tables import PairTables, Placed, typed
from rpo.physics.spatial import Rotation, Scalar, dot, mul, rotate, rotate_back, sub, vsub


class Listed(NamedTuple):
    """How many directed pairs that may touch are listed up to each one, environment by environment.

    Args:
        within: among the pairs of its A and environment (G of B, G of A, batch).
        shape_ends: up to the end of each A, among the pairs of its environment (G of A, batch).
        environment_ends: up to the end of each environment, among all (batch,).
    """

    within: Array
    shape_ends: Array
    environment_ends: Array


class Slots(NamedTuple):
    """Shapes A and B of each slot, its environment, and whether it is in use, all (slots,)."""

    a: Array
    b: Array
    environment: Array
    used: Array


def list_pairs(chosen: Array) -> Listed:
    """List of the directed pairs that are chosen (G of B, G of A, batch)."""
    within = running_sum(chosen.astype(jnp.int32))
    shape_ends = running_sum(within[-1])
    return Listed(within, shape_ends, jnp.cumsum(shape_ends[-1]))


def running_sum(values: Array) -> Array:
    """Prefix sums along the first axis; `cumsum` takes several times as long."""
    return lax.scan(lambda total, x: (total + x, total + x), 0 * values[0], values)[1]


def may_touch(tables: PairTables, placed: Placed) -> Array:
    """Whether each directed pair may touch (G of B, G of A, batch)."""

    def of_a(x: Scalar) -> Scalar:
        return x if isinstance(x, float) else x[None]

    def of_b(x: Scalar) -> Scalar:
        return x if isinstance(x, float) else x[:, None]

    extents = typed(tables.half_extents, placed.center[0].dtype)
    (radius,) = typed((tables.radius,), placed.center[0].dtype)
    axes_b: Rotation = jax.tree.map(of_b, placed.rotation)
    axes_a: Rotation = jax.tree.map(of_a, placed.rotation)
    between = vsub(jax.tree.map(of_a, placed.center), jax.tree.map(of_b, placed.center))
    offset = rotate_back(axes_b, between)
    excess = [
        sub(x, jnp.clip(x, -bound, bound))
        for x, bound in zip(offset, map(of_b, extents), strict=True)
    ]
    distance = jnp.sqrt(sum(x * x for x in excess))
    toward = rotate(axes_b, (excess[0], excess[1], excess[2]))
    extent = sum(
        mul(of_a(half), jnp.abs(dot(axis, toward)))
        for axis, half in zip(axes_a, extents, strict=True)
    )
    # Multiplied by the distance: no division, and a centre inside B (zero) always counts.
    reach = distance * (distance - of_a(radius) - of_b(radius))
    near: Array = (reach <= extent) & jnp.asarray(tables.allowed.T[:, :, None])
    return near


def take_slots(listed: Listed, first: Array, size: int) -> Slots:
    """Who is in the `size` slots from number `first` on."""
    shapes, _, batch = listed.within.shape
    number = first + jnp.arange(size, dtype=jnp.int32)
    used = number < listed.environment_ends[-1]
    environment, number = place_in(lambda k: listed.environment_ends[k], batch, number)
    of_shape, within = listed.shape_ends.reshape(-1), listed.within.reshape(-1)
    a, number = place_in(lambda k: of_shape[k * batch + environment], shapes, number)
    column = a * batch + environment
    b, _ = place_in(lambda k: within[k * (shapes * batch) + column], shapes, number)
    return Slots(a, b, environment, used)


def mark_slots(slots: Slots, marked: Array, pairs: Array) -> Array:
    """The directed pairs (G of B, G of A, batch), those in marked slots (slots,) set."""
    b = jnp.where(marked & slots.used, slots.b, len(pairs))  # out of range: not set
    return pairs.at[b, slots.a, slots.environment].set(True, mode="drop")


def place_in(ends: Any, size: int, number: Array) -> tuple[Array, Array]:
    """Which of the consecutive runs that end at ascending `ends(k)` holds `number`, and where."""
    run = jnp.zeros_like(number)
    for bit in reversed(range(size.bit_length())):
        probe = run + (1 << bit) - 1
        passed = (probe < size) & (ends(jnp.minimum(probe, size - 1)) <= number)
        run = run + jnp.where(passed, 1 << bit, 0)
    run = jnp.minimum(run, size - 1)  # a slot that is not in use
    return run, number - jnp.where(run > 0, ends(jnp.maximum(run - 1, 0)), 0)
