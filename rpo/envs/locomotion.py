"""What the locomotion tasks share: robot, control, random start, observation and reward.

The figures are those of the tasks as the paper used them (DFlex, in the AHAC version). Observations
are given in a y-up world, as published: a vector (x, y, z) of ours becomes (x, z, -y).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from rpo.envs.base import EnvSpec
from rpo.envs.mirrored import mirrored_joints
from rpo.envs.randomization import scaled
from rpo.envs.robot_env import RobotTask
from rpo.envs.settings import Inertia, TaskSettings
from rpo.mirror import Mirror, SignedPermutation
from rpo.physics.mjcf import load_mjcf
from rpo.physics.model import JointType, Model

_ASSETS = Path(__file__).parent / "assets"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocomotionSettings(TaskSettings):
    """Figures that every locomotion task has. SI units; forces are N or N m.

    Raises:
        ValueError: in one line, if a figure is out of range.
    """

    observe_last_action: bool = False
    """Show the last clipped action in the observation (without gradient) instead of zeros."""
    start_height: float = 0.0
    """Height coordinate of the root at the start, m."""
    start_joints: tuple[float, ...] = ()
    """Joint coordinates at the start."""
    start_joint_range: float = 0.2
    """Random start: joint coordinates, +-."""
    start_velocity_range: float = 0.25
    """Random start: all velocities, +-."""
    termination_height: float = 0.0
    """An episode terminates when the root is lower than this, m."""

    @property
    def strengths(self) -> tuple[float, ...]:
        """Joint force of each motor at an action of one (actions,)."""
        return (self.strength,) * len(self.start_joints)


class RobotState(eqx.Module):
    """State of a robot: coordinates, velocities, and the last action where it is observed."""

    q: Float[Array, "*envs nq"]
    qd: Float[Array, "*envs nv"]
    last_action: Float[Array, "*envs action"]


class LocomotionEnv(RobotTask):
    """A robot on flat ground; subclasses add observation, reward and random start."""

    _root_velocities: ClassVar[int]
    """Number of degrees of freedom without a motor; they come first."""
    spec: EnvSpec = eqx.field(static=True)
    settings: LocomotionSettings = eqx.field(static=True)
    model: Model = eqx.field(static=True)

    def __init__(self, name: str, settings: LocomotionSettings) -> None:
        self.settings = settings
        self.randomization = settings.randomization
        self.model = load_robot(name, settings)
        joints = self.model.nv - self._root_velocities
        if joints != len(settings.start_joints) or joints != len(settings.strengths):
            raise ValueError(f"{name}: start_joints and strengths must have {joints} entries")
        entries = self._observation_entries(self.motor_names)
        self.spec = EnvSpec(
            name=name,
            observation_size=len(entries),
            action_size=len(settings.strengths),
            episode_length=settings.episode_length,
            control_dt=1 / settings.control_frequency,
            observation_names=tuple(entries),
            observation_units=tuple(entries.values()),
            action_names=self.motor_names,
            action_units=tuple(f"{strength:g} N m" for strength in settings.strengths),
            mirror=self._mirror(),
        )

    def _mirror(self) -> Mirror | None:
        """What exchanging left and right does, None where there is no left and right."""
        return None

    @property
    def mjcf(self) -> Path:
        """The robot's description, for drawing it."""
        return _ASSETS / f"{self.spec.name}.xml"

    @property
    def motor_names(self) -> tuple[str, ...]:
        """Of the joints that have a motor, in the order of the actions."""
        return self.model.joint_names[-(self.model.nv - self._root_velocities) :]

    def _observation_entries(self, joints: tuple[str, ...]) -> dict[str, str]:
        """Names of the observation's entries in their order, and what a value of 1 means."""
        # Every robot defines it. Not abstract: the class itself is never made, only its subclasses.
        raise NotImplementedError

    def dynamics(self, state: RobotState, action: Float[Array, "envs action"]) -> RobotState:
        """One control step under the motors' forces."""
        dtype = state.q.dtype
        strengths = jnp.asarray(self.settings.strengths, dtype)[:, None]
        idle = jnp.zeros((self._root_velocities, len(action)), dtype)
        forces = scaled(strengths * action.T.astype(dtype), self.factors.transposed().strength)
        force = jnp.concatenate([idle, forces])
        q, qd = self.advance(self.settings.step_settings, state.q, state.qd, force)
        return RobotState(q, qd, self.remember(state, action))

    def commanded(self, state: RobotState, action: Float[Array, "envs action"]) -> RobotState:
        """What is remembered is what was asked for."""
        return RobotState(state.q, state.qd, self.remember(state, action))

    def remember(
        self, state: RobotState, action: Float[Array, "envs action"]
    ) -> Float[Array, "envs action"]:
        """The last action that the next observation shows: this one if it is to be observed."""
        if not self.settings.observe_last_action:
            return state.last_action
        return lax.stop_gradient(action).astype(state.q.dtype)

    def state(self, q: Float[Array, "envs nq"], qd: Float[Array, "envs nv"]) -> RobotState:
        """A state from coordinates and velocities, as after a reset (last action zero)."""
        return RobotState(q, qd, jnp.zeros((len(q), self.spec.action_size), q.dtype))


def load_robot(name: str, settings: LocomotionSettings) -> Model:
    """The task's robot with the settings' contact, limit and gravity figures.

    Equal settings give the same object, so that compiled programs are shared.
    """
    figures = ("gravity", *_CONTACT, *_LIMIT)
    return _load_robot(name, settings.inertia, tuple(getattr(settings, f) for f in figures))


_CONTACT = ("contact_stiffness", "contact_damping", "friction_stiffness", "friction_coefficient")
_LIMIT = ("limit_stiffness", "limit_damping")


@functools.lru_cache(maxsize=64)
def _load_robot(name: str, inertia: Inertia, figures: tuple[float, ...]) -> Model:
    model = load_mjcf(_ASSETS / f"{name}.xml", inertia=inertia)
    gravity, *rest = figures
    jointed = np.concatenate(
        [np.full(kind.velocities, kind is not JointType.FREE) for kind in model.joint_type]
    )
    changes: dict[str, Any] = {"gravity": np.array([0, 0, -gravity])}
    for field, value in zip(_CONTACT + _LIMIT, rest, strict=True):
        old = getattr(model, field)
        changes[field] = np.full_like(old, value) if field in _CONTACT else jointed * value
    changes["limit_damping_beyond"] = 0.0 * jointed
    return dataclasses.replace(model, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreeBaseSettings(LocomotionSettings):
    """Figures of the tasks whose robot has a free base."""

    start_rotation_range: float = math.pi / 24
    """Random start: turn of up to +- this angle about a random axis, rad."""
    joint_velocity_scale: float = 0.1
    """Joint velocities are multiplied by this in the observation."""
    up_weight: float = 0.1
    """Reward for the vertical component of the torso's up vector."""
    heading_weight: float = 1.0
    """Reward for the torso's forward vector along the direction to the target."""
    height_weight: float = 1.0
    """Reward for the height term."""
    target_distance: float = 1e4
    """The target lies this far ahead of the origin, m."""


class FreeBaseEnv(LocomotionEnv):
    """Ant, ANYmal and Humanoid: observation, start and reward of a robot with a free base.

    The body's x axis points forward and its z axis up in the start pose (ours is z-up).
    """

    _root_velocities: ClassVar[int] = 6
    settings: FreeBaseSettings = eqx.field(static=True)

    def __init__(self, name: str, settings: FreeBaseSettings) -> None:
        super().__init__(name, settings)

    def _observation_entries(self, joints: tuple[str, ...]) -> dict[str, str]:
        ways, scale = ("forward", "up", "right"), self.settings.joint_velocity_scale
        per_second = f"{1 / scale:g} rad/s" if scale else ""
        return (
            {"height": "m"}
            | {f"quaternion_{axis}": "" for axis in "xyzw"}
            | {f"{way}_velocity": "m/s" for way in ways}
            | {f"angular_velocity_{way}": "rad/s" for way in ways}
            | dict.fromkeys(joints, "rad")
            | {f"{joint}_velocity": per_second for joint in joints}
            | {"uprightness": "", "heading": ""}
            | {f"last_action_{joint}": "" for joint in joints}
        )

    def _mirror(self) -> Mirror | None:
        """Of a robot whose halves are alike; for the quaternion's order see `observe`."""
        joints = mirrored_joints(self.model)
        if joints is None:
            return None
        index = np.array(joints.index)
        if not np.allclose(np.array(self.settings.strengths)[index], self.settings.strengths):
            return None
        height, scalar = (SignedPermutation((0,), (1,)) for _ in range(2))
        quaternion = SignedPermutation((3, 2, 1, 0), (-1, -1, -1, -1))
        velocity = SignedPermutation((0, 1, 2), (1, 1, -1))  # of a vector; of a turn, the opposite
        turning = SignedPermutation((0, 1, 2), (-1, -1, 1))
        root = height + quaternion + velocity + turning
        return Mirror(root + joints + joints + scalar + scalar + joints, joints)

    def initial_state(self, key: Array) -> RobotState:
        """Start pose with random offsets.

        The random velocities are the reference's coordinates: angular velocity, and the linear
        velocity of the point of the body at the *world's* origin.
        """
        settings, joints = self.settings, self.spec.action_size
        draw = jax.random.uniform(key, (3 + 3 + 1 + joints + 6 + joints,), minval=-1.0, maxval=1.0)
        offset, axis, angle, joint, linear, angular, joint_velocity = jnp.split(
            draw, np.cumsum([3, 3, 1, joints, 3, 3])
        )
        position = settings.start_position_range * offset + jnp.array(
            [0, 0, settings.start_height], draw.dtype
        )
        half_angle = 0.5 * settings.start_rotation_range * angle
        direction = axis / jnp.linalg.norm(axis)
        quaternion = jnp.concatenate([jnp.cos(half_angle), jnp.sin(half_angle) * direction])
        start_joints = jnp.asarray(settings.start_joints, draw.dtype)
        linear = linear + jnp.cross(angular, position)  # move the velocity to the body's origin
        return RobotState(
            q=jnp.concatenate(
                [position, quaternion, start_joints + settings.start_joint_range * joint]
            ),
            qd=settings.start_velocity_range * jnp.concatenate([linear, angular, joint_velocity]),
            last_action=jnp.zeros(joints, draw.dtype),
        )

    def observe(self, state: RobotState) -> Float[Array, "envs observation"]:
        """Height, quaternion x y z w, linear and angular velocity (y-up), joints, scaled joint
        velocities, up, heading, last action."""
        q, qd = state.q.T, state.qd.T
        w, x, y, z = q[3], q[4], q[5], q[6]
        half = math.sqrt(0.5)  # the y-up world is ours turned by -90 degrees about x
        quaternion = [half * (x - w), half * (y + z), half * (z - y), half * (w + x)]
        linear_velocity = [qd[0], qd[2], -qd[1]]
        angular_velocity = [qd[3], qd[5], -qd[4]]
        root = jnp.stack([q[2], *quaternion, *linear_velocity, *angular_velocity])
        posture = jnp.stack([self._up(q), self._heading(q)])
        joint_velocity = self.settings.joint_velocity_scale * qd[6:]
        return jnp.concatenate([root, q[7:], joint_velocity, posture, state.last_action.T]).T

    def reward_terms(
        self, state: RobotState, action: Float[Array, "envs action"], next_state: RobotState
    ) -> dict[str, Float[Array, " envs"]]:
        """Forward velocity, up, heading, height and action cost, all of `state`: r(s_t, a_t)."""
        q, qd, settings = state.q.T, state.qd.T, self.settings
        return {
            "forward velocity": qd[0],
            "up": settings.up_weight * self._up(q),
            "heading": settings.heading_weight * self._heading(q),
            "height": self._height_term(q[2]),
            "action": -settings.action_penalty * (action**2).sum(axis=1),
        }

    def is_terminal(self, state: RobotState) -> Bool[Array, " envs"]:
        """The torso is too low."""
        return state.q[:, 2] < self.settings.termination_height

    def _height_term(self, height: Float[Array, " envs"]) -> Float[Array, " envs"]:
        return self.settings.height_weight * (height - self.settings.termination_height)

    def _up(self, q: Float[Array, "nq envs"]) -> Float[Array, " envs"]:
        """Vertical component of the torso's up vector."""
        return 1 - 2 * (q[4] ** 2 + q[5] ** 2)

    def _heading(self, q: Float[Array, "nq envs"]) -> Float[Array, " envs"]:
        """Torso's forward vector along the horizontal unit vector to the target."""
        w, x, y, z = q[3], q[4], q[5], q[6]
        forward_x, forward_y = 1 - 2 * (y**2 + z**2), 2 * (x * y + w * z)
        target_x, target_y = self.settings.target_distance - q[0], -q[1]
        distance = jnp.sqrt(target_x**2 + target_y**2)
        return (forward_x * target_x + forward_y * target_y) / distance


def steep_height_term(height: Array, upper: float, weight: float) -> Array:
    """`weight` times the height above a threshold, at most `upper`; below, -200 times its square.

    Deeper than 1 m below the threshold the term stays at -200.
    """
    clipped = jnp.clip(height, -1.0, upper)
    return jnp.where(clipped < 0, -200 * clipped**2, weight * clipped)
