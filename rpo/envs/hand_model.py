"""The hand's figures, and its robot with them."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from rpo.envs.settings import TaskSettings
from rpo.physics.geoms import Geoms, Ints
from rpo.physics.mjcf import load_mjcf
from rpo.physics.model import Model

JOINTS = 16
ASSET = Path(__file__).parent / "assets" / "hand.xml"


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


def load_hand(settings: HandSettings) -> Model:
    """Hand and cube with the settings' figures; equal settings give the same object."""
    return _load_hand(tuple((name, getattr(settings, name)) for name in _MODEL_FIELDS))


_MODEL_FIELDS = (
    *("inertia", "gravity", "contact_stiffness", "contact_damping"),
    *("friction_stiffness", "friction_coefficient"),
    *("limit_stiffness", "limit_damping", "limit_damping_inside"),
    *("published_pairs", "attract_inside"),
)


@functools.lru_cache(maxsize=16)
def _load_hand(figures: tuple[tuple[str, Any], ...]) -> Model:
    settings = HandSettings(**dict(figures))
    model = load_mjcf(ASSET)
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
