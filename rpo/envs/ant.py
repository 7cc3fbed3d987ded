"""Ant: a four-legged robot that learns to run."""

from __future__ import annotations

import dataclasses

from rpo.envs.locomotion import FreeBaseEnv, FreeBaseSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class AntSettings(FreeBaseSettings):
    """Figures of the Ant task. The paper's appendix prints an action penalty of 0.01; the task its
    tables were made with has none."""

    mass_matrix_interval: int = 16
    action_penalty: float = 0.0
    contact_stiffness: float = 4e4
    contact_damping: float = 1e4
    friction_stiffness: float = 3e3
    friction_coefficient: float = 0.75
    start_height: float = 0.75
    start_joints: tuple[float, ...] = (0.0, 1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 1.0)
    termination_height: float = 0.27


class Ant(FreeBaseEnv):
    """A torso with four legs of two hinges each."""

    def __init__(self, settings: AntSettings = AntSettings()) -> None:
        super().__init__("ant", settings)
