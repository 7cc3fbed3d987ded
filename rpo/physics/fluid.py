"""Drag of a medium on bodies: MuJoCo's model of an inertia box.

A body of mass m and principal moments I is taken for the box of the same moments, of edges
b_i = sqrt(6 (I_j + I_k - I_i) / m). With v and w the velocity of its centre relative to the medium
and its angular velocity, both along the principal axes, and d the mean edge,

    force_i  = -3 pi d viscosity v_i - density / 2 b_j b_k |v_i| v_i,
    torque_i = -pi d^3 viscosity w_i - density / 64 b_i (b_j^4 + b_k^4) |w_i| w_i.

A link that several bodies were merged into has a box for each of them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from rpo.physics.geoms import Floats, Ints
from rpo.physics.tables import Shapes, check_table, empty


@dataclasses.dataclass(frozen=True, eq=False)
class Fluid:
    """A medium, and `n` boxes that it drags.

    Args:
        link: of each box (n,).
        position: its centre in the link frame, m (n, 3).
        quaternion: its axes in the link frame, w x y z (n, 4).
        size: its edges, m (n, 3).
        density: of the medium, kg/m^3.
        viscosity: of the medium, Pa s.
        wind: velocity of the medium in the world, m/s (3,).

    Raises:
        ValueError: in one line, if shapes disagree or a figure is not finite or negative.
    """

    link: Ints
    position: Floats
    quaternion: Floats
    size: Floats
    density: float
    viscosity: float
    wind: Floats

    def __post_init__(self) -> None:
        check_table("fluid", self, _shapes(len(self.link)))
        if not (np.isfinite(self.density) and np.isfinite(self.viscosity)):
            raise ValueError("fluid: density and viscosity must be finite")
        if self.density < 0 or self.viscosity < 0 or (self.size < 0).any():
            raise ValueError("fluid: density, viscosity and size must not be negative")


def _shapes(count: int) -> Shapes:
    shapes: Shapes = {"link": (count,), "position": (count, 3), "quaternion": (count, 4)}
    return shapes | {"size": (count, 3), "wind": (3,)}


NO_FLUID = Fluid(density=0.0, viscosity=0.0, **empty(_shapes(0)))
"""Empty space."""
