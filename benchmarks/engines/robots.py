"""What all simulators of a comparison are given: robot, starts, actions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float

import rpo.envs

STEPS = 32
"""Control steps of a rollout."""
SUBSTEPS = {"ant": 2, "humanoid": 4}
"""Of MuJoCo's per control step of 1/60 s: 8.3 ms and 4.2 ms. The ant and the humanoid that its
packages come with have steps of 10 and 5 ms."""


@dataclasses.dataclass(frozen=True)
class Simulation:
    """A batch of robots in some simulator, ready to be timed.

    Args:
        timestep: seconds of a physics step.
        substeps: physics steps in a control step.
        bits: of the numbers it computes with.
        cores: that it can make use of.
        forward: simulates one rollout, always the same, to its end; returns the heights of the
            torsos, m (envs,), and the distances along x, m (envs,).
        gradient: the rollout and the derivative of the sum of those distances by every action
            (gradient_envs, STEPS, actions); None where there is no such thing.
        gradient_envs: environments in `gradient`.
        derivative: what kind of derivative that is.
    """

    timestep: float
    substeps: int
    bits: int
    cores: int
    forward: Callable[[], tuple[Any, Any]]
    gradient: Callable[[], Any] | None
    gradient_envs: int
    derivative: str


class Robot:
    """Our description of a robot with motors, for whoever reads MJCF.

    Masses and inertias are the description's own, which MuJoCo has too ("physical"), not those of
    the published task. Its second damper on every joint is part of the description here.

    Attributes:
        env: our task.
        spec: the description with motors, for MuJoCo.
        model: the same, compiled, with MuJoCo's time step.
        substeps: of MuJoCo per control step.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.env: Any = rpo.envs.make(name, inertia="physical")
        self.spec = mujoco.MjSpec.from_file(str(self.env.mjcf))
        joints = {joint.name: joint for joint in self.spec.joints}
        settings = self.env.settings
        for motor, strength in zip(self.env.motor_names, settings.strengths, strict=True):
            joints[motor].damping = joints[motor].damping + settings.limit_damping * np.eye(3)[0]
            kind = mujoco.mjtTrn.mjTRN_JOINT
            actuator = self.spec.add_actuator(name=motor, target=motor, trntype=kind)
            actuator.gear[0], actuator.ctrlrange[:] = strength, (-1, 1)
        self.substeps = SUBSTEPS[name]
        self.spec.option.timestep = self.control_dt / self.substeps
        self.model = self.spec.compile()

    @property
    def control_dt(self) -> float:
        """Seconds between two actions."""
        return float(self.env.spec.control_dt)

    def starts(
        self, num_envs: int
    ) -> tuple[Float[np.ndarray, "envs nq"], Float[np.ndarray, "envs nv"]]:
        """In the standing pose, the root at rest, joints and their velocities at random.

        An environment's do not depend on how many there are.
        """
        settings, joints = self.env.settings, self.env.spec.action_size
        draws = np.random.default_rng(1).uniform(-1, 1, (num_envs, 2, joints))
        q, qd = np.tile(self.model.qpos0, (num_envs, 1)), np.zeros((num_envs, self.model.nv))
        q[:, 2] = settings.start_height
        q[:, 7:] = settings.start_joints + settings.start_joint_range * draws[:, 0]
        qd[:, 6:] = settings.start_velocity_range * draws[:, 1]
        return q, qd


def random_actions(num_envs: int, size: int) -> Float[np.ndarray, "steps envs action"]:
    """Uniform in [-1, 1]; an environment's do not depend on how many there are."""
    draws = np.random.default_rng(0).uniform(-1, 1, (num_envs, STEPS, size))
    return np.ascontiguousarray(draws.transpose(1, 0, 2), np.float32)


def potential_contacts(model: mujoco.MjModel) -> int:
    """Points that can touch the ground: two per capsule, one per sphere."""
    sphere, capsule = mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_CAPSULE
    return int((model.geom_type == sphere).sum() + 2 * (model.geom_type == capsule).sum())
