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
    """A biped with waist, legs and arms."""

    settings: HumanoidSettings = eqx.field(static=True)

    def __init__(self, settings: HumanoidSettings = HumanoidSettings()) -> None:
        super().__init__("humanoid", settings)

    def _height_term(self, height: Float[Array, " envs"]) -> Float[Array, " envs"]:
        settings = self.settings
        above = height - (settings.termination_height + settings.height_margin)
        return steep_height_term(above, settings.height_margin, settings.height_weight)
