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

from rpo.physics.geoms import MATERIAL, Floats
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
        jacobian, body = np.zeros((3, model.nv)), int(compiled.jnt_bodyid[link])
        mujoco.mj_jac(compiled, data, jacobian, None, in_world(data, model, link, position), body)
        stiffness += spring * jacobian.T @ jacobian
        damping += max(damper, friction) * jacobian.T @ jacobian
    root = np.linalg.inv(np.linalg.cholesky(inertia))
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


def _contacts(model: Model, weight: float) -> list[tuple[int, Floats, float, float, float]]:
    """Link, place, spring, damper and friction (N s/m) of everything that can touch.

    The ground's damper grows with the depth: it is taken where one point carries the robot.
    """
    found = []
    planes, geoms = model.planes, model.geoms
    for link, position, *figures in (
        *zip(
            *(model.contact_link, model.contact_position, model.contact_stiffness),
            *(model.contact_damping, model.friction_stiffness, model.friction_coefficient),
            strict=True,
        ),
        *zip(*(getattr(planes, f) for f in ("link", "position", *MATERIAL)), strict=True),
    ):
        spring, damper, friction, coefficient = map(float, figures)
        damper = damper * weight / spring if spring else 0.0
        found.append((int(link), position, spring, damper, friction * (coefficient > 0)))
    for k in map(int, np.unique(geoms.pairs)):
        if geoms.link[k] >= 0:
            own = (geoms.stiffness[k], geoms.damping[k], geoms.friction_stiffness[k])
            found.append((int(geoms.link[k]), geoms.position[k], *map(float, own)))
    return found
