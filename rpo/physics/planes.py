"""Contact of links with fixed planes: points, ellipsoids and discs, as static constants.

The ground z = 0 with spheres, capsules and boxes has fields of its own in `Model`, since most
robots need nothing else. Everything else that touches a plane is here: other planes, and shapes
whose lowest point moves over their surface. All of them are ellipsoids with some semi-axes zero: a
fixed point has none, a disc (the end of a cylinder) has two.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from rpo.physics.geoms import MATERIAL, Floats, Ints
from rpo.physics.tables import Shapes, check_table, empty


@dataclasses.dataclass(frozen=True, eq=False)
class PlaneContacts:
    """`n` places where a shape of a link may touch a plane n . x = offset, from above.

    Args:
        link: of each place (n,).
        position: centre of the ellipsoid in the link frame, m (n, 3).
        quaternion: orientation of its axes in the link frame, w x y z (n, 4).
        semi_axes: its semi-axes, m; zero in the directions in which it is flat (n, 3).
        radius: distance subtracted along the plane's normal, m (n,).
        normal: of the plane, away from the solid side, unit length, in the world (n, 3).
        offset: of the plane along its normal, m (n,).
        stiffness: normal force per depth, N/m (n,).
        damping: normal force per depth and closing speed, N s/m^2 (n,).
        friction_stiffness: friction force per sliding speed below the Coulomb bound, N s/m (n,).
        friction_coefficient: Coulomb bound over the normal force (n,).

    Raises:
        ValueError: in one line, if shapes disagree or a figure is not finite or negative.
    """

    link: Ints
    position: Floats
    quaternion: Floats
    semi_axes: Floats
    radius: Floats
    normal: Floats
    offset: Floats
    stiffness: Floats
    damping: Floats
    friction_stiffness: Floats
    friction_coefficient: Floats

    def __post_init__(self) -> None:
        not_negative = ("semi_axes", "radius", *MATERIAL)
        check_table("planes", self, _shapes(len(self.link)), not_negative=not_negative)

    @property
    def curved(self) -> np.ndarray:
        """Whether the place that touches moves over the shape's surface (n,)."""
        return np.asarray((self.semi_axes > 0).any(axis=1))


def _shapes(count: int) -> Shapes:
    shapes: Shapes = {"link": (count,), "position": (count, 3), "quaternion": (count, 4)}
    shapes |= {"semi_axes": (count, 3), "normal": (count, 3)}
    return shapes | dict.fromkeys(("radius", "offset", *MATERIAL), (count,))


NO_PLANE_CONTACTS = PlaneContacts(**empty(_shapes(0)))
"""Links touch nothing but the ground, with shapes whose lowest points are fixed."""
