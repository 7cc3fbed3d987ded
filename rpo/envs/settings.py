"""What the settings of all shipped tasks have in common."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, TypeAlias, get_args

from rpo.envs.randomization import FIELDS, Randomization
from rpo.physics.substep import Kernel, StepSettings

Inertia: TypeAlias = Literal["reference", "physical"]

_POSITIVE = (
    *("episode_length", "control_frequency", "substeps", "mass_matrix_interval"),
    *("strength", "pitch_scale"),
)
LARGEST_FIGURE = 1e9
"""Of any setting; the physics runs in single precision."""
_LARGEST = {"episode_length": 10**8, "substeps": 10_000, "control_frequency": 10**6}
_SIGNED = ("start_height", "start_joints", "termination_height", "start_cube_position")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomizedSettings(Randomization):
    """Settings of a task that can be randomised: the ranges are settings like any other."""

    @property
    def randomization(self) -> Randomization:
        """The ranges alone."""
        return Randomization(**{name: getattr(self, name) for name in FIELDS})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSettings(RandomizedSettings):
    """Figures that every task has. SI units; forces are N or N m.

    Raises:
        ValueError: in one line, if a figure is out of range.
    """

    episode_length: int = 1000
    """Steps after which an episode is truncated."""
    control_frequency: float = 60.0
    """Actions per second."""
    substeps: int = 16
    """Physics steps per action."""
    mass_matrix_interval: int = 16
    """The mass matrix is refreshed every so many substeps."""
    kernel: Kernel = "xla"
    """What runs a step: `xla`, anywhere; `pallas`: one GPU kernel; `interpret`: for its tests."""
    inertia: Inertia = "reference"
    """`reference`: inertias as in the published task; `physical`: true ones."""
    gravity: float = 9.81
    """Gravitational acceleration, m/s^2."""
    strength: float = 200.0
    """Joint force at an action of one (times `gears` where a task has them)."""
    action_penalty: float = 0.0
    """Cost per squared action."""
    contact_stiffness: float = 2e4
    """Normal force of a contact per depth, N/m (ke)."""
    contact_damping: float = 2e3
    """Damping of a contact: ground's normal force per depth and speed, N s/m^2 (kd)."""
    friction_stiffness: float = 1e3
    """Friction force per tangential speed, N s/m (kf)."""
    friction_coefficient: float = 0.75
    """Coulomb's bound on friction (mu)."""
    limit_stiffness: float = 1e3
    """Spring force per displacement beyond a joint's range (limit ke)."""
    limit_damping: float = 10.0
    """Damping of every joint beside its own; acts inside the range too (limit kd)."""
    start_position_range: float = 0.1
    """Random start: root's position, +- m in each direction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in dataclasses.fields(self):
            _check_number(field.name, getattr(self, field.name), type(field.default))
        if self.substeps % self.mass_matrix_interval:
            raise ValueError(
                f"mass_matrix_interval is {self.mass_matrix_interval}, must divide "
                f"substeps = {self.substeps}"
            )
        if self.inertia not in get_args(Inertia):
            raise ValueError(f"inertia is {self.inertia!r}, must be 'reference' or 'physical'")
        if self.kernel not in (kernels := get_args(Kernel)):
            raise ValueError(f"kernel is {self.kernel!r}, must be one of {', '.join(kernels)}")

    @property
    def step_settings(self) -> StepSettings:
        """How one control step is integrated."""
        return StepSettings(
            control_dt=1 / self.control_frequency,
            substeps=self.substeps,
            mass_matrix_interval=self.mass_matrix_interval,
            kernel=self.kernel,
        )


def _check_number(name: str, value: Any, kind: type) -> None:
    """Refuses a setting of the wrong kind or out of range, in one line."""
    if kind is tuple:
        for entry in value:
            _check_number(name, entry, float)
        return
    if kind not in (int, float):
        return
    wanted = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted) or not math.isfinite(value):
        raise ValueError(
            f"{name} is {value!r}, must be a {'whole' if kind is int else 'finite'} number"
        )
    if abs(value) > _LARGEST.get(name, LARGEST_FIGURE):
        raise ValueError(
            f"{name} is {value}, must be at most {_LARGEST.get(name, LARGEST_FIGURE):,}"
        )
    if name in _POSITIVE and value <= 0:
        raise ValueError(f"{name} is {value}, must be positive")
    if name not in _SIGNED and value < 0:
        raise ValueError(f"{name} is {value}, must be at least 0")
