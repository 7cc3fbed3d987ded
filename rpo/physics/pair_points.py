"""The points where two shapes come nearest to each other, and the direction between them.

See `rpo.physics.pairs` for what a shape is, and for what is tried against what.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from rpo.physics import cylinder
from rpo.physics.contact import TINY
from rpo.physics.pair_tables import Placed
from rpo.physics.spatial import (
    Rotation,
    Scalar,
    Vector,
    dot,
    rotate_back,
    scale,
    vadd,
    vector,
    vsub,
)

_SEARCH_STEPS = 10
_INVERSE_GOLDEN = 0.61803398875


class Size(NamedTuple):
    """Size of each slot's shape; see `PairTables`."""

    x: Scalar
    y: Scalar
    z: Scalar
    radius: Scalar
    share: Scalar
    box: Scalar
    cylinder: Scalar | None = None

    @property
    def extents(self) -> Vector:
        return (self.x, self.y, self.z)


def points(
    a: Placed, b: Placed, size_a: Size, size_b: Size, attract_inside: bool
) -> tuple[Vector, Vector, Vector, Array]:
    """Contact point on A and on B for each edge of A, the normal towards A, and the distance.

    All are given in B's frame about B's centre, where its box is level; components over
    (12, slots).
    """
    center = rotate_back(b.rotation, vsub(a.center, b.center))
    x, y, z = (rotate_back(b.rotation, axis) for axis in a.rotation)
    start, along = _edges(center, (x, y, z), size_a.extents)
    where = _nearest(start, along, size_b)
    point = vector(s + where * d for s, d in zip(start, along, strict=True))
    closest, own_normal = _closest(point, size_b.extents, attract_inside)
    if size_b.cylinder is not None:
        found = cylinder.closest(point, size_b.extents)
        closest, own_normal = cylinder.choose(size_b.cylinder, found, (closest, own_normal))
    _, center_normal = _closest(center, size_b.extents, False)
    normal = vector(
        jnp.where(size_a.box > 0.5, c, o) for c, o in zip(center_normal, own_normal, strict=True)
    )
    distance = dot(normal, vsub(point, closest)) - size_a.radius - size_b.radius
    on_a = vsub(point, scale(size_a.radius, normal))
    return on_a, vadd(closest, scale(size_b.radius, normal)), normal, distance


def _edges(center: Vector, axes: Rotation, extents: Vector) -> tuple[Vector, Vector]:
    """Start of the twelve edges and the way to their end, components over (12, slots)."""
    signs = np.zeros((3, 12, 1))
    own = np.zeros((3, 12, 1))
    for k in range(3):
        others = [j for j in range(3) if j != k]
        for e in range(4):
            signs[k, 4 * k + e] = -1.0
            signs[others[0], 4 * k + e] = 1.0 if e % 2 else -1.0
            signs[others[1], 4 * k + e] = 1.0 if e // 2 else -1.0
            own[k, 4 * k + e] = 2.0
    dtype = center[0].dtype
    start, along = [], []
    for component in range(3):
        reach = [extents[k] * axes[k][component] for k in range(3)]
        start.append(
            center[component] + sum(jnp.asarray(signs[k], dtype) * reach[k] for k in range(3))
        )
        along.append(sum(jnp.asarray(own[k], dtype) * reach[k] for k in range(3)))
    return vector(start), vector(along)


def _nearest(start: Vector, along: Vector, size: Size) -> Array:
    """Coordinate in [0, 1] of each edge's point nearest to the box: golden-section search."""
    start, along, extents = lax.stop_gradient((start, along, size.extents))
    keep, cut = _INVERSE_GOLDEN, 1.0 - _INVERSE_GOLDEN

    def height(u: Scalar) -> Array:
        """Grows with the signed distance from the box: squared outside, plain inside."""
        q = [jnp.abs(s + u * d) - half for s, d, half in zip(start, along, extents, strict=True)]
        if size.cylinder is not None:
            point = vector(s + u * d for s, d in zip(start, along, strict=True))
            q = cylinder.excess(size.cylinder, point, size.x, q)
        outside = sum(jnp.maximum(x, 0.0) ** 2 for x in q)
        return outside + jnp.minimum(jnp.maximum(jnp.maximum(q[0], q[1]), q[2]), 0.0)

    def narrow(_: Array, bracket: tuple[Array, ...]) -> tuple[Array, ...]:
        low, left, right, at_left, at_right, width = bracket
        width = width * keep
        lower = at_left < at_right
        low = jnp.where(lower, low, left)
        probe = low + jnp.where(lower, cut * width, keep * width)
        at_probe = height(probe)
        left, right = jnp.where(lower, probe, right), jnp.where(lower, left, probe)
        at_left, at_right = (
            jnp.where(lower, at_probe, at_right),
            jnp.where(lower, at_left, at_probe),
        )
        return low, left, right, at_left, at_right, width

    low = 0.0 * start[0]  # zero, and varying over the same mapped axes
    left, right = low + cut, low + keep
    bracket = (low, left, right, height(left), height(right), jnp.ones((), low.dtype))
    low, left, right, at_left, at_right, width = lax.fori_loop(0, _SEARCH_STEPS, narrow, bracket)
    return 0.5 * jnp.where(at_left < at_right, low + right, left + (low + width))


def _closest(point: Vector, extents: Vector, attract_inside: bool) -> tuple[Vector, Vector]:
    """Closest point of the box's surface and the outward normal there, both in the box's frame."""
    q = [jnp.abs(p) - half for p, half in zip(point, extents, strict=True)]
    deepest = jnp.maximum(jnp.maximum(q[0], q[1]), q[2])
    inside = deepest < 0.0
    clipped = [
        jnp.where(x > 0.0, jnp.sign(p) * half, p)
        for x, p, half in zip(q, point, extents, strict=True)
    ]
    away = [p - c for p, c in zip(point, clipped, strict=True)]
    inverse = lax.rsqrt(jnp.maximum(sum(x * x for x in away), TINY))
    faces = [q[0] >= deepest, (q[1] >= deepest) & (q[0] < deepest)]
    faces.append(~(faces[0] | faces[1]))
    inward = -1.0 if attract_inside else 1.0
    surface, normal = [], []
    for k in range(3):
        sign = jnp.where(point[k] < 0.0, -1.0, 1.0)
        surface.append(jnp.where(inside & faces[k], sign * extents[k], clipped[k]))
        face = jnp.where(faces[k], inward * sign, 0.0)
        normal.append(jnp.where(inside, face, away[k] * inverse))
    return vector(surface), vector(normal)
