"""Shapes of links that touch one another, as static constants.

Every shape is a box with rounded edges: a sphere has no extent, a capsule extends along its z axis
only, a box has no radius. One code serves all of them (`rpo.physics.pairs`). A cylinder about its z
axis is the exception; spheres and capsules can touch it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from rpo.physics.tables import Shapes, check_table, empty

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Geoms:
    """`G` shapes on links or fixed to the world, and the `n` pairs of them that may touch.

    Args:
        names: what to call each shape (G).
        link: link of each shape, -1 for the world (G,).
        position: of its centre in the link frame, m (G, 3).
        quaternion: its orientation in the link frame, w x y z (G, 4).
        half_extents: of the box, m; zero where the shape is thin (G, 3).
        radius: by which the box is rounded, m (G,).
        stiffness: normal force per depth, N/m (G,). A pair has the mean of its two shapes' figures,
            here and below.
        damping: normal force per closing speed, N s/m (G,).
        friction_stiffness: friction force per sliding speed below the Coulomb bound, N s/m (G,).
        friction_coefficient: Coulomb bound over the normal force (G,).
        pairs: indices of two shapes (n, 2).
        frictionless: whether two shapes touch without friction (G, G); None if all have it.
        cylinder: whether a shape is not the box but the cylinder in it (G,); None for none of them.
        attract_inside: whether the centre of a sphere that is inside a box is pulled further in, as
            in the published hand, instead of pushed out through the nearest face.

    Raises:
        ValueError: in one line, if shapes disagree, a figure is not finite or negative, a shape has
            no size, or a pair names one shape twice, a shape that does not exist, or shapes of the
            same link.
    """

    names: tuple[str, ...]
    link: Ints
    position: Floats
    quaternion: Floats
    half_extents: Floats
    radius: Floats
    stiffness: Floats
    damping: Floats
    friction_stiffness: Floats
    friction_coefficient: Floats
    pairs: Ints
    attract_inside: bool = False
    frictionless: NDArray[np.bool_] | None = None
    cylinder: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        count = len(self.names)
        shapes = _shapes(count, len(self.pairs))
        shapes |= {"cylinder": (count,)} if self.cylinder is not None else {}
        shapes |= {"frictionless": (count, count)} if self.frictionless is not None else {}
        not_negative = ("half_extents", "radius", *MATERIAL)
        check_table("geoms", self, shapes, not_negative=not_negative)
        wide = self.half_extents[self.is_cylinder]
        if (wide[:, 0] != wide[:, 1]).any():
            raise ValueError("geoms: a cylinder needs equal half extents along x and y")
        for name, extents, radius in zip(self.names, self.half_extents, self.radius, strict=True):
            if not (extents.any() or radius):
                raise ValueError(f"geom {name!r} has no size")
        self._check_pairs()

    def _check_pairs(self) -> None:
        for a, b in self.pairs:
            if not (0 <= a < len(self.names) and 0 <= b < len(self.names)):
                raise ValueError(f"geoms: pair ({a}, {b}) names a shape that does not exist")
            if self.is_cylinder[[a, b]].any() and not self.is_thin[[a, b]].any():
                raise ValueError(
                    f"geoms {self.names[a]!r} and {self.names[b]!r}: only a sphere or a capsule "
                    "can touch a cylinder"
                )
            if self.link[a] == self.link[b]:
                raise ValueError(
                    f"geoms {self.names[a]!r} and {self.names[b]!r} belong to the same link"
                )

    @property
    def is_box(self) -> NDArray[np.bool_]:
        """Whether a shape is a box, which extends in all three directions (G,)."""
        return ~self.is_thin & ~self.is_cylinder

    @property
    def is_thin(self) -> NDArray[np.bool_]:
        """Whether a shape is a sphere or a capsule (G,)."""
        return np.asarray(~(self.half_extents > 0).all(axis=1))

    @property
    def is_cylinder(self) -> NDArray[np.bool_]:
        """Whether a shape is a cylinder (G,)."""
        return np.zeros(len(self.names), bool) if self.cylinder is None else self.cylinder


MATERIAL = ("stiffness", "damping", "friction_stiffness", "friction_coefficient")


def _shapes(count: int, pairs: int) -> Shapes:
    shapes: Shapes = {"link": (count,), "position": (count, 3), "quaternion": (count, 4)}
    shapes |= {"half_extents": (count, 3), "pairs": (pairs, 2)}
    return shapes | dict.fromkeys(("radius", *MATERIAL), (count,))


NO_GEOMS = Geoms(names=(), **empty(_shapes(0, 0)))
"""Links that do not touch one another."""
