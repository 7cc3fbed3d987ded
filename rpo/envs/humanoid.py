"""Humanoid: a biped with 21 motors that learns to run upright."""

from __future__ import annotations

import dataclasses

import equinox as eqx
from jaxtyping import Array, Float

from rpo.envs.locomotion import FreeBaseEnv, FreeBaseSettings, steep_height_term


@dataclasses.dataclass(frozen=True, kw_only=True)
class HumanoidSettings(FreeBaseSettings):
    """Figures of the Humanoid task."""

    substeps: int = 48
    mass_matrix_interval: int = 48
    strength: float = 0.35
    gears: tuple[float, ...] = (
        *(200.0, 200.0, 200.0),
        *(200.0, 200.0, 600.0, 400.0, 100.0, 100.0),
        *(200.0, 200.0, 600.0, 400.0, 100.0, 100.0),
        *(100.0, 100.0, 200.0),
        *(100.0, 100.0, 200.0),
    )
    """Torque of each motor per `strength` and action: waist, legs, arms."""
    action_penalty: float = 0.002
    contact_stiffness: float = 2e4
    contact_damping: float = 2e3
    friction_stiffness: float = 1e3
    friction_coefficient: float = 0.75
    start_height: float = 1.35
    start_joints: tuple[float, ...] = (0.0,) * 21
    termination_height: float = 0.74
    height_margin: float = 0.1
    """The height term turns steep below `termination_height` + this, and saturates as far above."""
    height_weight: float = 10.0
    target_distance: float = 200.0

    @property
    def strengths(self) -> tuple[float, ...]:
        """Joint torque of each motor at an action of one (actions,)."""
        return tuple(self.strength * gear for gear in self.gears)


class Humanoid(FreeBaseEnv):
    """A biped with waist, legs and arms.

    | | |
    |---|---|
    | coordinates, velocities | 28, 27 |
    | actions | 21 joint torques of up to 0.35 times 200 200 200, 200 200 600 400 100 100 (both legs), 100 100 200 (both arms) |
    | observation | 76: height, quaternion 4, linear velocity 3, angular velocity 3, joints 21, joint velocities 21 times 0.1, up, heading, last action 21 |
    | mass matrix | every 48 of 48 substeps |
    | contact ke, kd, kf, mu | 2e4, 2e3, 1e3, 0.75 |
    | start | height 1.35, joints 0 |
    | random start | position +-0.1, rotation +-pi/24, joints +-0.2, velocities +-0.25 |
    | terminated | height < 0.74, or state not finite |
    | reward | forward velocity + 0.1 up + heading + height term - 0.002 sum a^2; d = clip(height - 0.84, -1, 0.1), height term -200 d^2 below 0, else 10 d |
    """  # noqa: E501

    settings: HumanoidSettings = eqx.field(static=True)

    def __init__(self, settings: HumanoidSettings = HumanoidSettings()) -> None:
        super().__init__("humanoid", settings)

    def _height_term(self, height: Float[Array, " envs"]) -> Float[Array, " envs"]:
        settings = self.settings
        above = height - (settings.termination_height + settings.height_margin)
        return steep_height_term(above, settings.height_margin, settings.height_weight)
