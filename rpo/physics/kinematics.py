"""Where the links are and how they move, about an origin near the robot.

All positions are relative to the robot's origin: the point where its free joint (or the chain of
slides that carries it) was at the start of the control step. A constant shift leaves the equations
of motion unchanged, and it keeps single precision when the robot has travelled far.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from rpo.physics.model import JointType
from rpo.physics.spatial import (
    IDENTITY,
    ZERO,
    Rotation,
    Scalar,
    Vector,
    compose,
    cross,
    rotate,
    rotation_from_quaternion,
    scale,
    turn_about_z,
    vadd,
)
from rpo.physics.topology import Group

Components = tuple[Scalar, ...]
"""Components of one group's joint: coordinates or velocities, each (links, batch)."""


class Pose(NamedTuple):
    """Position and axes of a group's link frames."""

    position: Vector
    rotation: Rotation


class Motion(NamedTuple):
    """Spatial vector about the origin: velocity, acceleration or motion subspace."""

    angular: Vector
    linear: Vector


M = TypeVar("M", bound=Motion)
WORLD = Pose(ZERO, IDENTITY)
AT_REST = Motion(ZERO, ZERO)


def origins(groups: tuple[Group, ...], coordinates: list[Components]) -> list[Vector]:
    """World position of the origin that each group's positions are relative to."""
    result: list[Vector] = []
    rotations: list[Rotation] = []
    for group, q in zip(groups, coordinates, strict=True):
        above = ZERO if group.parent < 0 else result[group.parent]
        rotation = IDENTITY if group.parent < 0 else rotations[group.parent]
        if group.kind is JointType.FREE:
            above = (q[0], q[1], q[2])
        elif group.base:
            offset = rotate(rotation, group.offset)
            rotation = compose(rotation, group.turn)
            above = vadd(above, vadd(offset, scale(q[0], rotation[2])))
        result.append(above)
        rotations.append(rotation)
    return result


def link_poses(groups: tuple[Group, ...], coordinates: list[Components]) -> list[Pose]:
    """Pose of every group. Coordinates that move the origin are displacements from it."""
    poses: list[Pose] = []
    for group, q in zip(groups, coordinates, strict=True):
        above = WORLD if group.parent < 0 else poses[group.parent]
        if group.kind is JointType.FREE:
            poses.append(Pose((q[0], q[1], q[2]), rotation_from_quaternion(*q[3:])))
            continue
        rotation = compose(above.rotation, group.turn)
        position = above.position
        if not group.base:
            position = vadd(position, rotate(above.rotation, group.offset))
        if group.kind is JointType.SLIDE:
            position = vadd(position, scale(q[0], rotation[2]))
        else:
            rotation = turn_about_z(rotation, q[0])
        poses.append(Pose(position, rotation))
    return poses


def motion_subspaces(groups: tuple[Group, ...], poses: list[Pose]) -> list[Motion]:
    """Column of the motion subspace of each hinge and slide; a free joint's is the identity."""
    result = []
    for group, pose in zip(groups, poses, strict=True):
        axis = pose.rotation[2]
        if group.kind is JointType.HINGE:
            result.append(Motion(axis, cross(pose.position, axis)))
        else:
            result.append(Motion(ZERO, axis))
    return result


def joint_motion(group: Group, subspace: Motion, velocity: Components) -> Motion:
    """S qd: the velocity that a group's joint adds to its parent's."""
    if group.kind is JointType.FREE:
        return Motion((velocity[3], velocity[4], velocity[5]), velocity[:3])
    return Motion(scale(velocity[0], subspace.angular), scale(velocity[0], subspace.linear))


def add_motion(a: M, b: M) -> M:
    """Sum of two spatial vectors."""
    return a._replace(angular=vadd(a.angular, b.angular), linear=vadd(a.linear, b.linear))


def link_velocities(
    groups: tuple[Group, ...], subspaces: list[Motion], velocities: list[Components]
) -> list[Motion]:
    """Velocity of every group: v = v_parent + S qd."""
    result: list[Motion] = []
    for group, subspace, velocity in zip(groups, subspaces, velocities, strict=True):
        above = AT_REST if group.parent < 0 else result[group.parent]
        result.append(add_motion(above, joint_motion(group, subspace, velocity)))
    return result
