"""Ground contact at the links' contact points: a damped spring along the normal, smooth friction.

For a point at depth c < 0 moving with velocity u: normal force -c ke - (-c) kd min(u_z, 0), and
friction against the tangential velocity of size min(kf |u_t|, -mu c ke). Other planes, and shapes
without a fixed lowest point, are in `rpo.physics.plane_contact`; links that touch one another in
`rpo.physics.pairs`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from rpo.physics.kinematics import Motion, Pose, add_motion
from rpo.physics.spatial import (
    ZERO,
    Scalar,
    Vector,
    add,
    cross,
    mul,
    rotate,
    sub,
    total,
    vadd,
    vector,
)
from rpo.physics.topology import ContactPoints, Group

TINY = 1e-24
"""Least squared speed; its power -3/2, in the derivative of rsqrt, fits single precision."""


class Wrench(Motion):
    """Moment about the origin (`angular`) and force (`linear`)."""


NO_WRENCH = Wrench(ZERO, ZERO)


def ground_wrench(group: Group, pose: Pose, velocity: Motion, origin_height: Scalar) -> Wrench:
    """Wrench of the ground on each of the group's links."""
    result = NO_WRENCH
    for points in group.contacts:
        place, force = ground_forces(points, pose, velocity, origin_height)
        wrench = Wrench(cross(place, force), force)
        if not group.apart:
            wrench = on_links(wrench, len(points.numbers), group.size)
        result = add_motion(result, wrench)
    return result


def ground_forces(
    points: ContactPoints, pose: Pose, velocity: Motion, origin_height: Scalar
) -> tuple[Vector, Vector]:
    """Lowest point of each contact sphere about the group's origin, and the ground's force on it.

    Args:
        points: one of the group's sets.
        pose: of the links, about their origin.
        velocity: twist of the links about it.
        origin_height: where that origin is.
    """
    x, y, z = vadd(pose.position, rotate(pose.rotation, points.position))
    place: Vector = (x, y, sub(z, points.radius))
    depth = add(place[2], origin_height)
    speed = vadd(velocity.linear, cross(velocity.angular, place))
    return place, point_force(points, depth, speed)


def point_force(points: ContactPoints, depth: Scalar, velocity: Vector) -> Vector:
    """Force of the ground on contact points.

    Args:
        points: their constants.
        depth: height of the lowest point of each; below the ground negative.
        velocity: of that point, along the world's axes.
    """
    ux, uy, uz = velocity
    normal, friction = normal_and_friction(points, depth, uz, (ux, uy))
    touching = depth < 0.0
    return (
        jnp.where(touching, -mul(friction, ux), 0.0),
        jnp.where(touching, -mul(friction, uy), 0.0),
        jnp.where(touching, normal, 0.0),
    )


def normal_and_friction(
    points: Any, depth: Scalar, closing: Scalar, sliding: tuple[Scalar, ...]
) -> tuple[Scalar, Scalar]:
    """Force of a plane along its normal, and friction per sliding speed, where points touch it.

    As in `point_force`, with the velocity along the normal and along the plane.
    """
    load = mul(points.stiffness, -depth)
    normal = sub(load, mul(mul(points.damping, -depth), jnp.minimum(closing, 0.0)))
    # u_t / |u_t| * min(kf |u_t|, bound) without a division by zero: at rest the first branch,
    # kf u_t, holds, so the gradient is finite there too.
    inverse_speed = lax.rsqrt(jnp.maximum(total(*(mul(u, u) for u in sliding)), TINY))
    bound = mul(mul(points.friction_coefficient, load), inverse_speed)
    return normal, jnp.minimum(points.friction_stiffness, bound)


def on_links(wrench: Wrench, rows: int, size: int) -> Wrench:
    """Wrenches on a group of `size` links from those on `rows` attachments.

    Constants that fold make a component smaller than (rows, batch), or a plain number.
    """

    def gather(value: Scalar) -> Scalar:
        if size > 1 or rows == 1:
            return value
        if jnp.ndim(value) == 0:
            return mul(rows, value)
        return jnp.sum(jnp.broadcast_to(value, (rows, value.shape[1])), axis=0, keepdims=True)

    return Wrench(*(vector(map(gather, part)) for part in wrench))
