"""What touches the ground and other planes, from a compiled description.

The solid side of every plane is below it, and planes have no edge: their `size` is only drawn. The
plane z = 0 is the ground. A sphere touches with its centre, a capsule with both ends (both with the
radius), a box with its corners, an ellipsoid with its deepest point. A cylinder touches with the
deepest point of each end, and with four fixed points of each at nine tenths of the radius, on which
it can stand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import mujoco
import numpy as np

from rpo.physics.geoms import Floats
from rpo.physics.inertia import rotation_matrix
from rpo.physics.mjcf_tree import Tree
from rpo.physics.planes import NO_PLANE_CONTACTS, PlaneContacts
from rpo.physics.touching import Reach, has_friction, may_touch
from rpo.physics.unsupported import COLLIDERS, geom_label, shape_name

_GEOM = mujoco.mjtGeom
STANDING = 0.9
"""Share of a cylinder's radius at which the fixed points of its ends lie."""


@dataclasses.dataclass(frozen=True)
class _Plane:
    geom: int
    normal: Floats
    offset: float

    @property
    def is_ground(self) -> bool:
        return bool(np.abs(self.normal - [0, 0, 1]).max() < 1e-9 and abs(self.offset) < 1e-12)


@dataclasses.dataclass(frozen=True)
class _Spot:
    """Where a shape touches, in the shape's own frame."""

    position: Floats
    radius: float
    semi_axes: Floats = dataclasses.field(default_factory=lambda: np.zeros(3))


def read_planes(tree: Tree, numbers: dict[str, float]) -> dict[str, Any]:
    """The fields of `Model` that describe contact with the ground and with other planes.

    Args:
        tree: of the compiled description.
        numbers: values of `ContactMaterial`'s fields.

    Raises:
        ValueError: in one line, if a shape is of a kind that cannot touch a plane.
    """
    ground: list[dict[str, Any]] = []
    planes: list[dict[str, Any]] = []
    model = tree.model
    for geom, plane in _meetings(tree):
        link, center, quaternion = tree.place_geom(geom)
        friction = float(model.geom_friction[geom, 0]) * has_friction(model, geom, plane.geom)
        for spot in _SPOTS[int(model.geom_type[geom])](model.geom_size[geom]):
            row = {
                "link": link,
                "position": center + rotation_matrix(quaternion) @ spot.position,
                "radius": spot.radius,
                "friction_coefficient": friction,
            }
            if plane.is_ground and not spot.semi_axes.any():
                ground.append(row)
                continue
            row |= {"quaternion": quaternion, "semi_axes": spot.semi_axes}
            planes.append(row | {"normal": plane.normal, "offset": plane.offset})
    return _ground_fields(ground, numbers) | {"planes": _plane_contacts(planes, numbers)}


def _meetings(tree: Tree) -> Iterator[tuple[int, _Plane]]:
    """Shapes of links, each with the planes that it may touch; coinciding planes count once."""
    model = tree.model
    planes, reach = list(_planes(tree)), Reach(model)
    for geom in range(model.ngeom):
        met: list[_Plane] = []
        for plane in planes:
            if tree.place_geom(geom)[0] < 0 or not may_touch(model, geom, plane.geom):
                continue
            if int(model.geom_type[geom]) not in COLLIDERS and reach.apart(geom, plane.geom):
                continue
            if int(model.geom_type[geom]) not in _SPOTS:
                kind = shape_name(model, geom)
                raise ValueError(
                    f"{geom_label(model, geom)}: {kind} cannot touch the ground (use spheres, "
                    "capsules, boxes, cylinders, ellipsoids); set contype and conaffinity to 0 if "
                    "it is only seen"
                )
            if not any(_same(plane, other) for other in met):
                met.append(plane)
                yield geom, plane


def _planes(tree: Tree) -> Iterator[_Plane]:
    for geom in np.flatnonzero(tree.model.geom_type == _GEOM.mjGEOM_PLANE):
        # the compiler wants planes on static bodies
        _, position, quaternion = tree.place_geom(int(geom))
        normal = rotation_matrix(quaternion)[:, 2]
        yield _Plane(int(geom), normal, float(normal @ position))


def _same(a: _Plane, b: _Plane) -> bool:
    return bool(np.abs(a.normal - b.normal).max() < 1e-9 and abs(a.offset - b.offset) < 1e-12)


def _sphere(size: Floats) -> list[_Spot]:
    return [_Spot(np.zeros(3), float(size[0]))]


def _capsule(size: Floats) -> list[_Spot]:
    # The first end of `fromto` is at +z of MuJoCo's geom frame.
    return [_Spot(np.array([0.0, 0.0, end * size[1]]), float(size[0])) for end in (1.0, -1.0)]


def _box(size: Floats) -> list[_Spot]:
    signs = [(x, y, z) for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)]
    return [_Spot(np.array(sign) * size, 0.0) for sign in signs]


def _ellipsoid(size: Floats) -> list[_Spot]:
    return [_Spot(np.zeros(3), 0.0, size.copy())]


def _cylinder(size: Floats) -> list[_Spot]:
    radius, half = size[:2]
    ends = [np.array([0.0, 0.0, end * half]) for end in (1.0, -1.0)]
    around = STANDING * radius * np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    fixed = [_Spot(end + point, 0.0) for end in ends for point in around]
    return [*fixed, *(_Spot(end, 0.0, np.array([radius, radius, 0.0])) for end in ends)]


_SPOTS: dict[int, Callable[[Floats], list[_Spot]]] = {
    int(_GEOM.mjGEOM_SPHERE): _sphere,
    int(_GEOM.mjGEOM_CAPSULE): _capsule,
    int(_GEOM.mjGEOM_BOX): _box,
    int(_GEOM.mjGEOM_ELLIPSOID): _ellipsoid,
    int(_GEOM.mjGEOM_CYLINDER): _cylinder,
}


def _ground_fields(rows: list[dict[str, Any]], numbers: dict[str, float]) -> dict[str, Any]:
    count = len(rows)
    return {
        "contact_link": np.array([row["link"] for row in rows], np.int64),
        "contact_position": np.array([row["position"] for row in rows]).reshape(count, 3),
        "contact_radius": np.array([row["radius"] for row in rows], np.float64),
        "contact_stiffness": np.full(count, numbers["contact_stiffness"]),
        "contact_damping": np.full(count, numbers["contact_damping"]),
        "friction_stiffness": np.full(count, numbers["friction_stiffness"]),
        "friction_coefficient": np.array([row["friction_coefficient"] for row in rows], np.float64),
    }


def _plane_contacts(rows: list[dict[str, Any]], numbers: dict[str, float]) -> PlaneContacts:
    if not rows:
        return NO_PLANE_CONTACTS
    return PlaneContacts(
        **{field: np.array([row[field] for row in rows]) for field in rows[0]},
        stiffness=np.full(len(rows), numbers["contact_stiffness"]),
        damping=np.full(len(rows), numbers["contact_damping"]),
        friction_stiffness=np.full(len(rows), numbers["friction_stiffness"]),
    )
