"""Tendons: springs, dampers and limits that act on several joints, as static constants.

A tendon has a length and a tension that pulls it together. The length of a `Tendons` row is a
linear function of joint coordinates (MuJoCo's `fixed` tendons); a servo, whose force depends on its
joint's coordinate and velocity, is one too. A `Cords` row runs straight from site to site (MuJoCo's
`spatial` tendons without wrapping or pulleys). With l its length and v its rate, the force along it
is

    f = k (rest_lower - l) below rest_lower, k (rest_upper - l) above rest_upper, else 0
        - damping v - frictionloss tanh(v / frictionloss_speed)
        + limit_stiffness (limit - l) - limit_damping v beyond a limit,

and it acts on a coordinate q as f dl/dq.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from rpo.physics.geoms import Floats
from rpo.physics.tables import check_ranges, check_table, empty


@dataclasses.dataclass(frozen=True, eq=False)
class Strands:
    """What tendons and cords have in common, `T` of each; N and m, or N m and rad.

    Args:
        names: what to call them (T).
        stiffness: force per length beyond the rest range (T,).
        rest_lower, rest_upper: range of lengths without spring force (T,).
        damping: force per rate of the length (T,).
        frictionloss: dry friction (T,).
        frictionloss_speed: rate at which it is three quarters of that (T,).
        limit_lower, limit_upper: range of lengths, infinite where there is none (T,).
        limit_stiffness: force per length beyond that range (T,).
        limit_damping: force per rate beyond that range (T,).
    """

    names: tuple[str, ...]
    stiffness: Floats
    rest_lower: Floats
    rest_upper: Floats
    damping: Floats
    frictionloss: Floats
    frictionloss_speed: Floats
    limit_lower: Floats
    limit_upper: Floats
    limit_stiffness: Floats
    limit_damping: Floats

    def __post_init__(self) -> None:
        if self.names and (self.frictionloss * (self.frictionloss_speed <= 0)).any():
            raise ValueError("tendons: frictionloss_speed must be positive")
        check_table(
            "tendons",
            self,
            dict.fromkeys(STRAND_FIELDS, (len(self.names),)),
            not_negative=[f for f in STRAND_FIELDS if not f.endswith(("_lower", "_upper"))],
            bounds=("limit_lower", "limit_upper"),
        )
        check_ranges("tendons", self, "rest", "limit")


STRAND_FIELDS = tuple(field.name for field in dataclasses.fields(Strands) if field.name != "names")


@dataclasses.dataclass(frozen=True, eq=False)
class Tendons(Strands):
    """Tendons whose length is a linear function of the coordinates of hinges and slides.

    Args:
        coefficient: length per coordinate, in the order of the velocities (T, nv).
    """

    coefficient: Floats

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coefficient.ndim != 2 or len(self.coefficient) != len(self.names):
            raise ValueError("tendons: coefficient must have one row per name")
        if not np.isfinite(self.coefficient).all():
            raise ValueError("tendons: coefficient holds a non-finite number")


@dataclasses.dataclass(frozen=True, eq=False)
class Cords(Strands):
    """Tendons that run straight from one point to the next.

    Args:
        path: of each, the points: link (-1 for the world) and place in the link frame, m (3,).
    """

    path: tuple[tuple[tuple[int, tuple[float, float, float]], ...], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.path) != len(self.names) or any(len(points) < 2 for points in self.path):
            raise ValueError("cords: path must have two points or more per name")
        if not all(np.isfinite(place).all() for points in self.path for _, place in points):
            raise ValueError("cords: path holds a non-finite number")

    @property
    def links(self) -> list[int]:
        """Of all points."""
        return [link for points in self.path for link, _ in points]


_NONE = empty(dict.fromkeys(STRAND_FIELDS, (0,)))
NO_TENDONS = Tendons(names=(), coefficient=np.zeros((0, 0)), **_NONE)
"""Joints that know nothing of one another."""
NO_CORDS = Cords(names=(), path=(), **_NONE)
"""Links that nothing ties together."""
