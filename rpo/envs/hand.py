"""Hand: four fingers that turn a cube to one goal orientation after the other.

The figures are those of the task as the paper used it (Rewarped's AllegroHand). Several of them are
accidents of that code; they are settings here, with the accident as default.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from rpo.envs.base import EnvSpec
from rpo.envs.hand_model import ASSET, JOINTS, HandSettings, load_hand
from rpo.envs.markers import Marker
from rpo.envs.randomization import scaled
from rpo.envs.robot_env import RobotTask
from rpo.physics.model import Model

GOAL_OFFSET = (0.0, 0.2, 0.04)
"""Where pictures show the goal's orientation, from where the cube is to be held, m: not there, for
two cubes in one another cannot be told apart."""
GOAL_COLOR = (0.9, 0.9, 0.88, 0.45)
_TINY = 1e-12


class HandState(eqx.Module):
    """State of hand, cube and goal. Every leaf leads with the environments.

    Args:
        q: 16 joints, cube's position (3), its quaternion w x y z (4).
        qd: 16 joint velocities, cube's linear (3) and angular velocity (3).
        last_action: clipped.
        goal: goal's quaternion w x y z.
        reached: whether this state is within the tolerance of its goal; the next step gets another.
        goals_reached: in the episode so far.
        key: raw random key of the goals to come.
    """

    q: Float[Array, "*envs 23"]
    qd: Float[Array, "*envs 22"]
    last_action: Float[Array, "*envs 16"]
    goal: Float[Array, "*envs 4"]
    reached: Bool[Array, "*envs"]
    goals_reached: Int[Array, "*envs"]
    key: UInt32[Array, "*envs 2"]


class Hand(RobotTask):
    """A hand of four fingers, palm up, that turns a free cube to ever new goal orientations."""

    report_names: ClassVar[tuple[str, ...]] = ("goals_reached",)
    spec: EnvSpec = eqx.field(static=True)
    settings: HandSettings = eqx.field(static=True)
    model: Model = eqx.field(static=True)

    def __init__(self, settings: HandSettings | None = None) -> None:
        settings = settings or HandSettings()
        self.settings = settings
        self.randomization = settings.randomization
        self.model = load_hand(settings)
        joints = self.model.joint_names[:JOINTS]
        entries = _observation_entries(joints, settings.joint_velocity_scale)
        self.spec = EnvSpec(
            name="hand",
            observation_size=len(entries),
            action_size=JOINTS,
            episode_length=settings.episode_length,
            control_dt=1 / settings.control_frequency,
            observation_names=tuple(entries),
            observation_units=tuple(entries.values()),
            action_names=joints,
            action_units=(f"{settings.strength:g} N m",) * JOINTS,
        )

    @property
    def mjcf(self) -> Path:
        """The robot's description; MuJoCo's coordinates are `HandState.q`."""
        return ASSET

    @property
    def goal_position(self) -> Float[Array, "3"]:
        """Where the cube is to be held, m."""
        x, y, z = self.settings.start_cube_position
        return jnp.array([x, y, z - self.settings.goal_drop])

    def state(self, q: Float[Array, "envs nq"], qd: Float[Array, "envs nv"]) -> HandState:
        """A state from coordinates and velocities, with the goal in the cube's own orientation."""
        envs = len(q)
        return HandState(
            q=q,
            qd=qd,
            last_action=jnp.zeros((envs, JOINTS), q.dtype),
            goal=q[:, 19:],
            reached=jnp.zeros(envs, bool),
            goals_reached=jnp.zeros(envs, jnp.int32),
            key=jnp.zeros((envs, 2), jnp.uint32),
        )

    def initial_state(self, key: Array) -> HandState:
        """Cube above the palm, random orientations of cube and goal, open fingers."""
        settings = self.settings
        pose_key, goal_key = jax.random.split(key)
        draw = jax.random.uniform(pose_key, (3 + 2 + JOINTS,), minval=-1.0, maxval=1.0)
        start = jnp.array(settings.start_cube_position, draw.dtype)
        lower, upper = self._range(draw.dtype)
        joints = settings.start_joint_fraction * (lower + (upper - lower) * (draw[5:] + 1) / 2)
        position = start + settings.start_position_range * draw[:3]
        quaternion = _random_turn(draw[3:5])
        now_key, later_key = jax.random.split(goal_key)
        return HandState(
            q=jnp.concatenate([joints, position, quaternion]),
            qd=jnp.zeros(self.model.nv, draw.dtype),
            last_action=jnp.zeros(JOINTS, draw.dtype),
            goal=_random_goal(now_key, draw.dtype),
            reached=jnp.zeros((), bool),
            goals_reached=jnp.zeros((), jnp.int32),
            key=jax.random.key_data(later_key),
        )

    def dynamics(self, state: HandState, action: Float[Array, "envs action"]) -> HandState:
        """One control step; a goal that was reached in `state` is replaced first."""
        goal, key = self._next_goal(state)
        dtype = state.q.dtype
        idle = jnp.zeros((6, len(action)), dtype)
        torque = self.settings.strength * action.T.astype(dtype)
        force = jnp.concatenate([scaled(torque, self.factors.transposed().strength), idle])
        q, qd = self.advance(self.settings.step_settings, state.q, state.qd, force)
        reached = _angle(q[:, 19:], goal) <= self.settings.success_tolerance
        return HandState(
            q=q,
            qd=qd,
            last_action=lax.stop_gradient(action).astype(dtype),
            goal=goal,
            reached=reached,
            goals_reached=state.goals_reached + reached.astype(jnp.int32),
            key=key,
        )

    def commanded(self, state: HandState, action: Float[Array, "envs action"]) -> HandState:
        """The last action is the one that was asked for."""
        last = lax.stop_gradient(action).astype(state.q.dtype)
        return dataclasses.replace(state, last_action=last)

    def _next_goal(
        self, state: HandState
    ) -> tuple[Float[Array, "envs 4"], UInt32[Array, "envs 2"]]:
        keys = jax.random.wrap_key_data(state.key, impl="threefry2x32")
        both = jax.vmap(jax.random.split)(keys)
        fresh = jax.vmap(functools.partial(_random_goal, dtype=state.q.dtype))(both[:, 0])
        goal = jnp.where(state.reached[:, None], fresh, state.goal)
        key = jnp.where(state.reached[:, None], jax.random.key_data(both[:, 1]), state.key)
        return lax.stop_gradient(goal), key

    def observe(self, state: HandState) -> Float[Array, "envs observation"]:
        """In the order of `spec.observation_names`; quaternions are given as x, y, z, w."""
        q, qd, scale = state.q, state.qd, self.settings.joint_velocity_scale
        lower, upper = self._range(q.dtype)
        goal_position = jnp.broadcast_to(self.goal_position.astype(q.dtype), (len(q), 3))
        return jnp.concatenate(
            [
                (2 * q[:, :JOINTS] - upper - lower) / (upper - lower),
                scale * qd[:, :JOINTS],
                q[:, 16:19],
                _scalar_last(q[:, 19:]),
                qd[:, 16:19],
                scale * qd[:, 19:],
                goal_position,
                _scalar_last(state.goal),
                _scalar_last(_relative(q[:, 19:], state.goal)),
                state.last_action,
            ],
            axis=1,
        )

    def reward_terms(
        self, state: HandState, action: Float[Array, "envs action"], next_state: HandState
    ) -> dict[str, Float[Array, " envs"]]:
        """Distance and angle to the goal, action cost, goal bonus; all of `next_state`."""
        settings = self.settings
        angle = _angle(next_state.q[:, 19:], next_state.goal)
        width = settings.bonus_sharpness
        inside = 1 - jax.nn.sigmoid((angle - settings.success_tolerance) / width)
        return {
            "distance": -settings.distance_weight * self._distance(next_state),
            "orientation": 1 / (angle + settings.rotation_epsilon),
            "action": -settings.action_penalty * (action**2).sum(axis=1),
            "goal": jax.nn.sigmoid(-jnp.abs(inside - 1) / width) * settings.goal_bonus,
        }

    def is_terminal(self, state: HandState) -> Bool[Array, " envs"]:
        """The cube is too far from its goal."""
        return self._distance(state) >= self.settings.fall_distance

    def report(self, state: HandState) -> dict[str, Array]:
        """Goals reached in the episode so far."""
        return {"goals_reached": state.goals_reached}

    def markers(self, state: HandState) -> dict[str, Marker]:
        """The orientation that the cube is to have: a translucent cube beside the hand."""
        geoms = self.model.geoms
        size = geoms.half_extents[geoms.names.index("cube")]
        return {
            "goal": Marker(
                self.goal_position + jnp.array(GOAL_OFFSET),
                size=tuple(map(float, size)),
                quaternion=state.goal,
                color=GOAL_COLOR,
                faces=True,
            )
        }

    def _distance(self, state: HandState) -> Float[Array, " envs"]:
        offset = state.q[:, 16:19] - self.goal_position.astype(state.q.dtype)
        return jnp.sqrt(jnp.maximum((offset**2).sum(axis=1), _TINY))

    def _range(self, dtype: np.dtype) -> tuple[Array, Array]:
        model = self.model
        return (
            jnp.asarray(model.limit_lower[:JOINTS], dtype),
            jnp.asarray(model.limit_upper[:JOINTS], dtype),
        )


def _observation_entries(joints: tuple[str, ...], velocity_scale: float) -> dict[str, str]:
    """Names of the observation's entries, and what a value of 1 means."""
    per_second = f"{1 / velocity_scale:g} rad/s" if velocity_scale else "nothing: scaled by zero"
    entries = dict.fromkeys(joints, "half its range, from the middle")
    entries |= {f"{joint}_velocity": per_second for joint in joints}
    for thing, axes, unit in (
        ("cube", "xyz", "m"),
        ("cube_quaternion", "xyzw", ""),
        ("cube_velocity", "xyz", "m/s"),
        ("cube_angular_velocity", "xyz", per_second),
        ("goal", "xyz", "m"),
        ("goal_quaternion", "xyzw", ""),
        ("cube_from_goal_quaternion", "xyzw", ""),
    ):
        entries |= {f"{thing}_{axis}": unit for axis in axes}
    return entries | {f"last_action_{joint}": "" for joint in joints}


def _random_goal(key: Array, dtype: np.dtype) -> Float[Array, "4"]:
    return _random_turn(jax.random.uniform(key, (2,), dtype, minval=-1.0, maxval=1.0))


def _random_turn(draw: Float[Array, "2"]) -> Float[Array, "4"]:
    """Quaternion w x y z of a turn about x, then one about the new y, each of up to +-pi."""
    (ca, cb), (sa, sb) = (jnp.cos(0.5 * math.pi * draw), jnp.sin(0.5 * math.pi * draw))
    return jnp.stack([ca * cb, sa * cb, ca * sb, sa * sb])


def _relative(a: Float[Array, "envs 4"], b: Float[Array, "envs 4"]) -> Float[Array, "envs 4"]:
    """a conj(b), quaternions w x y z."""
    (w1, x1, y1, z1), (w2, x2, y2, z2) = a.T, b.T
    return jnp.stack(
        [
            w1 * w2 + x1 * x2 + y1 * y2 + z1 * z2,
            x1 * w2 - w1 * x2 - y1 * z2 + z1 * y2,
            y1 * w2 - w1 * y2 - z1 * x2 + x1 * z2,
            z1 * w2 - w1 * z2 - x1 * y2 + y1 * x2,
        ],
        axis=1,
    )


def _angle(a: Float[Array, "envs 4"], b: Float[Array, "envs 4"]) -> Float[Array, " envs"]:
    """Angle between two orientations, rad; without slope close to half a turn, as published."""
    vector = _relative(a, b)[:, 1:]
    sine = jnp.sqrt(jnp.maximum((vector**2).sum(axis=1), _TINY))
    return 2 * jnp.arcsin(jnp.minimum(sine, 1 - 1e-3))


def _scalar_last(quaternion: Float[Array, "envs 4"]) -> Float[Array, "envs 4"]:
    return jnp.roll(quaternion, -1, axis=1)
