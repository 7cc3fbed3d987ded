"""Accelerations by MuJoCo's engine and by one tiny step of ours, for the same states."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import mujoco
import numpy as np
from numpy.typing import NDArray

from rpo.physics.geoms import NO_GEOMS
from rpo.physics.model import CONTACT_FIELDS, JointType, Model
from rpo.physics.planes import NO_PLANE_CONTACTS
from rpo.physics.step import StepSettings, control_step
from rpo.physics.tendons import STRAND_FIELDS
from tests.eager import eagerly

Floats = NDArray[np.float64]
SHORT = 1e-7
"""Step whose change of velocity gives the acceleration: to 1e-7 or so with a free joint, whose
turn within it counts, else to rounding."""


def compile_mjcf(xml: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(xml)


def random_states(model: Model, batch: int, seed: int) -> tuple[Floats, Floats]:
    """Coordinates and velocities (batch, ...) with unit quaternions."""
    draw = np.random.default_rng(seed)
    q = draw.uniform(-1.5, 1.5, (batch, model.nq))
    for kind, start in zip(model.joint_type, model.coordinate_start, strict=True):
        if kind is JointType.FREE:
            turn = draw.normal(size=(batch, 4))
            q[:, start + 3 : start + 7] = turn / np.linalg.norm(turn, axis=1, keepdims=True)
    return q, draw.uniform(-3.0, 3.0, (batch, model.nv))


def without_constraints(model: Model, compiled: mujoco.MjModel | None = None) -> Model:
    """The robot without what MuJoCo has as constraints: contact, limits, dry friction, and the
    equality constraints of its compiled description if that is given."""
    points = {field: np.zeros(0) for field in CONTACT_FIELDS}
    points |= {"contact_link": np.zeros(0, np.int64), "contact_position": np.zeros((0, 3))}

    tendons, equalities = model.tendons, set()
    if compiled is not None:
        equalities = {compiled.equality(k).name or f"equality_{k}" for k in range(compiled.neq)}
    kept = np.array([name not in equalities for name in tendons.names], bool)
    fields = {field: getattr(tendons, field)[kept] for field in (*STRAND_FIELDS, "coefficient")}
    names = tuple(name for name in tendons.names if name not in equalities)
    tendons = dataclasses.replace(tendons, names=names, **fields)

    def unlimited(strands):
        free = np.full(len(strands.names), np.inf)
        return dataclasses.replace(
            strands, limit_lower=-free, limit_upper=free, frictionloss=0 * strands.frictionloss
        )

    return dataclasses.replace(
        model,
        geoms=NO_GEOMS,
        planes=NO_PLANE_CONTACTS,
        limit_lower=np.full(model.nv, -np.inf),
        limit_upper=np.full(model.nv, np.inf),
        frictionloss=np.zeros(model.nv),
        tendons=unlimited(tendons),
        cords=unlimited(model.cords),
        **points,
    )


def our_acceleration(model: Model, q: Floats, qd: Floats, control: Floats | None = None) -> Floats:
    """(batch, nv), under the description's actuators if there is a control (batch, nu)."""
    force = jnp.zeros((model.nv, len(q)))
    if control is not None and model.actuators.names:
        force = model.actuators.forces(jnp.asarray(control.T))
    settings = StepSettings(control_dt=SHORT, substeps=1, mass_matrix_interval=1)
    _, after = eagerly(control_step)(model, settings, jnp.asarray(q.T), jnp.asarray(qd.T), force)
    return (np.asarray(after).T - qd) / SHORT


def mujoco_acceleration(
    compiled: mujoco.MjModel,
    q: Floats,
    qd: Floats,
    control: Floats | None = None,
    *,
    constraints: bool = False,
) -> Floats:
    """(batch, nv), with velocities and accelerations as ours."""
    disabled = compiled.opt.disableflags
    if not constraints:
        compiled.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONSTRAINT)
    rows = []
    for k in range(len(q)):
        data = mujoco.MjData(compiled)
        data.qpos = q[k]
        mujoco.mj_kinematics(compiled, data)
        turn = np.eye(compiled.nv)  # of a free joint's angular velocity into the body's frame
        for joint in np.flatnonzero(compiled.jnt_type == mujoco.mjtJoint.mjJNT_FREE):
            part = slice(compiled.jnt_dofadr[joint] + 3, compiled.jnt_dofadr[joint] + 6)
            turn[part, part] = data.xmat[compiled.jnt_bodyid[joint]].reshape(3, 3).T
        data.qvel = turn @ qd[k]
        if control is not None:
            data.ctrl = control[k]
        mujoco.mj_forward(compiled, data)
        rows.append(turn.T @ data.qacc)
    compiled.opt.disableflags = disabled
    return np.array(rows)


def relative_error(ours: Floats, expected: Floats) -> float:
    return float(np.abs(ours - expected).max() / np.abs(expected).max())
