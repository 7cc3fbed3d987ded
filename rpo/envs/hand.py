"""Hand: four fingers that turn a cube to one goal orientation after the other.

The figures are those of the task as the paper used it (Rewarped's AllegroHand). Several of them are
accidents of that code; they are settings here, with the accident as default.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from importlib import resources
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from rpo.envs.base import EnvSpec, EpisodicEnv
from rpo.envs.settings import TaskSettings
from rpo.physics.geoms import Geoms, Ints
from rpo.physics.mjcf import load_mjcf
from rpo.physics.model import Model
from rpo.physics.step import control_step

JOINTS = 16
_TINY = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class HandSettings(TaskSettings):
    """Figures of the hand task."""

    episode_length: int = 600
    control_frequency: float = 120.0
    substeps: int = 64
    mass_matrix_interval: int = 64
    strength: float = 2.0
    action_penalty: float = 2e-4
    contact_stiffness: float = 500.0
    contact_damping: float = 100.0
    """Normal force of a contact per closing speed, N s/m (kd)."""
    friction_stiffness: float = 100.0
    friction_coefficient: float = 0.5
    limit_stiffness: float = 100.0
    limit_damping: float = 10.0
    """Damping of a joint beyond its range (limit kd)."""
    limit_damping_inside: bool = False
    """Whether that damping acts inside the range too."""
    published_pairs: bool = True
    """Whether the published task's pairs may touch: the cube passes through the index finger's
    first link, and a fingertip can touch the link before its own."""
    attract_inside: bool = True
    """Whether a fingertip whose centre is inside a box is pulled in, as in the published task."""
    start_cube_position: tuple[float, ...] = (0.0, -0.1, 0.6)
    """Cube's centre at the start, m."""
    start_position_range: float = 0.01
    """Random start: cube's position, +- m in each direction."""
    start_joint_fraction: float = 0.2
    """Random start: joints lie anywhere in this share of their range's bounds."""
    goal_drop: float = 0.04
    """The goal lies this far below the cube's start, m."""
    joint_velocity_scale: float = 0.2
    """Joint and angular velocities are multiplied by this in the observation."""
    distance_weight: float = 10.0
    """Cost per distance of the cube from the goal, 1/m."""
    rotation_epsilon: float = 0.1
    """Reward for orientation: 1 / (angle + this), rad."""
    success_tolerance: float = 0.1
    """A goal is reached at less than this angle, rad."""
    goal_bonus: float = 250.0
    """Reward for a reached goal; the smooth switch grants half of it."""
    bonus_sharpness: float = 1e-3
    """Width of the two smooth switches of the bonus (rad, and without unit)."""
    fall_distance: float = 0.24
    """An episode terminates when the cube is this far from the goal, m."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rotation_epsilon", "bonus_sharpness", "fall_distance"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be positive")
        if len(self.start_cube_position) != 3:
            raise ValueError(
                f"start_cube_position has {len(self.start_cube_position)} entries, must have 3"
            )


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

    q: Float[Array, "envs 23"]
    qd: Float[Array, "envs 22"]
    last_action: Float[Array, "envs 16"]
    goal: Float[Array, "envs 4"]
    reached: Bool[Array, " envs"]
    goals_reached: Int[Array, " envs"]
    key: UInt32[Array, "envs 2"]


class Hand(EpisodicEnv):
    """A hand of four fingers, palm up, that turns a free cube to ever new goal orientations.

    | | |
    |---|---|
    | coordinates, velocities | 23, 22 |
    | actions | 16 joint torques of up to 2 N m |
    | observation | 72: joints 16 over their range, joint velocities 16 times 0.2, cube position 3, quaternion 4, linear velocity 3, angular velocity 3 times 0.2, goal position 3, quaternion 4, cube relative to goal 4, last action 16 |
    | mass matrix | every 64 of 64 substeps, 120 actions per second |
    | contact ke, kd, kf, mu | 500, 100, 100, 0.5, between links and with the cube |
    | start | cube at (0, -0.1, 0.6), goal 0.04 below |
    | random start | cube position +-0.01, cube and goal orientation, joints in a fifth of their range |
    | terminated | cube 0.24 from the goal, or state not finite |
    | reward | -10 distance + 1 / (angle + 0.1) - 0.0002 sum a^2; half of 250 at a goal, then a new goal |
    """  # noqa: E501

    report_names: ClassVar[tuple[str, ...]] = ("goals_reached",)
    spec: EnvSpec = eqx.field(static=True)
    settings: HandSettings = eqx.field(static=True)
    model: Model = eqx.field(static=True)

    def __init__(self, settings: HandSettings = HandSettings()) -> None:
        self.settings = settings
        self.model = load_hand(settings)
        self.spec = EnvSpec(
            name="hand",
            observation_size=72,
            action_size=JOINTS,
            episode_length=settings.episode_length,
            control_dt=1 / settings.control_frequency,
        )

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
        force = jnp.concatenate([self.settings.strength * action.T.astype(dtype), idle])
        q, qd = (
            x.T
            for x in control_step(
                self.model, self.settings.step_settings, state.q.T, state.qd.T, force
            )
        )
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
        """See the class; quaternions are given as x, y, z, w."""
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

    def reward(
        self, state: HandState, action: Float[Array, "envs action"], next_state: HandState
    ) -> Float[Array, " envs"]:
        """Distance and angle to the goal, action cost, goal bonus; all of `next_state`."""
        settings = self.settings
        angle = _angle(next_state.q[:, 19:], next_state.goal)
        reward = (
            -settings.distance_weight * self._distance(next_state)
            + 1 / (angle + settings.rotation_epsilon)
            - settings.action_penalty * (action**2).sum(axis=1)
        )
        width = settings.bonus_sharpness
        inside = 1 - jax.nn.sigmoid((angle - settings.success_tolerance) / width)
        share = jax.nn.sigmoid(-jnp.abs(inside - 1) / width)
        return reward + share * settings.goal_bonus

    def is_terminal(self, state: HandState) -> Bool[Array, " envs"]:
        """The cube is too far from its goal."""
        return self._distance(state) >= self.settings.fall_distance

    def report(self, state: HandState) -> dict[str, Array]:
        """Goals reached in the episode so far."""
        return {"goals_reached": state.goals_reached}

    def _distance(self, state: HandState) -> Float[Array, " envs"]:
        offset = state.q[:, 16:19] - self.goal_position.astype(state.q.dtype)
        return jnp.sqrt(jnp.maximum((offset**2).sum(axis=1), _TINY))

    def _range(self, dtype: np.dtype) -> tuple[Array, Array]:
        model = self.model
        return (
            jnp.asarray(model.limit_lower[:JOINTS], dtype),
            jnp.asarray(model.limit_upper[:JOINTS], dtype),
        )


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


def load_hand(settings: HandSettings) -> Model:
    """Hand and cube with the settings' figures; equal settings give the same object."""
    return _load_hand(dataclasses.replace(settings, **_NOT_OF_THE_MODEL))


_MODEL_FIELDS = (
    "inertia",
    "gravity",
    "contact_stiffness",
    "contact_damping",
    "friction_stiffness",
    "friction_coefficient",
    "limit_stiffness",
    "limit_damping",
    "limit_damping_inside",
    "published_pairs",
    "attract_inside",
)
_NOT_OF_THE_MODEL: dict[str, Any] = {
    field.name: field.default
    for field in dataclasses.fields(HandSettings)
    if field.name not in _MODEL_FIELDS
}


@functools.lru_cache(maxsize=16)
def _load_hand(settings: HandSettings) -> Model:
    with resources.as_file(resources.files("rpo.envs") / "assets" / "hand.xml") as path:
        model = load_mjcf(path)
    joints = np.r_[np.ones(JOINTS), np.zeros(6)]
    geoms = model.geoms
    pairs = _published_pairs(geoms) if settings.published_pairs else geoms.pairs
    count = len(geoms.names)
    geoms = dataclasses.replace(
        geoms,
        pairs=pairs,
        stiffness=np.full(count, settings.contact_stiffness),
        damping=np.full(count, settings.contact_damping),
        friction_stiffness=np.full(count, settings.friction_stiffness),
        friction_coefficient=np.full(count, settings.friction_coefficient),
        attract_inside=settings.attract_inside,
    )
    always = joints * (settings.limit_damping if settings.limit_damping_inside else 0.0)
    model = dataclasses.replace(
        model,
        gravity=np.array([0, 0, -settings.gravity]),
        limit_stiffness=joints * settings.limit_stiffness,
        limit_damping=always,
        limit_damping_beyond=joints * settings.limit_damping - always,
        geoms=geoms,
    )
    return model if settings.inertia == "physical" else _with_reference_inertia(model)


def _published_pairs(geoms: Geoms) -> Ints:
    index = {name: k for k, name in enumerate(geoms.names)}
    ignored = {index["cube"], index["index_0"]}
    kept = [(int(a), int(b)) for a, b in geoms.pairs if {int(a), int(b)} != ignored]
    fingers = ("thumb", "ring", "middle", "index")
    kept += [(index[f"{finger}_2"], index[f"{finger}_tip"]) for finger in fingers]
    return np.array(kept, np.int64)


# Mass, height of the centre of mass and inertia xx yy zz xy xz yz of each link as the published
# task counts them: the robot description's own figures, fingertips twice. Five of the eight tensors
# belong to no solid body (a principal moment exceeds the sum of the other two).
_FINGER = (
    (0.0119, 0.0, (1.0166666e-6, 6.4767733e-7, 1.0166666e-6, 0.0, 0.0, 0.0)),
    (0.065, 0.0, (7.9565417e-5, 2.4708883e-5, 7.9565417e-5, 1.7199e-5, 8.75875e-6, 2.413125e-5)),
    (0.0355, 0.0, (2.6397918e-5, 1.3494852e-5, 2.6397918e-5, 6.67968e-6, 4.783625e-6, 9.372e-6)),
    (
        *(0.0432, 0.0207667),
        (3.0590349e-5, 2.9538412e-5, 6.6372477e-6, 1.255968e-6, 1.2936e-6, 1.7622e-6),
    ),
)
_THUMB = (
    (0.0176, 0.0, (1.8927333e-5, 1.4300821e-5, 1.8927333e-5, 7.16716e-6, 5.35568e-6, 6.8068e-6)),
    (
        *(0.0119, 0.0),
        (4.2425087e-6, 4.5236263e-6, 4.2425087e-6, 1.032087e-6, 1.603525e-6, 1.44808125e-6),
    ),
    (0.038, 0.0, (4.3043993e-5, 1.4445193e-5, 4.3043993e-5, 9.57068e-6, 5.1205e-6, 1.342825e-5)),
    (
        *(0.0724, 0.0196309),
        (9.4978466e-5, 7.6805452e-5, 3.4858320e-5, 8.042076e-6, 5.2283e-6, 1.1283525e-5),
    ),
)


def _with_reference_inertia(model: Model) -> Model:
    """Inertias of the published task, and its mass matrix: there link number i of the joints' order
    (thumb, ring, middle, index) has the inertia of body number i (index, middle, ring, thumb)."""
    mass, center, inertia = model.mass.copy(), model.center_of_mass.copy(), model.inertia.copy()
    for link, (m, height, (xx, yy, zz, xy, xz, yz)) in enumerate(_THUMB + 3 * _FINGER):
        mass[link], center[link] = m, (0.0, 0.0, height)
        inertia[link] = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
    order = np.array([*range(12, 16), *range(8, 12), *range(4, 8), *range(4), 16])
    return dataclasses.replace(
        model, mass=mass, center_of_mass=center, inertia=inertia, inertia_link=order
    )
