"""Servos for a robot whose description has no actuators, as nearly all URDFs have none.

An action moves the target of a joint's servo: tau = clip(kp (q0 + span a - q) - kd qd, -effort,
effort), in every substep, with q0 where the joint is at the start. A span is one radian, or half
the range of a slide. A servo whose limb hangs free is critically damped, and no faster than an
action lasts.
"""

from __future__ import annotations

import mujoco
import numpy as np

from rpo.physics.geoms import Floats
from rpo.physics.mjcf import Change


def servos_for(
    spec: mujoco.MjSpec,
    compiled: mujoco.MjModel,
    start: Floats,
    names: tuple[str, ...],
    dofs: list[int],
    effort: Floats,
    share: float,
    control_dt: float,
) -> Change:
    """What gives the robot's description servos that suit its joints, one for each.

    Args:
        spec: the robot.
        compiled: what it has been compiled to.
        start: its coordinates at the start (nq,).
        names: of the hinges and slides that are pushed (n).
        dofs: their rows of the velocities (n).
        effort: largest force of each, N m or N (n,).
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
    # Of each joint (n,):
    rest = start[compiled.jnt_qposadr[joints]]  # q0, rad or m
    # rad or m, per unit of action
    span = np.where(slides & compiled.jnt_limited[joints].astype(bool) & (half > 0), half, 1.0)
    stiffness = np.minimum(share * effort / span, inertia / control_dt**2)  # kp, N m/rad or N/m
    damping = 2.0 * np.sqrt(stiffness * inertia)  # kd, N m s/rad or N s/m
    place_of = {joint.id: place for place, joint in enumerate(spec.joints)}
    places = [place_of[joint] for joint in joints]  # in the description's order

    def add(description: mujoco.MjSpec) -> None:
        for k, (place, name) in enumerate(zip(places, names, strict=True)):
            joint = description.joints[place]
            joint.name = joint.name or name
            actuator = description.add_actuator(
                name=name,
                target=joint.name,
                trntype=mujoco.mjtTrn.mjTRN_JOINT,
                gaintype=mujoco.mjtGain.mjGAIN_FIXED,
                biastype=mujoco.mjtBias.mjBIAS_AFFINE,
                ctrllimited=True,
                ctrlrange=[rest[k] - span[k], rest[k] + span[k]],
                forcelimited=True,
                forcerange=[-effort[k], effort[k]],
            )
            actuator.gainprm[0] = stiffness[k]
            actuator.biasprm[1:3] = -stiffness[k], -damping[k]

    return add
