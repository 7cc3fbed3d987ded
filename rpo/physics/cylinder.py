"""The cylinder in a box, as what spheres and capsules touch (`rpo.physics.pairs`).

A cylinder about the z axis has the box's half extents (r, r, h). Its signed distance is that of a
rectangle: over the axis by rho - r, and along it by |z| - h.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from rpo.physics.contact import TINY
from rpo.physics.spatial import Scalar, Vector

Surface = tuple[Vector, Vector]
"""Closest point of a surface and the outward normal there."""


def excess(is_cylinder: Array, point: Vector, radius: Scalar, of_box: list[Array]) -> list[Array]:
    """How far a point is beyond each face: of the cylinder where there is one, else of its box.

    The cylinder's side takes the place of the x faces, and the y faces must not count.
    """
    side = jnp.sqrt(point[0] * point[0] + point[1] * point[1]) - radius
    x = jnp.where(is_cylinder > 0.5, side, of_box[0])
    y = jnp.where(is_cylinder > 0.5, jnp.minimum(side, 0.0), of_box[1])
    return [x, y, of_box[2]]


def closest(point: Vector, extents: Vector) -> Surface:
    """Closest point of the cylinder's surface and the outward normal there."""
    x, y, z = point
    radius, _, half = extents
    inverse = lax.rsqrt(jnp.maximum(x * x + y * y, TINY))
    beyond_side, beyond_end = (x * x + y * y) * inverse - radius, jnp.abs(z) - half
    sign = jnp.where(z < 0.0, -1.0, 1.0)
    to_side, to_end = radius * inverse, sign * half
    scale = jnp.where(beyond_side > 0.0, to_side, 1.0)
    outside = (scale * x, scale * y, jnp.where(beyond_end > 0.0, to_end, z))
    away = (x - outside[0], y - outside[1], z - outside[2])
    unit = lax.rsqrt(jnp.maximum(sum(a * a for a in away), TINY))
    inside = jnp.maximum(beyond_side, beyond_end) < 0.0
    side = beyond_side >= beyond_end
    surface = (
        jnp.where(inside & side, to_side * x, outside[0]),
        jnp.where(inside & side, to_side * y, outside[1]),
        jnp.where(inside & ~side, to_end, outside[2]),
    )
    normal = (
        jnp.where(inside, jnp.where(side, inverse * x, 0.0), unit * away[0]),
        jnp.where(inside, jnp.where(side, inverse * y, 0.0), unit * away[1]),
        jnp.where(inside, jnp.where(side, 0.0, sign), unit * away[2]),
    )
    return surface, normal


def choose(is_cylinder: Scalar, of_cylinder: Surface, of_box: Surface) -> Surface:
    """The cylinder's surface where there is one, else the box's."""

    def pick(a: Vector, b: Vector) -> Vector:
        x, y, z = (jnp.where(is_cylinder > 0.5, p, q) for p, q in zip(a, b, strict=True))
        return (x, y, z)

    return pick(of_cylinder[0], of_box[0]), pick(of_cylinder[1], of_box[1])
