"""Shapes to be drawn: what markers and the faces of boxes are made of, and triangles for pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np
from jaxtyping import Float

from rpo.envs.markers import Marker

FACES = (
    (0.80, 0.25, 0.24, 1.0),
    (0.13, 0.47, 0.66, 1.0),
    (0.30, 0.58, 0.28, 1.0),
    (0.95, 0.78, 0.32, 1.0),
    (0.50, 0.36, 0.66, 1.0),
    (0.93, 0.94, 0.95, 1.0),
)
"""Colours of a box's faces: +x, -x, +y, -y, +z, -z."""
GHOST = {"contype": 0, "conaffinity": 0, "mass": 0}
"""Of a geom for pictures only, which collides with nothing and weighs nothing."""


class Solid(NamedTuple):
    """A shape as MuJoCo describes it.

    Args:
        kind: MuJoCo's number of it.
        size: MuJoCo's three figures, m.
        offset: of its centre, m.
        color: red, green, blue, opacity.
    """

    kind: int
    size: Float[np.ndarray, "3"]
    offset: Float[np.ndarray, "3"]
    color: tuple[float, ...]


def faces_of(size: Float[np.ndarray, "3"]) -> Iterator[Solid]:
    """Plates on the six faces of a box with these half extents, each in its colour."""
    for number, color in enumerate(FACES):
        axis, sign = number // 2, 1 - 2 * (number % 2)
        plate, offset = 0.7 * size, np.zeros(3)
        plate[axis], offset[axis] = 0.01 * size[axis], sign * size[axis]
        yield Solid(int(mujoco.mjtGeom.mjGEOM_BOX), plate, offset, color)


def solids_of(marker: Marker) -> list[Solid]:
    """What a marker is drawn by, about its position and along its axes."""
    kind = getattr(mujoco.mjtGeom, f"mjGEOM_{marker.shape.upper()}")
    size = np.zeros(3)
    size[: len(marker.size)] = marker.size
    if marker.shape == "arrow":  # which may be flat in MuJoCo, and has twice its length
        size = np.array([marker.size[0], marker.size[0], 2 * marker.size[1]])
    solids = [Solid(int(kind), size, np.zeros(3), marker.color)]
    if marker.faces:
        # Else those at the back could not be told from those in front.
        opacity = min(2 * marker.color[3], 1.0)
        solids += [face._replace(color=(*face.color[:3], opacity)) for face in faces_of(size)]
    return solids


def triangles(kind: int, size: Sequence[float] | Float[np.ndarray, "3"]) -> Any:
    """A shape as a mesh (of `trimesh`); None if it is no simple one."""
    from trimesh import creation, util

    shapes = mujoco.mjtGeom
    if kind == shapes.mjGEOM_SPHERE:
        return creation.icosphere(subdivisions=3, radius=size[0])
    if kind == shapes.mjGEOM_CAPSULE:
        mesh = creation.capsule(height=2 * size[1], radius=size[0], count=[20, 20])
        mesh.apply_translation(-mesh.bounds.mean(axis=0))
        return mesh
    if kind == shapes.mjGEOM_CYLINDER:
        return creation.cylinder(radius=size[0], height=2 * size[1], sections=24)
    if kind == shapes.mjGEOM_BOX:
        return creation.box(extents=2 * np.asarray(size))
    if kind == shapes.mjGEOM_ELLIPSOID:
        mesh = creation.icosphere(subdivisions=3, radius=1.0)
        mesh.apply_scale(size)
        return mesh
    if kind == shapes.mjGEOM_ARROW:
        length = 0.5 * size[2]
        head = min(4 * size[0], 0.5 * length)
        shaft = creation.cylinder(radius=size[0], height=length - head, sections=24)
        shaft.apply_translation((0, 0, 0.5 * (length - head)))
        cone = creation.cone(radius=2 * size[0], height=head, sections=24)
        cone.apply_translation((0, 0, length - head))
        return util.concatenate([shaft, cone])
    return None
