"""Joint coordinates: rows of q and qd against components by group, springs, limits, integration."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from rpo.physics.kinematics import Components
from rpo.physics.model import JointType
from rpo.physics.spatial import Scalar, add, cross, mul, neg, sub, vadd
from rpo.physics.topology import Group

Rows = tuple[tuple[int, ...], ...]


def take_rows(array: Array, rows: tuple[int, ...]) -> Array:
    """Rows of a (rows, batch) array; a strided slice where possible, since XLA's gather is slow."""
    steps = {b - a for a, b in itertools.pairwise(rows)} or {1}
    if len(steps) == 1 and (step := steps.pop()) > 0:
        return lax.slice_in_dim(array, rows[0], rows[-1] + 1, step)
    return jnp.concatenate([lax.slice_in_dim(array, r, r + 1) for r in rows])


def split(array: Array, components: list[Rows]) -> list[Components]:
    """Components of each group, (links, batch) each, from rows of q, qd or forces."""
    return [tuple(take_rows(array, rows) for rows in group) for group in components]


def join(values: list[Components], components: list[Rows]) -> Array:
    """Inverse of `split`."""
    pieces: dict[int, Array] = {}
    for group, rows_of_group in zip(values, components, strict=True):
        for value, rows in zip(group, rows_of_group, strict=True):
            for k, row in enumerate(rows):
                pieces[row] = lax.slice_in_dim(value, k, k + 1)
    return jnp.concatenate([pieces[row] for row in range(len(pieces))])


def about_origin(group: Group, q: Components) -> Components:
    """Coordinates that move the robot's origin become displacements from it: they start at zero."""
    if group.kind is JointType.FREE:
        return (*(jnp.zeros_like(component) for component in q[:3]), *q[3:])
    return (jnp.zeros_like(q[0]),) if group.base else q


def in_world(group: Group, start: Components, q: Components) -> Components:
    """Inverse of `about_origin` after displacements `q` from the coordinates `start`."""
    if group.kind is JointType.FREE:
        return (*(s + d for s, d in zip(start[:3], q[:3], strict=True)), *q[3:])
    return (start[0] + q[0],) if group.base else q


def joint_force(group: Group, q: Scalar, qd: Scalar, applied: Scalar) -> Scalar:
    """Applied force, spring, damping, dry friction and the limits, on a hinge or slide."""
    force = sub(applied, mul(group.damping, qd))
    force = sub(force, mul(group.stiffness, sub(q, group.spring_target)))
    below = _beyond(group.limit_lower, q, group)
    above = _beyond(neg(group.limit_upper), neg(q), group)
    force = sub(add(force, below), above)
    if np.any(group.frictionloss):
        force = sub(force, mul(group.frictionloss, jnp.tanh(mul(group.frictionloss_rate, qd))))
    if not np.any(group.limit_damping_beyond):
        return force
    outside = (sub(q, group.limit_lower) < 0) | (sub(group.limit_upper, q) < 0)
    return sub(force, jnp.where(outside, mul(group.limit_damping_beyond, qd), 0.0))


def _beyond(limit: Scalar, q: Scalar, group: Group) -> Scalar:
    """Spring force of a lower limit: ke (limit - q) below it."""
    if not np.isfinite(limit).any():
        return 0.0
    excess = sub(np.where(np.isfinite(limit), limit, -1e30) if np.ndim(limit) else limit, q)
    return mul(group.limit_stiffness, jnp.maximum(excess, 0.0))


def integrate(
    group: Group, q: Components, qd: Components, acceleration: Components, dt: float
) -> tuple[Components, Components]:
    """Semi-implicit Euler: qd' = qd + dt qdd, then q' = q + dt qd'.

    A free joint's velocity is the twist about the origin, so its position moves with v + w x p; its
    quaternion gains dt/2 (0, w) * quaternion and is normalised.
    """
    new = tuple(add(v, mul(dt, a)) for v, a in zip(qd, acceleration, strict=True))
    if group.kind is not JointType.FREE:
        return (add(q[0], mul(dt, new[0])),), new
    v, w = new[:3], new[3:]
    position = q[:3]
    moved = vadd(v, cross(w, position))
    position = tuple(add(p, mul(dt, m)) for p, m in zip(position, moved, strict=True))
    return (*position, *_turn_quaternion(q[3:], w, dt)), new


def _turn_quaternion(quaternion: Components, w: Components, dt: float) -> Components:
    qw, qx, qy, qz = quaternion
    wx, wy, wz = (mul(0.5 * dt, component) for component in w)
    turned = (
        qw - wx * qx - wy * qy - wz * qz,
        qx + wx * qw + wy * qz - wz * qy,
        qy + wy * qw + wz * qx - wx * qz,
        qz + wz * qw + wx * qy - wy * qx,
    )
    inverse = lax.rsqrt(sum(c * c for c in turned))
    return tuple(c * inverse for c in turned)
