"""Mass properties of rigid bodies: shifting and adding them, and the reference's own rule.

MuJoCo's compiler gives the physical inertia of every body. The published locomotion returns were
obtained with a different rule (`reference_mass_properties`), so it can be chosen per model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import mujoco
import numpy as np

from rpo.physics.geoms import Floats

REFERENCE_DENSITY = 1000.0  # kg / m^3, whatever the description says


@dataclasses.dataclass(frozen=True)
class MassProperties:
    """Mass (kg), centre of mass (3,) (m) and inertia about it (3, 3) (kg m^2), in one frame."""

    mass: float
    center_of_mass: Floats
    inertia: Floats

    def moved(self, position: Floats, rotation: Floats) -> MassProperties:
        """The same body seen from a parent frame in which it has this position and rotation."""
        center = position + rotation @ self.center_of_mass
        return MassProperties(self.mass, center, rotation @ self.inertia @ rotation.T)


NOTHING = MassProperties(0.0, np.zeros(3), np.zeros((3, 3)))


def combine(parts: Iterable[MassProperties]) -> MassProperties:
    """Rigidly join bodies given in one frame (parallel axis theorem)."""
    parts = [part for part in parts if part.mass > 0.0]
    if not parts:
        return NOTHING
    mass = sum(part.mass for part in parts)
    center = sum((part.mass * part.center_of_mass for part in parts), np.zeros(3)) / mass
    inertia = np.zeros((3, 3))
    for part in parts:
        inertia += part.inertia + steiner(part.mass, part.center_of_mass - center)
    return MassProperties(mass, center, inertia)


def steiner(mass: float, offset: Floats) -> Floats:
    """Inertia (3, 3) of a point mass at an offset (3,) from the axis point."""
    return mass * (offset @ offset * np.eye(3) - np.outer(offset, offset))


def reference_mass_properties(model: mujoco.MjModel, body: int) -> MassProperties:
    """Mass properties of one MuJoCo body by the reference's rule, in the body's frame.

    The reference rotates an inertia by multiplying R, I and R^T *element by element*, which keeps
    only the diagonal, scaled by R_ii^2; R is the smallest rotation from the x axis to the direction
    of the capsule. It adds one shape after the other in the order of the description, each time
    treating what it has so far in the same way with R = 1 (which drops the products of inertia
    collected so far) before the two parallel-axis terms. The result is symmetric,
    but not a physical inertia: a capsule along z has none about x and z. With armature the mass
    matrix is positive definite.

    Args:
        model: the compiled description.
        body: index of the body; its own shapes only, those of welded children are not included.

    Returns:
        The body's mass properties, with density 1000 kg / m^3.

    Raises:
        ValueError: if a shape is neither a sphere nor a capsule.
    """
    total = NOTHING
    for geom in map(int, np.flatnonzero(model.geom_bodyid == body)):
        mass, moments = _solid(model, geom)
        position = model.geom_pos[geom].astype(np.float64)
        sum_mass = total.mass + mass
        center = (total.mass * total.center_of_mass + mass * position) / sum_mass
        inertia = (
            np.eye(3) * total.inertia
            + steiner(total.mass, total.center_of_mass - center)
            + np.diag(_squared_rotation_diagonal(_capsule_direction(model, geom)) * moments)
            + steiner(mass, position - center)
        )
        total = MassProperties(sum_mass, center, inertia)
    return total


def _solid(model: mujoco.MjModel, geom: int) -> tuple[float, Floats]:
    """Mass and principal moments of a sphere, or of a capsule whose axis is the first."""
    radius, half_length = model.geom_size[geom, :2]
    kind = int(model.geom_type[geom])
    if kind not in (mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_CAPSULE):
        raise ValueError(
            f"geom {model.geom(geom).name!r} of body {model.body(model.geom_bodyid[geom]).name!r}: "
            "reference inertias are defined for spheres and capsules only; use inertia='physical'"
        )
    ball = REFERENCE_DENSITY * 4.0 / 3.0 * np.pi * radius**3
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return ball, np.full(3, 0.4 * ball * radius**2)
    length = 2.0 * half_length
    cylinder = REFERENCE_DENSITY * np.pi * radius**2 * length
    along = cylinder * radius**2 / 2.0 + ball * 0.4 * radius**2
    across = cylinder * (3.0 * radius**2 + length**2) / 12.0
    across += ball * (0.4 * radius**2 + 0.25 * length**2 + 0.375 * length * radius)
    return ball + cylinder, np.array([along, across, across])


def _capsule_direction(model: mujoco.MjModel, geom: int) -> Floats:
    """Unit vector (3,) from the first end of `fromto` to the second: the geom's -z axis."""
    if model.geom_type[geom] != mujoco.mjtGeom.mjGEOM_CAPSULE:
        return np.array([1.0, 0.0, 0.0])
    return -rotation_matrix(model.geom_quat[geom])[:, 2]


def _squared_rotation_diagonal(direction: Floats) -> Floats:
    """R_ii^2 (3,) of the smallest rotation R that takes the x axis to the direction (3,)."""
    x, y, z = direction
    sine_squared = y * y + z * z
    if sine_squared < 1e-20:
        return np.ones(3)
    # Rodrigues: R_ii = cos + (1 - cos) k_i^2 about the axis k = (0, -z, y) / sin.
    diagonal = np.array(
        [x, x + (1.0 - x) * z * z / sine_squared, x + (1.0 - x) * y * y / sine_squared]
    )
    return diagonal**2


def rotation_matrix(quaternion: Floats) -> Floats:
    """Rotation matrix (3, 3) of a unit quaternion w, x, y, z (4,)."""
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, np.asarray(quaternion, np.float64))
    return matrix.reshape(3, 3)
