"""Forces of tendons on joints and of cords on links (`rpo.physics.tendons`).

Tendons couple single links of different groups, so they work on rows: each tendon is a few (1,
batch) arrays. A model without tendons has none of this in its program.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rpo.physics.contact import NO_WRENCH, TINY, Wrench
from rpo.physics.factors import Factors, of_tendon, servo_limits
from rpo.physics.kinematics import AT_REST, WORLD, Components, Motion, Pose
from rpo.physics.model import JointType, Model
from rpo.physics.spatial import (
    ZERO,
    Scalar,
    Vector,
    add,
    cross,
    dot,
    mul,
    neg,
    rotate,
    scale,
    sub,
    total,
    vadd,
    vector,
    vsub,
)
from rpo.physics.tendons import Strands
from rpo.physics.topology import Group, joint_axis_frames

Row = tuple[int, int]
"""Group, and which of its links; -1 for the world."""


def tension(strands: Strands, k: int, length: Scalar, rate: Scalar) -> Scalar:
    """Force along tendon number `k`, positive where it pushes its ends apart."""

    def figure(name: str) -> float:
        return float(getattr(strands, name)[k])

    force = mul(figure("damping"), neg(rate))
    low, high, stiffness = figure("rest_lower"), figure("rest_upper"), figure("stiffness")
    if low == high:
        force = add(force, mul(stiffness, sub(low, length)))
    elif stiffness:
        slack = jnp.clip(length, low, high)
        force = add(force, mul(stiffness, slack - length))
    if figure("frictionloss"):
        friction = jnp.tanh(mul(1.0 / figure("frictionloss_speed"), rate))
        force = sub(force, mul(figure("frictionloss"), friction))
    low, high = figure("limit_lower"), figure("limit_upper")
    if np.isfinite([low, high]).any():
        force = add(force, mul(figure("limit_stiffness"), jnp.clip(length, low, high) - length))
        outside = (length < low) | (length > high)
        force = sub(force, jnp.where(outside, mul(figure("limit_damping"), rate), 0.0))
    return force


def tendon_forces(
    model: Model,
    groups: tuple[Group, ...],
    factors: Factors,
    coordinates: list[Scalar],
    velocities: list[Components],
    drives: list[Components],
) -> list[Scalar]:
    """Force of all tendons on each group's joints; 0.0 where there is none.

    What a servo of limited force and its control do together is clipped, as a real one saturates.

    Args:
        model: the robot.
        groups: its groups.
        factors: whose strengths scale what servos do.
        coordinates: of each group's joints, in the world; those of a free joint are not looked at.
        velocities: of each group's joints.
        drives: force along each group's joints, of controls.
    """
    place = {
        row: (g, k)
        for g, group in enumerate(groups)
        if group.kind is not JointType.FREE
        for k, row in enumerate(group.velocities[0])
    }
    forces: dict[Row, Scalar] = {}
    for t, coefficients in enumerate(model.tendons.coefficient):
        used = [(place[int(row)], float(coefficients[row])) for row in np.flatnonzero(coefficients)]
        length = total(*(mul(c, _row(coordinates[g], k)) for (g, k), c in used))
        rate = total(*(mul(c, _row(velocities[g][0], k)) for (g, k), c in used))
        strength = of_tendon(model, factors, t)
        force = mul(strength, tension(model.tendons, t, length, rate))
        low, high = servo_limits(model, t)
        if np.isfinite([low, high]).any():
            (((g, k), c),) = used
            drive = mul(1.0 / c, _row(drives[g][0], k))
            allowed = jnp.maximum(add(drive, force), mul(strength, low))
            force = sub(jnp.minimum(allowed, mul(strength, high)), drive)
        for where, c in used:
            forces[where] = add(forces.get(where, 0.0), mul(c, force))
    return [_gather(forces, g, group.size) for g, group in enumerate(groups)]


def cord_wrenches(
    model: Model,
    groups: tuple[Group, ...],
    poses: list[Pose],
    moving: list[Motion],
    origins: list[Vector],
) -> list[Wrench]:
    """Wrench of all cords on each group's links, about the group's own origin.

    Args:
        model: the robot.
        groups: its groups.
        poses: of every group, about its origin.
        moving: velocity of every group, about its origin.
        origins: where these origins are in the world.
    """
    place = {link: (g, k) for g, group in enumerate(groups) for k, link in enumerate(group.links)}
    frames = joint_axis_frames(model)
    moments: list[dict[Row, Scalar]] = [{} for _ in range(6)]

    def push(row: Row, point: Vector, force: Vector) -> None:
        if row[0] >= 0:
            for sums, value in zip(moments, (*cross(point, force), *force), strict=True):
                sums[row] = add(sums.get(row, 0.0), value)

    for t, path in enumerate(model.cords.path):
        rows = [place.get(link, (-1, 0)) for link, _ in path]
        points, speeds, ends = [], [], []
        for row, (link, local) in zip(rows, path, strict=True):
            pose, motion, origin = _of_row(row, poses, moving, origins)
            turned = np.eye(3) if link < 0 else frames[link].T
            offset = vector(float(x) for x in turned @ np.array(local))
            point = vadd(pose.position, rotate(pose.rotation, offset))
            points.append(point)
            ends.append(vadd(point, origin))
            speeds.append(vadd(motion.linear, cross(motion.angular, point)))
        lengths, ways, rates = [], [], []
        for s in range(len(path) - 1):
            between = vsub(ends[s + 1], ends[s])
            squared = dot(between, between)
            inverse = lax.rsqrt(jnp.maximum(squared, TINY))  # no direction between equal points
            ways.append(scale(inverse, between))
            lengths.append(mul(squared, inverse))
            rates.append(dot(ways[-1], vsub(speeds[s + 1], speeds[s])))
        force = tension(model.cords, t, total(*lengths), total(*rates))
        for s, way in enumerate(ways):
            push(rows[s], points[s], scale(neg(force), way))
            push(rows[s + 1], points[s + 1], scale(force, way))
    wrenches = []
    for g, group in enumerate(groups):
        if any(row[0] == g for row in moments[0]):
            parts = [_gather(sums, g, group.size) for sums in moments]
            wrenches.append(Wrench(vector(parts[:3]), vector(parts[3:])))
        else:
            wrenches.append(NO_WRENCH)
    return wrenches


def _of_row(
    row: Row, poses: list[Pose], moving: list[Motion], origins: list[Vector]
) -> tuple[Pose, Motion, Vector]:
    g, k = row
    if g < 0:
        return WORLD, AT_REST, ZERO

    def one(values: Vector) -> Vector:
        return vector(_row(value, k) for value in values)

    x, y, z = map(one, poses[g].rotation)
    return Pose(one(poses[g].position), (x, y, z)), Motion(*map(one, moving[g])), one(origins[g])


def _row(value: Scalar, k: int) -> Scalar:
    """One link's share of a group's scalar."""
    if np.ndim(value) == 0 or value.shape[0] == 1:
        return value
    if isinstance(value, np.ndarray):
        return float(value[k, 0])
    return lax.slice_in_dim(value, k, k + 1)


def _gather(rows: dict[Row, Scalar], g: int, size: int) -> Scalar:
    """Inverse of `_row`: zero for links that have no entry."""
    own = [rows.get((g, k), 0.0) for k in range(size)]
    if size == 1:
        return own[0]
    traced = [x for x in own if isinstance(x, jax.Array) and x.ndim == 2]
    if not traced:
        return 0.0
    shape, dtype = (1, max(x.shape[1] for x in traced)), traced[0].dtype
    return jnp.concatenate([jnp.broadcast_to(jnp.asarray(x, dtype), shape) for x in own])
