"""ANYmal: a quadruped of 37 kg that learns to trot."""

from __future__ import annotations

import dataclasses

from rpo.envs.locomotion import FreeBaseEnv, FreeBaseSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnymalSettings(FreeBaseSettings):
    """Figures of the ANYmal task."""

    mass_matrix_interval: int = 16
    action_penalty: float = 0.005
    contact_stiffness: float = 2e3
    contact_damping: float = 5e2
    friction_stiffness: float = 1e2
    friction_coefficient: float = 0.75
    start_height: float = 0.55
    start_joints: tuple[float, ...] = (
        *(0.03, 0.4, -0.8),
        *(-0.03, 0.4, -0.8),
        *(0.03, -0.4, 0.8),
        *(-0.03, -0.4, 0.8),
    )
    termination_height: float = 0.25


class Anymal(FreeBaseEnv):
    """A base with four legs of three hinges each."""

    def __init__(self, settings: AnymalSettings = AnymalSettings()) -> None:
        super().__init__("anymal", settings)
