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
    """A base with four legs of three hinges each.

    | | |
    |---|---|
    | coordinates, velocities | 19, 18 |
    | actions | 12 joint torques of up to 200 N m |
    | observation | 49: height, quaternion 4, linear velocity 3, angular velocity 3, joints 12, joint velocities 12 times 0.1, up, heading, last action 12 |
    | mass matrix | every 16 of 16 substeps |
    | contact ke, kd, kf, mu | 2e3, 5e2, 1e2, 0.75 |
    | start | height 0.55, joints .03 .4 -.8, -.03 .4 -.8, .03 -.4 .8, -.03 -.4 .8 |
    | random start | position +-0.1, rotation +-pi/24, joints +-0.2, velocities +-0.25 |
    | terminated | height < 0.25, or state not finite |
    | reward | forward velocity + 0.1 up + heading + (height - 0.25) - 0.005 sum a^2 |
    """  # noqa: E501

    def __init__(self, settings: AnymalSettings = AnymalSettings()) -> None:
        super().__init__("anymal", settings)
