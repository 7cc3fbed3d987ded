"""How short a step a robot needs: the fastest spring and damper of its equations at one pose.

With H the mass matrix, K and C the stiffness and damping of everything that acts explicitly (joint
and limit springs, fixed tendons, contact), a semi-implicit step dt is stable for a mode of
frequency w and decay g if (w dt)^2 + 2 g dt < 4. The bound is taken for the largest of each, all
limits and contacts at work, with half of that left as a margin.

A box has eight corners, but the ground reaches four at most, and deep ones only as far as the
weight presses them. Every link is therefore put on a ground of its own, in the attitude in which
that is worst for it: its points go in until they carry LOAD times the robot's weight, and those
that are in the ground by then count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import mujoco
import numpy as np

from rpo.physics.geoms import MATERIAL, Floats
from rpo.physics.inertia import rotation_matrix
from rpo.physics.model import JointType, Model

LOAD = 2.0
"""So many times the robot's weight may rest on one link, as when it lands."""
_GROUND = ("contact_stiffness", "contact_damping", "friction_stiffness", "friction_coefficient")
"""What `MATERIAL` is called in the model, of contact points."""
SAMPLED_DIRECTIONS = 32
"""Attitudes of a link beside those in which it stands on a face of one of its shapes."""


@dataclasses.dataclass(frozen=True)
class Rates:
    """Fastest modes of a robot.

    Args:
        spring: largest frequency, rad/s.
        damper: largest decay, 1/s.
    """

    spring: float
    damper: float

    @property
    def longest_step(self) -> float:
        """Step for which (w dt)^2 + 2 g dt = 2, s; infinite if nothing pulls."""
        # The root with the sum below: one with the difference above loses all digits if g >> w.
        speed = np.hypot(np.sqrt(2.0) * self.spring, self.damper) + self.damper
        return float(2.0 / speed) if speed else np.inf


def fastest_rates(model: Model, compiled: mujoco.MjModel, q: Floats) -> Rates:
    """Frequency and decay of the fastest modes.

    Args:
        model: the robot.
        compiled: MuJoCo's model of the same description, which gives the Jacobians.
        q: coordinates (nq,).

    Raises:
        ValueError: in one line, if the mass matrix has no inverse in double precision.
    """
    data = mujoco.MjData(compiled)
    data.qpos = q
    mujoco.mj_forward(compiled, data)
    inertia = np.zeros((model.nv, model.nv))
    for row, unit in zip(inertia, np.eye(model.nv), strict=True):
        mujoco.mj_mulM(compiled, data, row, unit)
    try:
        root: Floats = np.asarray(np.linalg.inv(np.linalg.cholesky(inertia)), float)
    except np.linalg.LinAlgError:
        raise ValueError(
            "its mass matrix has no inverse: some link is far too light beside the others"
        ) from None
    stiffness, damping = _of_joints(model)
    for spring, damper in (*_of_ground(model, data, root), *_of_pairs(model, data)):
        stiffness += spring
        damping += damper
    return Rates(
        spring=float(np.sqrt(np.linalg.eigvalsh(root @ stiffness @ root.T).max())),
        damper=float(np.linalg.eigvalsh(root @ damping @ root.T).max()),
    )


def in_world(data: mujoco.MjData, model: Model, link: int, position: Floats) -> Floats:
    """Place in the world (3,) of a point given in a link's frame, as MuJoCo has the pose."""
    body = int(data.model.jnt_bodyid[link])
    anchored = model.joint_type[link] is not JointType.FREE
    local = position + (data.model.jnt_pos[link] if anchored else 0.0)
    place: Floats = data.xpos[body] + data.xmat[body].reshape(3, 3) @ local
    return place


def _of_joints(model: Model) -> tuple[Floats, Floats]:
    """Stiffness and damping (nv, nv) of joints, their limits, dry friction, and fixed tendons."""
    limited = np.isfinite(model.limit_lower) | np.isfinite(model.limit_upper)
    stiffness = np.diag(model.stiffness + limited * model.limit_stiffness)
    rubbing = np.zeros(model.nv)
    sticky = model.frictionloss > 0
    rubbing[sticky] = model.frictionloss[sticky] / model.frictionloss_speed[sticky]
    damping = np.diag(
        model.damping + model.limit_damping + limited * model.limit_damping_beyond + rubbing
    )
    if model.tendons.names:
        tendons, jacobian = model.tendons, model.tendons.coefficient
        bounded = np.isfinite(tendons.limit_lower) | np.isfinite(tendons.limit_upper)
        pull = tendons.stiffness + bounded * tendons.limit_stiffness
        brake = tendons.damping + bounded * tendons.limit_damping
        stiffness += jacobian.T @ (pull[:, None] * jacobian)
        damping += jacobian.T @ (brake[:, None] * jacobian)
    return stiffness, damping


@dataclasses.dataclass(frozen=True)
class _Points:
    """Places of one link that may touch a plane, in the world at the pose.

    Args:
        center: (n, 3).
        radius: (n,).
        curvature: A^2 of an ellipsoid about the centre, in the world's axes (n, 3, 3).
        spring, damper, friction: N/m, N s/m^2, N s/m (n,).
    """

    center: Floats
    radius: Floats
    curvature: Floats
    spring: Floats
    damper: Floats
    friction: Floats

    def lowest(self, normal: Floats) -> Floats:
        """Where each is deepest in a plane (n, 3)."""
        along = self.curvature @ normal
        height = np.sqrt(np.maximum(along @ normal, 0.0))
        curved = along / np.where(height > 0, height, 1.0)[:, None]
        place: Floats = self.center - self.radius[:, None] * normal - curved
        return place

    def depths(self, height: Floats, load: float) -> Floats:
        """How deep each is in a plane that presses with `load` N (n,); negative above it.

        Args:
            height: of each along the plane's normal (n,).
            load: shared by all.
        """
        order = np.argsort(height)
        rows, spring = height[order], self.spring[order]
        stiffness = np.cumsum(spring)
        # the plane's surface if the lowest one, two, ... are in it: right where the next is not
        level = (load + np.cumsum(spring * rows)) / np.where(stiffness > 0, stiffness, np.inf)
        reached = int(np.argmax((level <= np.append(rows[1:], np.inf)) & (stiffness > 0)))
        depth: Floats = level[reached] - height
        return depth


def _of_ground(model: Model, data: mujoco.MjData, root: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Stiffness and damping (nv, nv) of the ground under each link, in the worst attitude.

    Args:
        model: the robot.
        data: of MuJoCo, at the pose.
        root: inverse of the mass matrix's Cholesky factor.
    """
    load = LOAD * float(data.model.body_mass.sum() * np.linalg.norm(model.gravity))
    for link in map(int, np.unique([*model.contact_link, *model.planes.link])):
        points, body = _points(model, data, link), int(data.model.jnt_bodyid[link])
        moving, turning = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_jac(data.model, data, moving, turning, data.xpos[body], body)
        worst: list[tuple[float, Floats]] = [(0.0, np.zeros((1, model.nv)))] * 2
        for normal in _normals(data, body):
            place = points.lowest(normal)
            depth = points.depths(place @ normal, load)
            touching = depth >= 0
            arm = place[touching] - data.xpos[body]
            jacobian = moving + np.cross(turning.T[:, None], arm).transpose(1, 2, 0)
            closing = normal @ jacobian
            sliding = jacobian - normal[:, None] * closing[:, None]
            brake = np.sqrt(points.damper * np.maximum(depth, 0))[touching, None] * closing
            rub = np.sqrt(points.friction)[touching, None, None] * sliding
            for k, rows in enumerate(
                (
                    np.sqrt(points.spring)[touching, None] * closing,
                    np.concatenate([brake, rub.reshape(-1, model.nv)]),
                )
            ):
                rate = float(np.linalg.norm(rows @ root.T, 2)) if len(rows) else 0.0
                worst[k] = max(worst[k], (rate, rows), key=lambda one: one[0])
        (_, springs), (_, dampers) = worst
        yield springs.T @ springs, dampers.T @ dampers


def _points(model: Model, data: mujoco.MjData, link: int) -> _Points:
    """Everything of a link that may touch a plane."""
    planes, own, placed = model.planes, model.contact_link == link, model.planes.link == link
    at = np.concatenate([model.contact_position[own], planes.position[placed]])
    turned = data.xmat[int(data.model.jnt_bodyid[link])].reshape(3, 3)
    curvature = np.zeros((len(at), 3, 3))
    for k, row in enumerate(np.flatnonzero(placed), int(own.sum())):
        axes = turned @ rotation_matrix(planes.quaternion[row])
        curvature[k] = axes @ np.diag(planes.semi_axes[row] ** 2) @ axes.T
    spring, damper, friction, coefficient, radius = (
        np.concatenate([getattr(model, field)[own], getattr(planes, other)[placed]])
        for field, other in zip(
            (*_GROUND, "contact_radius"),
            (*MATERIAL, "radius"),
            strict=True,
        )
    )
    return _Points(
        center=np.array([in_world(data, model, link, position) for position in at]),
        radius=radius,
        curvature=curvature,
        spring=spring,
        damper=damper * (spring > 0),
        friction=friction * (coefficient > 0),
    )


def _normals(data: mujoco.MjData, body: int) -> Floats:
    """Normals of grounds under a body (n, 3): along the axes of its shapes, and all around."""
    model = data.model
    welded = model.body_weldid[model.geom_bodyid] == model.body_weldid[body]
    axes = data.geom_xmat[welded].reshape(-1, 3, 3).transpose(0, 2, 1).reshape(-1, 3)
    k = np.arange(SAMPLED_DIRECTIONS)
    z, angle = 1 - (2 * k + 1) / SAMPLED_DIRECTIONS, np.pi * (1 + np.sqrt(5)) * k
    around = np.sqrt(1 - z**2)
    sampled = np.stack([around * np.cos(angle), around * np.sin(angle), z], axis=1)
    return np.concatenate([axes, -axes, sampled])


def _of_pairs(model: Model, data: mujoco.MjData) -> Iterator[tuple[Floats, Floats]]:
    """Stiffness and damping (nv, nv) of each shape that may touch another, pressed at its centre
    from all sides."""
    geoms = model.geoms
    for k in map(int, np.unique(geoms.pairs)):
        link = int(geoms.link[k])
        if link < 0:
            continue
        jacobian, body = np.zeros((3, model.nv)), int(data.model.jnt_bodyid[link])
        place = in_world(data, model, link, geoms.position[k])
        mujoco.mj_jac(data.model, data, jacobian, None, place, body)
        pressed = jacobian.T @ jacobian
        damper = max(float(geoms.damping[k]), float(geoms.friction_stiffness[k]))
        yield float(geoms.stiffness[k]) * pressed, damper * pressed
