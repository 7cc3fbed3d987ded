"""Drag of a medium on links: the forces of `rpo.physics.fluid`'s boxes."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np

from rpo.physics.attachments import slots, turns, vectors
from rpo.physics.contact import NO_WRENCH, Wrench, on_links
from rpo.physics.fluid import Fluid
from rpo.physics.geoms import Floats, Ints
from rpo.physics.kinematics import Motion, Pose, add_motion
from rpo.physics.model import Model
from rpo.physics.spatial import (
    Rotation,
    Scalar,
    Vector,
    compose,
    constant,
    cross,
    mul,
    rotate,
    rotate_back,
    sub,
    vadd,
    vector,
    vsub,
)
from rpo.physics.topology import groups_of, joint_axis_frames


@dataclasses.dataclass(frozen=True)
class BoxSet:
    """Boxes of one group that are computed as one array.

    Args:
        rows: how many there are.
        position: of their centres, in the axes that the dynamics use.
        turn: their own axes in those.
        viscous, viscous_turning: force per velocity, torque per angular velocity.
        drag, drag_turning: the same per squared velocity, along each axis.
        wind: velocity of the medium.
    """

    rows: int
    position: Vector
    turn: Rotation
    viscous: Scalar
    viscous_turning: Scalar
    drag: Vector
    drag_turning: Vector
    wind: Vector


@lru_cache(maxsize=64)
def box_sets(model: Model) -> tuple[tuple[BoxSet, ...], ...] | None:
    """Boxes of each group; None in empty space."""
    if not len(model.fluid.link):
        return None
    frames = joint_axis_frames(model)
    return tuple(
        tuple(
            _box_set(model.fluid, frames, rows)
            for rows in slots([np.flatnonzero(model.fluid.link == link) for link in group.links])
        )
        for group in groups_of(model)
    )


def _box_set(fluid: Fluid, frames: list[Floats], rows: Ints) -> BoxSet:
    outer = [frames[link] for link in fluid.link[rows]]
    size = fluid.size[rows]
    mean = size.mean(axis=1)
    x, y, z = size.T
    turning = (x * (y**4 + z**4), y * (x**4 + z**4), z * (x**4 + y**4))
    return BoxSet(
        rows=len(rows),
        position=vectors(outer, fluid.position[rows]),
        turn=turns(outer, fluid.quaternion[rows]),
        viscous=constant(3 * np.pi * mean * fluid.viscosity),
        viscous_turning=constant(np.pi * mean**3 * fluid.viscosity),
        drag=vector(constant(0.5 * fluid.density * area) for area in (y * z, x * z, x * y)),
        drag_turning=vector(constant(fluid.density / 64 * value) for value in turning),
        wind=vector(float(w) for w in fluid.wind),
    )


def drag_wrench(sets: tuple[BoxSet, ...], size: int, pose: Pose, velocity: Motion) -> Wrench:
    """Wrench of the medium on each link of a group of `size` links, about the group's origin.

    Args:
        sets: the group's boxes.
        size: how many links it has.
        pose: of the links, about their origin.
        velocity: twist of the links about it.
    """
    result = NO_WRENCH
    for boxes in sets:
        center = vadd(pose.position, rotate(pose.rotation, boxes.position))
        axes = compose(pose.rotation, boxes.turn)
        moving = vadd(velocity.linear, cross(velocity.angular, center))
        v = rotate_back(axes, vsub(moving, boxes.wind))
        w = rotate_back(axes, velocity.angular)
        force = rotate(axes, _resistance(boxes.viscous, boxes.drag, v))
        torque = rotate(axes, _resistance(boxes.viscous_turning, boxes.drag_turning, w))
        moment = vadd(torque, cross(center, force))
        wrench = on_links(Wrench(moment, force), boxes.rows, size)
        result = add_motion(result, wrench)
    return result


def _resistance(viscous: Scalar, drag: Vector, speed: Vector) -> Vector:
    """-(viscous + drag |v|) v along each axis."""

    def along(d: Scalar, v: Scalar) -> Scalar:
        squared = mul(d, mul(abs(v), v))
        return sub(mul(viscous, -v), squared)

    return vector(map(along, drag, speed))
