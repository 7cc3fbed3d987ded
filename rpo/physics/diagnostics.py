"""Poses, mass matrix, bias forces and accelerations as plain arrays, to look at and to check.

These are the same functions that the step runs, with their components gathered into arrays. They
are not meant for inner loops.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from rpo.physics import dynamics, joints, kinematics
from rpo.physics.kinematics import Pose
from rpo.physics.model import JointType, Model
from rpo.physics.spatial import Scalar, Vector, vadd, vector
from rpo.physics.topology import Group, groups_of, joint_axis_frames


def link_poses(model: Model, q: Array) -> tuple[Array, Array]:
    """World position (L, 3, batch) and rotation matrix (L, 3, 3, batch) of the model's link frames.

    Args:
        model: the robot.
        q: coordinates (nq, batch).
    """
    groups, origins, poses = _kinematics(model, q)
    positions: dict[int, Array] = {}
    rotations: dict[int, Array] = {}
    for group, origin, pose in zip(groups, origins, poses, strict=True):
        position = _full(vadd(pose.position, origin), group, q)
        columns = jnp.stack([_full(column, group, q) for column in pose.rotation], axis=1)
        for k, link in enumerate(group.links):
            positions[link] = position[:, k]
            rotations[link] = columns[:, :, k]
    order = range(model.num_links)
    frames = joint_axis_frames(model)
    turned = [jnp.einsum("ijb,jk->ikb", rotations[k], frames[k].T.astype(q.dtype)) for k in order]
    return jnp.stack([positions[k] for k in order]), jnp.stack(turned)


def mass_matrix(model: Model, q: Array) -> Array:
    """Joint-space inertia H (nv, nv, batch), armature included, for velocities as in `Model`."""
    groups, _, poses = _kinematics(model, q)
    subspaces = kinematics.motion_subspaces(groups, poses)
    entries = dynamics.mass_matrix(groups, poses, subspaces)
    matrix = jnp.zeros((model.nv, model.nv, q.shape[1]), q.dtype)
    for ((g, c), (h, d)), value in entries.items():
        rows = np.array(groups[g].velocities[c])
        columns = np.array(groups[h].velocities[d])
        columns = columns if len(columns) == len(rows) else np.repeat(columns, len(rows))
        full = jnp.broadcast_to(jnp.asarray(value, q.dtype), (len(rows), q.shape[1]))
        matrix = matrix.at[rows, columns].set(full).at[columns, rows].set(full)
    return matrix


def bias_forces(model: Model, q: Array, qd: Array) -> Array:
    """Coriolis, centrifugal and gravitational generalised forces (nv, batch): H qdd + bias = tau.

    For a free joint the first three rows go with the acceleration of the link's origin.
    """
    groups, _, poses = _kinematics(model, q)
    velocities = joints.split(qd, [group.velocities for group in groups])
    subspaces = kinematics.motion_subspaces(groups, poses)
    moving = kinematics.link_velocities(groups, subspaces, velocities)
    gravity = vector(float(g) for g in model.gravity)
    wrenches = dynamics.bias_wrenches(groups, poses, subspaces, velocities, moving, gravity)
    needed = dynamics.project_wrenches(groups, subspaces, wrenches)
    rows = [
        tuple(_full_scalar(needed[g, c], group, q) for c in range(group.kind.velocities))
        for g, group in enumerate(groups)
    ]
    bias = joints.join(rows, [group.velocities for group in groups])
    return bias + _convective(groups, mass_matrix(model, q), qd)


def forward_dynamics(model: Model, q: Array, qd: Array, joint_force: Array) -> Array:
    """Accelerations (nv, batch) without contact, springs, damping and limits."""
    matrix = jnp.moveaxis(mass_matrix(model, q), -1, 0)
    force = (joint_force - bias_forces(model, q, qd)).T
    acceleration: Array = jnp.linalg.solve(matrix, force[..., None])[..., 0].T
    return acceleration


def _kinematics(model: Model, q: Array) -> tuple[tuple[Group, ...], list[Vector], list[Pose]]:
    """Groups, their origins in the world, and poses about those origins, as in a control step."""
    groups = groups_of(model)
    coordinates = joints.split(q, [group.coordinates for group in groups])
    relative = [joints.about_origin(*pair) for pair in zip(groups, coordinates, strict=True)]
    poses = kinematics.link_poses(groups, relative)
    return groups, kinematics.origins(groups, coordinates), poses


def _full(value: Vector, group: Group, q: Array) -> Array:
    """Vector of a group as an array (3, links, batch)."""
    return jnp.stack([_full_scalar(component, group, q) for component in value])


def _full_scalar(value: Scalar, group: Group, q: Array) -> Array:
    return jnp.broadcast_to(jnp.asarray(value, q.dtype), (group.size, q.shape[1]))


def _convective(groups: tuple[Group, ...], matrix: Array, qd: Array) -> Array:
    """-H (w x v, 0): the step integrates the twist, whose rate differs from that of the origin."""
    rate = jnp.zeros_like(qd)
    for group in groups:
        if group.kind is JointType.FREE:
            for rows in zip(*group.velocities, strict=True):
                v, w = qd[np.array(rows[:3])], qd[np.array(rows[3:])]
                rate = rate.at[np.array(rows[:3])].set(jnp.cross(w, v, axis=0))
    return -jnp.einsum("ijb,jb->ib", matrix, rate)
