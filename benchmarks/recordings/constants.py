"""Constants of a recorded reference model beside those of ours, in a form without conventions.

Frames, fixed joints and orders of points differ between simulators, so both models are laid out in
their zero pose, with the base at the origin of a z-up world, and compared there. What has no effect
(the anchor of a slide, the target of a spring without stiffness) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpo.physics.attachments import quaternion_matrix
from rpo.physics.model import JointType, Model

from .coordinates import vector_from_reference

Floats = NDArray[np.float64]
Constants = dict[str, Floats]

_SLIDE, _HINGE, _FIXED, _FREE = 0, 1, 3, 4  # joint types in the recordings
_FAR = 1e3  # rad or m; limits so far away are none


def constants_of_model(model: Model) -> Constants:
    """Constants of our model in its zero pose."""
    rotation, position = np.zeros((model.num_links, 3, 3)), np.zeros((model.num_links, 3))
    for link, parent in enumerate(model.parent):
        base = (np.eye(3), np.zeros(3)) if parent < 0 else (rotation[parent], position[parent])
        placed = model.joint_type[link] is not JointType.FREE
        offset = model.joint_position[link] if placed else np.zeros(3)
        turn = quaternion_matrix(model.joint_quaternion[link]) if placed else np.eye(3)
        rotation[link], position[link] = base[0] @ turn, base[1] + base[0] @ offset
    hinged = [i for i, kind in enumerate(model.joint_type) if kind is JointType.HINGE]
    moving = [i for i, kind in enumerate(model.joint_type) if kind is not JointType.FREE]
    jointed = np.concatenate(
        [np.full(kind.velocities, kind is not JointType.FREE) for kind in model.joint_type]
    )
    center = position + np.einsum("lij,lj->li", rotation, model.center_of_mass)
    owner = model.contact_link
    points = position[owner] + np.einsum("kij,kj->ki", rotation[owner], model.contact_position)
    return {
        "joint anchors": position[hinged],
        "joint axes": np.einsum("lij,lj->li", rotation, model.joint_axis)[moving],
        "masses": model.mass,
        "mass moments": model.mass[:, None] * center,
        "inertias": rotation @ model.inertia @ rotation.transpose(0, 2, 1),
        "armature": model.armature,
        "joint damping": model.damping[jointed],
        "joint stiffness": model.stiffness[jointed],
        "spring offsets": (model.stiffness * model.spring_target)[jointed],
        "limits": np.clip(
            np.stack([model.limit_lower, model.limit_upper], 1)[jointed], -_FAR, _FAR
        ),
        "limit springs": np.stack([model.limit_stiffness, model.limit_damping], 1)[jointed],
        "contact points": _sorted_points(owner, points, model.contact_radius),
        "contact materials": np.unique(
            np.stack(
                [
                    model.contact_stiffness,
                    model.contact_damping,
                    model.friction_stiffness,
                    model.friction_coefficient,
                ],
                1,
            ),
            axis=0,
        ),
        "gravity": model.gravity,
    }


def constants_of_recording(data: Mapping[str, NDArray[Any]]) -> Constants:
    """The same of the model in a recording, its fixed joints merged."""
    kinds, parents = data["model_joint_type"], data["model_joint_parent"]
    rotation, position = _zero_pose(data)
    moving = [link for link, kind in enumerate(kinds) if kind != _FIXED]
    owner = np.empty(len(kinds), int)  # the moving link that carries each link
    for link in range(len(kinds)):
        owner[link] = moving.index(link) if link in moving else owner[parents[link]]
    jointed = [link for link in moving if kinds[link] in (_SLIDE, _HINGE)]
    hinged = [link for link in moving if kinds[link] == _HINGE]
    coordinate = data["model_joint_q_start"][jointed]
    stiffness = np.asarray(data["model_joint_target_ke"], float)[jointed]
    mass, moment, inertia = _merged_inertia(data, rotation, position, owner, len(moving))
    body = data["model_contact_body0"]
    points = position[body] + np.einsum("kij,kj->ki", rotation[body], data["model_contact_point0"])
    return {
        "joint anchors": position[hinged],
        "joint axes": np.einsum("lij,lj->li", rotation, data["model_joint_axis"])[jointed],
        "masses": mass,
        "mass moments": moment,
        "inertias": inertia,
        "armature": np.asarray(data["model_joint_armature"], float),
        "joint damping": np.asarray(data["model_joint_target_kd"], float)[jointed],
        "joint stiffness": stiffness,
        "spring offsets": stiffness * np.asarray(data["model_joint_target"], float)[coordinate],
        "limits": np.clip(
            np.stack([data["model_joint_limit_lower"], data["model_joint_limit_upper"]], 1),
            -_FAR,
            _FAR,
        ).astype(float)[coordinate],
        "limit springs": np.stack(
            [data["model_joint_limit_ke"], data["model_joint_limit_kd"]], 1
        ).astype(float)[jointed],
        "contact points": _sorted_points(owner[body], points, data["model_contact_dist"]),
        "contact materials": np.unique(
            np.asarray(data["model_shape_materials"], float)[data["model_contact_material"]], axis=0
        ),
        "gravity": vector_from_reference(np.asarray(data["model_gravity"], float)),
    }


def _zero_pose(data: Mapping[str, NDArray[Any]]) -> tuple[Floats, Floats]:
    """Rotation (L, 3, 3) and position (L, 3) of every recorded link, z-up, base at the origin."""
    joint_frame = np.asarray(data["model_joint_X_pj"], float)
    count = len(joint_frame)
    rotation, position = np.zeros((count, 3, 3)), np.zeros((count, 3))
    to_z_up = vector_from_reference(np.eye(3)).T
    for link, parent in enumerate(data["model_joint_parent"]):
        if data["model_joint_type"][link] == _FREE:
            rotation[link] = np.eye(3)
            continue
        x, y, z, w = joint_frame[link, 3:]
        turn = quaternion_matrix(np.array([w, x, y, z]))
        above = to_z_up if parent < 0 else rotation[parent]
        rotation[link] = above @ turn
        origin = np.zeros(3) if parent < 0 else position[parent]
        position[link] = origin + above @ joint_frame[link, :3]
    return rotation, position


def _merged_inertia(
    data: Mapping[str, NDArray[Any]],
    rotation: Floats,
    position: Floats,
    owner: NDArray[np.int_],
    count: int,
) -> tuple[Floats, Floats, Floats]:
    """Mass, mass times centre, and inertia about the centre of mass of every moving link."""
    frame = np.asarray(data["model_joint_X_cm"], float)
    spatial = np.asarray(data["model_body_I_m"], float)
    link_mass = spatial[:, 3, 3]
    center = position + np.einsum("lij,lj->li", rotation, frame[:, :3])
    mass, moment, inertia = np.zeros(count), np.zeros((count, 3)), np.zeros((count, 3, 3))
    np.add.at(mass, owner, link_mass)
    np.add.at(moment, owner, link_mass[:, None] * center)
    for link, group in enumerate(owner):
        if link_mass[link] == 0:
            continue
        x, y, z, w = frame[link, 3:]
        turn = rotation[link] @ quaternion_matrix(np.array([w, x, y, z]))
        arm = center[link] - moment[group] / mass[group]
        steiner = link_mass[link] * (arm @ arm * np.eye(3) - np.outer(arm, arm))
        inertia[group] += turn @ spatial[link, :3, :3] @ turn.T + steiner
    return mass, moment, inertia


def _sorted_points(owner: NDArray[Any], points: Floats, radius: Floats) -> Floats:
    """Rows (link, x, y, z, radius), ordered by what they hold to a tenth of a millimetre."""
    rows = np.concatenate([np.asarray(owner, float)[:, None], points, radius[:, None]], 1)
    key = np.round(rows, 4) + 0.0
    order: NDArray[np.intp] = np.lexsort(key.T[::-1])
    return np.asarray(rows[order], float)
