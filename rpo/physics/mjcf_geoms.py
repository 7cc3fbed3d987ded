"""Shapes of a compiled description that may touch one another, and which pairs of them.

As in MuJoCo, two shapes may touch if the masks of one meet those of the other (`contype` with
`conaffinity`), unless their bodies are the same or welded together, parent and child (a parent that
is fixed to the world counts as no parent), or named in an `<exclude>`. Figures of a contact are the
custom numbers `pair_stiffness`, `pair_damping` and `pair_friction_stiffness` (`PairMaterial`) and
each shape's own `friction`, of which a pair has the mean.
"""

from __future__ import annotations

import itertools
import warnings

import mujoco
import numpy as np

from rpo.physics.geoms import NO_GEOMS, Floats, Geoms
from rpo.physics.mjcf_tree import Tree
from rpo.physics.touching import Reach, has_friction, is_excluded, may_touch
from rpo.physics.unsupported import COLLIDERS, friendly_name, geom_label, shape_name

_PLANE = int(mujoco.mjtGeom.mjGEOM_PLANE)
_CYLINDER = int(mujoco.mjtGeom.mjGEOM_CYLINDER)
_THIN = (int(mujoco.mjtGeom.mjGEOM_SPHERE), int(mujoco.mjtGeom.mjGEOM_CAPSULE))


def read_geoms(tree: Tree, numbers: dict[str, float]) -> Geoms:
    """Shapes and pairs of a compiled description.

    Args:
        tree: of the compiled description.
        numbers: values of `PairMaterial`'s fields.

    Returns:
        the shapes that are part of a pair, and the pairs.

    Raises:
        ValueError: in one line, if a shape of a pair is of a kind that cannot touch a link.
    """
    model = tree.model
    pairs = _pairs(model)
    used = sorted({geom for pair in pairs for geom in pair})
    if not used:
        return NO_GEOMS
    smooth = np.zeros((len(used), len(used)), bool)
    for a, b in (pair for pair in pairs if not has_friction(model, *pair)):
        one, other = used.index(a), used.index(b)
        smooth[one, other] = smooth[other, one] = True
    cylinders = np.array([int(model.geom_type[geom]) == _CYLINDER for geom in used])
    places = [tree.place_geom(geom) for geom in used]
    extents, radius = zip(*(_rounded_box(model, geom) for geom in used), strict=True)
    count = len(used)
    geoms = Geoms(
        names=tuple(friendly_name(model, "geom", geom) for geom in used),
        link=np.array([link for link, _, _ in places], np.int64),
        position=np.array([position for _, position, _ in places]),
        quaternion=np.array([quaternion for _, _, quaternion in places]),
        half_extents=np.array(extents),
        radius=np.array(radius),
        stiffness=np.full(count, numbers["pair_stiffness"]),
        damping=np.full(count, numbers["pair_damping"]),
        friction_stiffness=np.full(count, numbers["pair_friction_stiffness"]),
        friction_coefficient=model.geom_friction[used, 0].astype(np.float64),
        frictionless=smooth if smooth.any() else None,
        cylinder=cylinders if cylinders.any() else None,
        pairs=np.array([[used.index(geom) for geom in pair] for pair in pairs], np.int64),
    )
    _warn_of_overlaps(model, pairs)
    return geoms


def _pairs(model: mujoco.MjModel) -> list[tuple[int, int]]:
    masked = [
        (a, b)
        for a, b in itertools.combinations(range(model.ngeom), 2)
        if _PLANE not in (int(model.geom_type[a]), int(model.geom_type[b]))
        and may_touch(model, a, b, excluded=False)
    ]
    bodies = model.geom_bodyid
    pairs = [(a, b) for a, b in masked if not is_excluded(model, int(bodies[a]), int(bodies[b]))]
    if masked and not pairs:
        warnings.warn(
            "the description excludes every pair of shapes that could touch: no contact between "
            "links is left",
            stacklevel=5,
        )
    reach = Reach(model)
    return [pair for pair in pairs if not _refuse(model, reach, *pair)]


def _refuse(model: mujoco.MjModel, reach: Reach, a: int, b: int) -> bool:
    """Whether a pair that is not supported can be left out, since it never touches."""
    kinds = [int(model.geom_type[geom]) for geom in (a, b)]
    if all(kind in COLLIDERS for kind in kinds) or reach.apart(a, b):
        return not all(kind in COLLIDERS for kind in kinds)
    if _CYLINDER in kinds and any(kind in _THIN for kind in kinds):
        return False
    geom, other = (a, b) if kinds[0] not in COLLIDERS else (b, a)
    raise ValueError(
        f"{geom_label(model, geom)}: {shape_name(model, geom)} cannot touch "
        f"{geom_label(model, other)}, {shape_name(model, other)}; set contype and conaffinity "
        "so that they do not meet, or use other shapes"
    )


def _rounded_box(model: mujoco.MjModel, geom: int) -> tuple[Floats, float]:
    size = model.geom_size[geom]
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_SPHERE:
        return np.zeros(3), float(size[0])
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return np.array([0.0, 0.0, size[1]]), float(size[0])
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return np.array([size[0], size[0], size[1]]), 0.0
    return size.copy(), 0.0


def _warn_of_overlaps(model: mujoco.MjModel, pairs: list[tuple[int, int]]) -> None:
    """Name shapes so deep in one another at the start that no direction leads out of them."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    for a, b in pairs:
        for one, other in ((a, b), (b, a)):
            axes = data.geom_xmat[other].reshape(3, 3)
            offset = np.abs(axes.T @ (data.geom_xpos[one] - data.geom_xpos[other]))
            extents, radius = _rounded_box(model, other)
            if np.linalg.norm(np.maximum(offset - extents, 0.0)) < radius or (
                extents.all() and (offset < extents).all()
            ):
                warnings.warn(
                    f"{geom_label(model, one)} has its centre inside {geom_label(model, other)} at "
                    "the start: exclude their bodies from contact, or move them apart",
                    stacklevel=5,
                )
                break
