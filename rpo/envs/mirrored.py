"""Which joints of a robot are one another's mirror images."""

from __future__ import annotations

import copy
from collections.abc import Callable

import mujoco
import numpy as np

from rpo.mirror import SignedPermutation
from rpo.physics.attachments import quaternion_matrix
from rpo.physics.geoms import Floats
from rpo.physics.model import JointType, Model

TOLERANCE = 1e-5
"""Relative to the robot's size: how far joints may be from where a mirror would have them."""

SITUATIONS = 4
"""Random states in which a robot and its mirror image are compared."""
NUDGE = 0.03
"""Standard deviation of their coordinates about the start."""


def mirrored_joints(model: Model) -> SignedPermutation | None:
    """How a mirror in the plane y = 0 exchanges the coordinates of a robot's joints.

    The robot is looked at with all coordinates at zero and its root upright at the origin. A
    joint's image is the joint at the mirrored place whose axis is the mirrored one, or its opposite
    (then the coordinate changes its sign), with the same limits and springs and a link of the same
    mass.
    A mirror leaves (x, -y, z) of a vector and turns the other way round: an axis (x, y, z) becomes
    (-x, y, -z). Inertias and shapes are not compared: published robots are not exact there.

    Args:
        model: a robot with a free root.

    Returns:
        of the joints' coordinates in the order of velocities, without the root's; None if some
        joint has no image.
    """
    if model.joint_type[0] is not JointType.FREE or JointType.FREE in model.joint_type[1:]:
        return None
    place, axis = _places_and_axes(model)
    flip = np.array([1.0, -1.0, 1.0])
    reach = TOLERANCE * max(np.abs(place).max(initial=0.0), 1.0)
    index, sign = [], []
    for joint in range(1, len(place)):
        turns = model.joint_type[joint] is JointType.HINGE
        wanted = flip * axis[joint] * (-1 if turns else 1)
        for other in range(1, len(place)):
            towards = float(wanted @ axis[other])
            if (
                model.joint_type[other] is model.joint_type[joint]
                and np.abs(place[other] - flip * place[joint]).max() < reach
                and abs(towards) > 1.0 - TOLERANCE
                and _alike(model, joint, other, round(towards))
            ):
                index.append(other - 1)
                sign.append(round(towards))
                break
        else:
            return None
    try:
        return SignedPermutation(tuple(index), tuple(sign))
    except ValueError:  # two joints with the same image
        return None


def _places_and_axes(model: Model) -> tuple[Floats, Floats]:
    """Each link's origin and its joint's axis in the world (L, 3), all coordinates at zero."""
    place: list[Floats] = []
    axis: list[Floats] = []
    turns: list[Floats] = []
    for link, parent in enumerate(model.parent):
        own = quaternion_matrix(model.joint_quaternion[link])
        origin = np.array(model.joint_position[link], float)
        if link == 0:
            own, origin = np.eye(3), np.zeros(3)
        elif parent >= 0:
            own, origin = turns[parent] @ own, place[parent] + turns[parent] @ origin
        turns.append(own)
        place.append(origin)
        axis.append(own @ model.joint_axis[link])
    return np.array(place), np.array(axis)


def _alike(model: Model, joint: int, other: int, sign: int) -> bool:
    """Whether limits, springs and masses of two joints are each other's mirror images."""
    a, b = joint + 5, other + 5  # a free root has six velocities
    range_a = (model.limit_lower[a], model.limit_upper[a])
    range_b = (model.limit_lower[b], model.limit_upper[b])
    mirrored = range_b if sign > 0 else (-range_b[1], -range_b[0])
    pairs = [(x[a], x[b]) for x in (model.armature, model.damping, model.stiffness)]
    pairs += [(model.mass[joint], model.mass[other])]
    pairs += [(model.spring_target[a], sign * model.spring_target[b])]
    return np.allclose(range_a, mirrored) and all(np.isclose(x, y) for x, y in pairs)


def mirrored_actions(forces: Floats, joints: SignedPermutation) -> SignedPermutation | None:
    """How the mirror exchanges actions.

    Args:
        forces: what each action of one does to the joints (joints, actions).
        joints: how it exchanges the joints.

    Returns:
        None if some action has no image.
    """
    images = joints(forces.T)  # what the mirrored actions do
    index, sign = [], []
    for image in images:
        found = [
            (k, s) for k, own in enumerate(forces.T) for s in (1, -1) if np.allclose(own, s * image)
        ]
        if len(found) != 1:
            return None
        index.append(found[0][0])
        sign.append(found[0][1])
    try:
        return SignedPermutation(tuple(index), tuple(sign))
    except ValueError:
        return None


def moves_alike(
    compiled: mujoco.MjModel,
    start: Floats,
    joints: SignedPermutation,
    actions: SignedPermutation,
    control: Callable[[Floats], Floats],
) -> bool:
    """Whether MuJoCo accelerates a robot and its mirror image alike, with contact and motors.

    Args:
        compiled: the robot, with a free root and hinges or slides.
        start: a pose in which it touches what it stands on (nq,).
        joints: how the mirror exchanges its joints.
        actions: how it exchanges its actions.
        control: from actions in [-1, 1] to MuJoCo's controls; not called if it has no actuators.
    """
    model = copy.copy(compiled)
    model.opt.cone = mujoco.mjtCone.mjCONE_ELLIPTIC  # a pyramid has edges, which have no image
    model.opt.tolerance, model.opt.iterations = 1e-12, 500
    vector, turn = np.array([1, -1, 1]), np.array([-1, 1, -1])
    here, there = mujoco.MjData(model), mujoco.MjData(model)
    random = np.random.default_rng(0)
    for _ in range(SITUATIONS):
        q = start + NUDGE * random.normal(size=model.nq)
        q[3:7] /= np.linalg.norm(q[3:7])
        v = random.normal(size=model.nv)
        here.qpos, here.qvel = q, v
        there.qpos = np.r_[q[:3] * vector, q[3], q[4:7] * turn, joints(q[7:])]
        there.qvel = np.r_[v[:3] * vector, v[3:6] * turn, joints(v[6:])]
        if model.nu:
            action = random.uniform(-1, 1, model.nu)
            here.ctrl, there.ctrl = control(action), control(actions(action))
        for data in (here, there):
            mujoco.mj_forward(model, data)
        a, b = here.qacc, there.qacc
        image = np.r_[a[:3] * vector, a[3:6] * turn, joints(a[6:])]
        if not np.allclose(image, b, atol=1e-5 * np.abs(a).max()):
            return False
    return True
