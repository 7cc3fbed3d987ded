"""Any robot that can walk, from its description: `rpo train robot.xml`.

The robot must have a free root, or a planar one (slides, then hinges, of the first body).
Everything else follows from the description: the start is its first keyframe, or its rest pose put
on the ground; actions are the controls of its actuators, scaled to their ranges, or the targets of
servos that are put in their place (`rpo.envs.servos`); how often it acts and how finely a step is
cut follow from its size and from its stiffest spring, and so does contact if the description says
nothing about it.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rpo.envs.base import EnvSpec
from rpo.envs.randomization import FIELDS
from rpo.envs.robot_description import Description, Reading, read_description
from rpo.envs.robot_env import RobotTask
from rpo.envs.settings import RandomizedSettings
from rpo.mirror import Mirror, SignedPermutation
from rpo.physics.diagnostics import link_poses
from rpo.physics.model import JointType, Model
from rpo.physics.step import StepSettings

SUFFIXES = (".xml", ".mjcf", ".urdf")
MAX_SUBSTEPS = 1000


def is_description(task: str) -> bool:
    """Whether a task's name means a robot's description."""
    return task.lower().endswith(SUFFIXES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobotSettings(RandomizedSettings):
    """Figures of a task that is made from a robot's description. SI units.

    Raises:
        ValueError: in one line, if a figure is out of range.
    """

    episode_length: int = 1000
    """Steps after which an episode is truncated."""
    control_frequency: float = 0.0
    """Actions per second; 0 chooses them from the robot's height."""
    substeps: int = 0
    """Physics steps per action; 0 chooses them from the stiffest spring."""
    strength: float = 0.0
    """Largest joint force, for a description without actuators or effort limits."""
    joint_stiffness: float = 1.0
    """Without actuators: stiffness of the servos whose targets actions are, over the largest force,
    per radian; 0: actions are joint forces."""
    link_contact: bool = True
    """Of a URDF: whether links may touch one another, or the ground only."""
    target_speed: float = 1.0
    """Speed along the world's x axis that is asked for, m/s."""
    speed_weight: float = 2.0
    """Reward for that speed: weight (|target| - |speed - target|)."""
    height_weight: float = 0.5
    """Reward for the root's height over that at the start, at most 1."""
    upright_weight: float = 0.5
    """Reward for the vertical component of what pointed up at the start."""
    effort_weight: float = 0.05
    """Cost of the mean squared action."""
    termination_height: float = 0.5
    """An episode terminates when the root is lower than this share of its height at the start."""
    termination_upright: float = 0.5
    """Or when the vertical component of what pointed up at the start is less; -1 for never."""
    start_joint_range: float = 0.05
    """Random start: joint coordinates, +-."""
    start_velocity_range: float = 0.05
    """Random start: all velocities, +-."""

    def __post_init__(self) -> None:
        super().__post_init__()
        largest = {"episode_length": 1e8, "substeps": MAX_SUBSTEPS, "control_frequency": 1e6}
        for name in (field.name for field in dataclasses.fields(self) if field.name not in FIELDS):
            value, bound = getattr(self, name), largest.get(name, 1e9)
            if not (math.isfinite(value) and abs(value) <= bound):
                raise ValueError(f"{name} is {value}, must be at most {bound:g}")
            if value < 0 and name not in ("target_speed", "termination_upright"):
                raise ValueError(f"{name} is {value}, must be at least 0")
        if self.episode_length < 1:
            raise ValueError("episode_length is 0, must be positive")


class RobotState(eqx.Module):
    """Coordinates and velocities of the robot."""

    q: Float[Array, "*envs nq"]
    qd: Float[Array, "*envs nv"]


class RobotFile(RobotTask):
    """A robot of a description that is to move along x.

    An observation has the root's height, what points up and forward in its own axes, its velocity
    and angular velocity in them (the axes of the root as it stood at the start), and the joints'
    coordinates and velocities.
    """

    spec: EnvSpec = eqx.field(static=True)
    settings: RobotSettings = eqx.field(static=True)
    model: Model = eqx.field(static=True)
    description: Description = eqx.field(static=True)
    step_settings: StepSettings = eqx.field(static=True)

    def __init__(self, path: str | os.PathLike[str], settings: RobotSettings | None = None) -> None:
        """Reads the description.

        Raises:
            ValueError: in one line, if there is no such file, or the robot cannot be simulated or
                cannot walk.
        """
        self.settings = settings or RobotSettings()
        self.randomization = self.settings.randomization
        fields = (field.name for field in dataclasses.fields(Reading))
        reading = Reading(**{name: getattr(self.settings, name) for name in fields})
        self.description = read_description(os.fspath(path), reading)
        self.model = self.description.model
        self.step_settings = _step_settings(self.description, self.settings)
        entries = self._observation_entries()
        self.spec = EnvSpec(
            name=Path(path).stem,
            observation_size=len(entries),
            action_size=len(self.description.action_names),
            episode_length=self.settings.episode_length,
            control_dt=self.step_settings.control_dt,
            observation_names=tuple(entries),
            observation_units=tuple(entries.values()),
            action_names=self.description.action_names,
            mirror=self._mirror(),
        )

    def _mirror(self) -> Mirror | None:
        """Of a robot whose halves are alike."""
        found = self.description.mirror
        if found is None:
            return None
        height = SignedPermutation((0,), (1,))
        vector = SignedPermutation((0, 1, 2), (1, -1, 1))  # of a turn, the opposite
        turning = SignedPermutation((0, 1, 2), (-1, 1, -1))
        root = height + vector + vector + vector + turning
        return Mirror(root + found.observation + found.observation, found.action)

    @property
    def mjcf(self) -> str:
        """The robot's description, for drawing it."""
        return self.description.mjcf

    def summary(self) -> str:
        """What was chosen, in one line."""
        step, robot = self.step_settings, self.description
        several = "s" * (self.spec.action_size != 1)
        what = f"servo target{several}"
        return (
            f"{self.spec.name}: {self.model.nv} degrees of freedom, {self.spec.action_size} "
            f"action{several}{f' ({what})' * robot.has_servos}, {1 / step.control_dt:.0f} "
            f"actions/s, {step.substeps} substeps of "
            f"{1e3 * step.control_dt / step.substeps:.2g} ms (fastest spring "
            f"{robot.rates.spring:.3g} rad/s, damper {robot.rates.damper:.3g} 1/s), root starts at "
            f"{robot.height:.2f} m"
        )

    def initial_state(self, key: Array) -> RobotState:
        """The start pose with random offsets of joints and velocities."""
        joints, count = self.description.joint_coordinates, self.model.nv
        draw = jax.random.uniform(key, (len(joints) + count,), minval=-1.0, maxval=1.0)
        q = jnp.asarray(self.description.start, draw.dtype)
        offset = self.settings.start_joint_range * draw[: len(joints)]
        q = q.at[np.array(joints, int)].add(offset) if joints else q
        return RobotState(q, self.settings.start_velocity_range * draw[len(joints) :])

    def dynamics(self, state: RobotState, action: Float[Array, "envs action"]) -> RobotState:
        """One control step under the description's actuators."""
        strength = self.factors.transposed().strength
        force = self.description.forces(action.T.astype(state.q.dtype), strength)
        return RobotState(*self.advance(self.step_settings, state.q, state.qd, force))

    def observe(self, state: RobotState) -> Float[Array, "envs observation"]:
        """Height, up, forward, velocity, angular velocity, joints, a tenth of their velocities."""
        height, turn, velocity, turning = self._root(state)
        joints = np.array(self.description.joint_coordinates, int)
        rates = np.array(self.description.joint_velocities, int)
        own = [jnp.einsum("ijb,ib->jb", turn, x) for x in (velocity, turning)]
        rows = [height[None], turn[2], turn[0], *own, state.q.T[joints], 0.1 * state.qd.T[rates]]
        return jnp.concatenate(rows).T

    def reward_terms(
        self, state: RobotState, action: Float[Array, "envs action"], next_state: RobotState
    ) -> dict[str, Float[Array, " envs"]]:
        """Speed, height, uprightness and effort, of `next_state`."""
        settings, (height, turn, velocity, _) = self.settings, self._root(next_state)
        target = settings.target_speed
        terms = {
            "speed": settings.speed_weight * (abs(target) - jnp.abs(velocity[0] - target)),
            "effort": -settings.effort_weight * (action**2).mean(axis=1),
        }
        if self.description.stands:
            share = jnp.minimum(height / self.description.height, 1.0)
            terms["height"] = settings.height_weight * share
            terms["upright"] = settings.upright_weight * turn[2, 2]
        return terms

    def is_terminal(self, state: RobotState) -> Bool[Array, " envs"]:
        """The root is too low or tilted too far; never for a robot that does not stand."""
        if not self.description.stands:
            return jnp.zeros(len(state.q), bool)
        lowest = self.settings.termination_height * self.description.height
        height, turn, _, _ = self._root(state)
        return (height < lowest) | (turn[2, 2] < self.settings.termination_upright)

    def _root(self, state: RobotState) -> tuple[Array, Array, Array, Array]:
        """Height (envs,), turn since the start (3, 3, envs), velocity and angular velocity (3,
        envs) of the root in the world."""
        base, q, qd = self.description.base, state.q.T, state.qd.T
        position, rotation = link_poses(self.model, q)
        start = jnp.asarray(self.description.start_rotation, q.dtype)
        turn = jnp.einsum("ijb,kj->ikb", rotation[base], start)
        if self.model.joint_type[0] is JointType.FREE:
            return position[base, 2], turn, qd[:3], qd[3:6]
        velocity, turning = (jnp.zeros((3, q.shape[1]), q.dtype) for _ in range(2))
        for link in range(base + 1):
            axis = jnp.asarray(self.model.joint_axis[link], q.dtype)
            moved = jnp.einsum("ijb,j->ib", rotation[link], axis) * qd[link]
            if self.model.joint_type[link] is JointType.SLIDE:
                velocity = velocity + moved
            else:
                turning = turning + moved
        return position[base, 2], turn, velocity, turning

    def _observation_entries(self) -> dict[str, str]:
        ways, names = "xyz", self.description.joint_names
        return (
            {"height": "m"}
            | {f"up_{way}": "" for way in ways}
            | {f"forward_{way}": "" for way in ways}
            | {f"velocity_{way}": "m/s" for way in ways}
            | {f"angular_velocity_{way}": "rad/s" for way in ways}
            | dict.fromkeys(names, "rad")
            | {f"{name}_velocity": "10 rad/s" for name in names}
        )


def _step_settings(description: Description, settings: RobotSettings) -> StepSettings:
    """The user's figures, or those that suit the robot: a substep is as long as its stiffest spring
    allows."""
    frequency = description.control_frequency
    substeps = settings.substeps or math.ceil(1 / frequency / description.rates.longest_step)
    if substeps > MAX_SUBSTEPS:
        raise ValueError(
            f"{description.path}: its stiffest spring or damper wants {substeps} substeps of "
            "an action; lower a joint's damping, or contact_stiffness, friction_stiffness or "
            "limit_stiffness (custom numbers of the description), or say how many (substeps)"
        )
    substeps = max(substeps, 2)
    return StepSettings(control_dt=1 / frequency, substeps=substeps, mass_matrix_interval=substeps)
