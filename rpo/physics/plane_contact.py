"""Force of fixed planes on links: the ground's damped spring and friction along any normal.

With m the plane's normal in the axes of an ellipsoid of semi-axes A, its point deepest in the plane
is -A^2 m / |A m| from the centre. A disc (one semi-axis zero) that lies flat has no such point:
|A m| is rounded off there, so that its deepest point moves smoothly through the centre.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import lax

from rpo.physics.attachments import slots, turns, vectors
from rpo.physics.contact import NO_WRENCH, Wrench, normal_and_friction, on_links
from rpo.physics.factors import Factors, of_batch
from rpo.physics.geoms import MATERIAL
from rpo.physics.kinematics import Motion, Pose, add_motion
from rpo.physics.model import Model
from rpo.physics.spatial import (
    Rotation,
    Scalar,
    Vector,
    add,
    compose,
    constant,
    cross,
    dot,
    mul,
    rotate,
    rotate_back,
    scale,
    sub,
    total,
    vadd,
    vector,
    vsub,
)
from rpo.physics.topology import groups_of, joint_axis_frames

ROUNDING = 0.01
"""Sine of the tilt, in rad about, within which a disc's deepest point is drawn to its centre."""


@dataclasses.dataclass(frozen=True)
class PlaneSet:
    """Places of one group that are computed as one array; see `PlaneContacts`.

    Args:
        numbers: of these places in the model.
        semi_axes: None for fixed points.
        rounding: squared length that is added to |A m|^2.
    """

    numbers: tuple[int, ...]
    position: Vector
    turn: Rotation
    semi_axes: Vector | None
    rounding: Scalar
    radius: Scalar
    normal: Vector
    offset: Scalar
    stiffness: Scalar
    damping: Scalar
    friction_stiffness: Scalar
    friction_coefficient: Scalar


@lru_cache(maxsize=64)
def plane_sets(model: Model) -> tuple[tuple[PlaneSet, ...], ...] | None:
    """Sets of each group; None if no link touches such a plane."""
    planes = model.planes
    if not len(planes.link):
        return None
    frames = joint_axis_frames(model)
    return tuple(
        tuple(
            _plane_set(model, frames, rows)
            for curved in (False, True)
            for rows in slots(
                [
                    np.flatnonzero((planes.link == link) & (planes.curved == curved))
                    for link in group.links
                ]
            )
        )
        for group in groups_of(model)
    )


def varied_planes(sets: tuple[PlaneSet, ...], factors: Factors) -> tuple[PlaneSet, ...]:
    """Sets of one group with the friction of each environment."""
    if factors.friction is None:
        return sets
    friction = of_batch(factors.friction)
    return tuple(
        dataclasses.replace(s, friction_coefficient=mul(s.friction_coefficient, friction))
        for s in sets
    )


def _plane_set(model: Model, frames: list[np.ndarray], rows: np.ndarray) -> PlaneSet:
    planes = model.planes
    outer = [frames[link] for link in planes.link[rows]]
    axes = planes.semi_axes[rows]
    flat = (axes == 0).any(axis=1)
    return PlaneSet(
        numbers=tuple(map(int, rows)),
        position=vectors(outer, planes.position[rows]),
        turn=turns(outer, planes.quaternion[rows]),
        semi_axes=vector(map(constant, axes.T)) if planes.curved[rows].any() else None,
        rounding=constant((ROUNDING * axes.max(axis=1) * flat) ** 2),
        normal=vectors([np.eye(3)] * len(rows), planes.normal[rows]),
        **{f: constant(getattr(planes, f)[rows]) for f in ("radius", "offset", *MATERIAL)},
    )


def plane_wrench(
    sets: tuple[PlaneSet, ...], size: int, pose: Pose, velocity: Motion, origin: Vector
) -> Wrench:
    """Wrench of the planes on each link of a group of `size` links, about the group's origin.

    Args:
        sets: the group's places.
        size: how many links it has.
        pose: of the links, about their origin.
        velocity: twist of the links about it.
        origin: where that origin is in the world.
    """
    result = NO_WRENCH
    for places in sets:
        point, force = plane_forces(places, pose, velocity, origin)
        wrench = on_links(Wrench(cross(point, force), force), len(places.numbers), size)
        result = add_motion(result, wrench)
    return result


def plane_forces(
    places: PlaneSet, pose: Pose, velocity: Motion, origin: Vector
) -> tuple[Vector, Vector]:
    """Deepest point of each place about the group's origin, and the plane's force on it."""
    point = deepest_point(places, pose)
    depth = sub(add(dot(places.normal, point), dot(places.normal, origin)), places.offset)
    speed = vadd(velocity.linear, cross(velocity.angular, point))
    return point, _force(places, depth, speed)


def deepest_point(places: PlaneSet, pose: Pose) -> Vector:
    """Point of each shape that is deepest in its plane, about the group's origin."""
    center = vadd(pose.position, rotate(pose.rotation, places.position))
    if places.semi_axes is None:
        return vsub(center, scale(places.radius, places.normal))
    axes = compose(pose.rotation, places.turn)
    m = rotate_back(axes, places.normal)
    stretched = [mul(a, x) for a, x in zip(places.semi_axes, m, strict=True)]
    inverse = lax.rsqrt(add(total(*(mul(x, x) for x in stretched)), places.rounding))
    down = (mul(a, mul(x, -inverse)) for a, x in zip(places.semi_axes, stretched, strict=True))
    point = vadd(center, rotate(axes, vector(down)))
    return vsub(point, scale(places.radius, places.normal))


def _force(places: PlaneSet, depth: Scalar, velocity: Vector) -> Vector:
    closing = dot(places.normal, velocity)
    sliding = vsub(velocity, scale(closing, places.normal))
    normal, friction = normal_and_friction(places, depth, closing, sliding)
    force = vsub(scale(normal, places.normal), scale(friction, sliding))
    touching = depth < 0.0
    return vector(jnp.where(touching, x, 0.0) for x in force)
