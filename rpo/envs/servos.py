"""Servos for a robot whose description has no actuators, as nearly all URDFs have none.

An action moves the target of a joint's servo: tau = clip(kp (q0 + span a - q) - kd qd, -effort,
effort), in every substep, with q0 where the joint is at the start. A span is one radian, or half
the range of a slide. A servo whose limb hangs free is critically damped, and no faster than an
action lasts.
"""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np

from rpo.physics.geoms import Floats


@dataclasses.dataclass(frozen=True)
class Servos:
    """One per joint that is not the root's.

    Args:
        places: of the joints, in the description's order (n).
        names: what to call them and their joints (n).
        start: q0, rad or m (n,).
        span: rad or m per unit of action (n,).
        stiffness: kp, N m/rad or N/m (n,).
        damping: kd, N m s/rad or N s/m (n,).
        effort: largest force, N m or N (n,).
    """

    places: tuple[int, ...]
    names: tuple[str, ...]
    start: Floats
    span: Floats
    stiffness: Floats
    damping: Floats
    effort: Floats

    def add_to(self, spec: mujoco.MjSpec) -> None:
        """Adds them to a description."""
        for k, (place, name) in enumerate(zip(self.places, self.names, strict=True)):
            joint = spec.joints[place]
            joint.name = joint.name or name
            low, high = (self.start[k] + way * self.span[k] for way in (-1, 1))
            actuator = spec.add_actuator(
                name=name,
                target=joint.name,
                trntype=mujoco.mjtTrn.mjTRN_JOINT,
                gaintype=mujoco.mjtGain.mjGAIN_FIXED,
                biastype=mujoco.mjtBias.mjBIAS_AFFINE,
                ctrllimited=True,
                ctrlrange=[low, high],
                forcelimited=True,
                forcerange=[-self.effort[k], self.effort[k]],
            )
            actuator.gainprm[0] = self.stiffness[k]
            actuator.biasprm[1:3] = -self.stiffness[k], -self.damping[k]


def servos_for(
    spec: mujoco.MjSpec,
    compiled: mujoco.MjModel,
    start: Floats,
    names: tuple[str, ...],
    dofs: list[int],
    effort: Floats,
    share: float,
    control_dt: float,
) -> Servos:
    """Servos that suit a robot's joints.

    Args:
        spec: the robot.
        compiled: what it has been compiled to.
        start: its coordinates at the start (nq,).
        names: of the hinges and slides that are pushed (n).
        dofs: their rows of the velocities (n).
        effort: largest force of each (n,).
        share: stiffness over effort, per span; less where a free limb would be faster than that.
        control_dt: length of an action, s.
    """
    data = mujoco.MjData(compiled)
    data.qpos = start
    mujoco.mj_forward(compiled, data)
    inverse = np.zeros((compiled.nv, compiled.nv))
    mujoco.mj_solveM(compiled, data, inverse, np.eye(compiled.nv))
    inertia = 1.0 / inverse.diagonal()[dofs]
    joints = compiled.dof_jntid[dofs]
    slides = compiled.jnt_type[joints] == mujoco.mjtJoint.mjJNT_SLIDE
    half = 0.5 * np.ptp(compiled.jnt_range[joints], axis=1)
    span = np.where(slides & compiled.jnt_limited[joints].astype(bool) & (half > 0), half, 1.0)
    stiffness = np.minimum(share * effort / span, inertia / control_dt**2)
    places = {joint.id: place for place, joint in enumerate(spec.joints)}
    return Servos(
        places=tuple(places[joint] for joint in joints),
        names=names,
        start=start[compiled.jnt_qposadr[joints]],
        span=span,
        stiffness=stiffness,
        damping=2.0 * np.sqrt(stiffness * inertia),
        effort=effort,
    )
