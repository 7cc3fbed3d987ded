"""How short a step a robot needs: the fastest spring and damper of its equations at one pose.

With H the mass matrix, K and C the stiffness and damping of everything that acts explicitly (joint
and limit springs, fixed tendons, contact of every point at once), a semi-implicit step dt is stable
for a mode of frequency w and decay g if (w dt)^2 + 2 g dt < 4. The bound is taken for the largest
of each, all limits and contacts at work, with half of that left as a margin.
"""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np

from rpo.physics.geoms import Floats
from rpo.physics.model import JointType, Model


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
        w, g = self.spring, self.damper
        if w == 0.0:
            return 1.0 / g if g else np.inf
        return float((np.sqrt(g * g + 2 * w * w) - g) / (w * w))


def fastest_rates(model: Model, compiled: mujoco.MjModel, q: Floats) -> Rates:
    """Frequency and decay of the fastest modes.

    Args:
        model: the robot.
        compiled: MuJoCo's model of the same description, which gives the Jacobians.
        q: coordinates (nq,).
    """
    data = mujoco.MjData(compiled)
    data.qpos = q
    mujoco.mj_forward(compiled, data)
    inertia = np.zeros((model.nv, model.nv))
    for row, unit in zip(inertia, np.eye(model.nv), strict=True):
        mujoco.mj_mulM(compiled, data, row, unit)
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
    weight = float(compiled.body_mass.sum() * np.linalg.norm(model.gravity))
    for link, position, spring, damper, friction in _contacts(model, weight):
        body, joint = int(compiled.jnt_bodyid[link]), link
        free = model.joint_type[link] is JointType.FREE
        local = position + (np.zeros(3) if free else compiled.jnt_pos[joint])
        point = data.xpos[body] + data.xmat[body].reshape(3, 3) @ local
        jacobian = np.zeros((3, model.nv))
        mujoco.mj_jac(compiled, data, jacobian, None, point, body)
        stiffness += spring * jacobian.T @ jacobian
        damping += max(damper, friction) * jacobian.T @ jacobian
    root = np.linalg.inv(np.linalg.cholesky(inertia))
    return Rates(
        spring=float(np.sqrt(np.linalg.eigvalsh(root @ stiffness @ root.T).max())),
        damper=float(np.linalg.eigvalsh(root @ damping @ root.T).max()),
    )


def _contacts(model: Model, weight: float) -> list[tuple[int, Floats, float, float, float]]:
    """Link, place, spring, damper and friction (N s/m) of everything that can touch.

    The ground's damper grows with the depth: it is taken where one point carries the robot.
    """
    found = []
    for k, link in enumerate(model.contact_link):
        spring = float(model.contact_stiffness[k])
        damper = float(model.contact_damping[k]) * weight / spring if spring else 0.0
        friction = float(model.friction_stiffness[k] * (model.friction_coefficient[k] > 0))
        found.append((int(link), model.contact_position[k], spring, damper, friction))
    planes, geoms = model.planes, model.geoms
    for k, link in enumerate(planes.link):
        spring = float(planes.stiffness[k])
        damper = float(planes.damping[k]) * weight / spring if spring else 0.0
        friction = float(planes.friction_stiffness[k] * (planes.friction_coefficient[k] > 0))
        found.append((int(link), planes.position[k], spring, damper, friction))
    for k in map(int, np.unique(geoms.pairs)):
        if geoms.link[k] >= 0:
            figures = (geoms.stiffness[k], geoms.damping[k], geoms.friction_stiffness[k])
            found.append((int(geoms.link[k]), geoms.position[k], *map(float, figures)))
    return found
