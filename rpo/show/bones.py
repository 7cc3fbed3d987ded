"""Rods where a robot's description has only joints and colliders, so that limbs hang together."""

from __future__ import annotations

import itertools

import mujoco
import numpy as np
from jaxtyping import Float

from rpo.show.solids import GHOST

Point = Float[np.ndarray, "3"]

COVERED = 0.03
"""A point so close to a shape (m) needs no rod to it."""
COLOR = (0.80, 0.83, 0.86, 1.0)
THICKNESS = 0.022
"""Radius of a rod as a share of the robot's extent."""


def add_bones(spec: mujoco.MjSpec) -> None:
    """Adds rods that collide with nothing and weigh nothing, for pictures only."""
    model = spec.compile()
    radius = THICKNESS * float(model.stat.extent)
    bodies = list(spec.bodies)
    for body in range(1, model.nbody):
        for start, end in _rods(model, body):
            bodies[body].add_geom(
                type=mujoco.mjtGeom.mjGEOM_CAPSULE,
                fromto=[*start, *end],
                size=[radius, 0, 0],
                rgba=COLOR,
                **GHOST,
            )


def _rods(model: mujoco.MjModel, body: int) -> list[tuple[Point, Point]]:
    """From where a body is attached to its own shapes and to its children, if nothing else does."""
    hubs = _hubs(model, body)
    hub = hubs[-1]
    shapes = [g for g in range(model.ngeom) if model.geom_bodyid[g] == body]
    rods = list(itertools.pairwise(hubs))
    rods += [(hub, model.geom_pos[g].copy()) for g in shapes if _distance(model, g, hub) > 0]
    if body > 1 or not shapes:  # what hangs on a trunk has joints at its surface
        children = np.flatnonzero(model.body_parentid == body)
        places = [_place(model, int(child)) for child in children]
        rods += [(hub, place) for place in np.unique(np.round(places, 4), axis=0)] if places else []

    def near(point: Point) -> bool:
        return any(_distance(model, g, point) <= COVERED for g in shapes)

    return [
        (start, end)
        for start, end in rods
        if np.linalg.norm(end - start) > COVERED and not (near(start) and near(end))
    ]


def _hubs(model: mujoco.MjModel, body: int) -> list[Point]:
    """What a body turns about one after the other, in its axes; its frame if it does not turn.

    Where the frame of one that turns is means nothing, and neither does a slide's place.
    """
    first, turning = model.body_jntadr[body], mujoco.mjtJoint
    own = range(first, first + model.body_jntnum[body])
    kinds = {int(turning.mjJNT_HINGE), int(turning.mjJNT_BALL)}
    anchors = [model.jnt_pos[k].copy() for k in own if int(model.jnt_type[k]) in kinds]
    return anchors or [np.zeros(3)]


def _place(model: mujoco.MjModel, body: int) -> Point:
    """Where a body hangs on its parent, in the parent's axes."""
    turned = np.zeros(3)
    mujoco.mju_rotVecQuat(turned, _hubs(model, body)[0], model.body_quat[body])
    place: Point = model.body_pos[body] + turned
    return place


def _distance(model: mujoco.MjModel, geom: int, point: Point) -> float:
    """From the surface of a shape, negative inside; boxes and meshes count as their spheres."""
    size, centre = model.geom_size[geom], model.geom_pos[geom]
    kind = model.geom_type[geom]
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return float(np.linalg.norm(point - centre) - size[0])
    if kind in (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER):
        axis = np.zeros(3)
        mujoco.mju_rotVecQuat(axis, np.array([0.0, 0.0, 1.0]), model.geom_quat[geom])
        along = np.clip((point - centre) @ axis, -size[1], size[1])
        return float(np.linalg.norm(point - centre - along * axis) - size[0])
    return float(np.linalg.norm(point - centre) - model.geom_rbound[geom])
