"""Hopper: a planar one-legged robot that learns to hop forward."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rpo.envs.locomotion import LocomotionEnv, LocomotionSettings, RobotState, steep_height_term


@dataclasses.dataclass(frozen=True, kw_only=True)
class HopperSettings(LocomotionSettings):
    """Figures of the Hopper task. `start_height` is a coordinate: zero is the model's rest."""

    mass_matrix_interval: int = 4
    action_penalty: float = 0.1
    contact_stiffness: float = 2e4
    contact_damping: float = 2e3
    friction_stiffness: float = 1e3
    friction_coefficient: float = 0.9
    start_height: float = 0.0
    start_joints: tuple[float, ...] = (0.0, 0.0, 0.0)
    start_position_range: float = 0.05
    start_pitch_range: float = 0.05
    """Random start: pitch, +- rad."""
    start_joint_range: float = 0.05
    start_velocity_range: float = 0.05
    termination_height: float = -0.45
    height_margin: float = 0.15
    """The height term turns steep below `termination_height` plus this."""
    height_bound: float = 0.3
    """The height term saturates this far above that."""
    height_weight: float = 1.0
    """Reward for the height term where it is positive."""
    pitch_scale: float = math.pi / 6
    """Pitch at which the posture term 1 - (pitch/scale)^2 is zero, rad."""
    pitch_weight: float = 1.0
    """Reward for the posture term."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.observe_last_action:
            raise ValueError(
                "hopper has no last action in its observation: unset observe_last_action"
            )


class Hopper(LocomotionEnv):
    """A torso on one leg with a foot, moving in a vertical plane."""

    _root_velocities: ClassVar[int] = 3
    settings: HopperSettings = eqx.field(static=True)

    def __init__(self, settings: HopperSettings = HopperSettings()) -> None:
        super().__init__("hopper", settings)

    def _observation_entries(self, joints: tuple[str, ...]) -> dict[str, str]:
        coordinates = {"height": "m", "pitch": "rad"} | dict.fromkeys(joints, "rad")
        velocities = {"forward_velocity": "m/s", "height_velocity": "m/s"}
        turning = {f"{name}_velocity": "rad/s" for name in ("pitch", *joints)}
        return coordinates | velocities | turning

    def initial_state(self, key: Array) -> RobotState:
        """Rest pose with random offsets."""
        settings = self.settings
        draw = jax.random.uniform(key, (12,), minval=-1.0, maxval=1.0)
        ranges = [settings.start_position_range] * 2 + [settings.start_pitch_range]
        ranges += [settings.start_joint_range] * 3
        rest = jnp.array([0, settings.start_height, 0, *settings.start_joints], draw.dtype)
        return RobotState(
            q=rest + jnp.array(ranges, draw.dtype) * draw[:6],
            qd=settings.start_velocity_range * draw[6:],
            last_action=jnp.zeros(3, draw.dtype),
        )

    def observe(self, state: RobotState) -> Float[Array, "envs observation"]:
        """Coordinates without x, velocities."""
        return jnp.concatenate([state.q[:, 1:], state.qd], axis=1)

    def reward_terms(
        self, state: RobotState, action: Float[Array, "envs action"], next_state: RobotState
    ) -> dict[str, Float[Array, " envs"]]:
        """Forward velocity, height, posture and action cost, all of `state`: r(s_t, a_t)."""
        settings = self.settings
        height, pitch, forward_velocity = state.q[:, 1], state.q[:, 2], state.qd[:, 0]
        above = height - (settings.termination_height + settings.height_margin)
        return {
            "forward velocity": forward_velocity,
            "height": steep_height_term(above, settings.height_bound, settings.height_weight),
            "posture": settings.pitch_weight * (1 - (pitch / settings.pitch_scale) ** 2),
            "action": -settings.action_penalty * (action**2).sum(axis=1),
        }

    def is_terminal(self, state: RobotState) -> Bool[Array, " envs"]:
        """The torso is too low."""
        return state.q[:, 1] < self.settings.termination_height
