"""Constants of the shapes that touch one another, in the frames and order of the dynamics."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rpo.physics.attachments import slots, turns, vectors
from rpo.physics.geoms import MATERIAL
from rpo.physics.kinematics import Motion
from rpo.physics.model import Model
from rpo.physics.spatial import Rotation, Scalar, Vector, constant
from rpo.physics.topology import groups_of, joint_axis_frames


@dataclasses.dataclass(frozen=True)
class GeomSet:
    """Shapes of one group of links (or of the world) that are placed as one array.

    Args:
        group: index of the group, -1 for the world.
        geoms: their indices in the model's `Geoms`.
        position, turn: pose in the link frame that the dynamics use.
    """

    group: int
    geoms: tuple[int, ...]
    position: Vector
    turn: Rotation


@dataclasses.dataclass(frozen=True, eq=False)
class PairTables:
    """Constants of all shapes that take part in a pair, in the order of `sets` (`G`).

    Args:
        sets: how the shapes hang on the groups.
        half_extents: three constants over (G, 1), and so on; see `Geoms`.
        share: of each edge in the force: 1 for a box, 1/4 for a capsule, 1/12 for a sphere.
        box: one for a box, zero for a round shape.
        cylinder: one for a cylinder, zero for others; None if there is none.
        slippery: one where a pair has no friction (G, G); None if all have.
        allowed: which directed pairs exist (G of A, G of B).
    """

    sets: tuple[GeomSet, ...]
    half_extents: Vector
    radius: Scalar
    share: Scalar
    box: Scalar
    cylinder: Scalar | None
    material: tuple[Scalar, ...]
    slippery: np.ndarray | None
    allowed: np.ndarray
    attract_inside: bool


@lru_cache(maxsize=64)
def pair_tables(model: Model) -> PairTables | None:
    """The model's tables, None if no links touch one another."""
    geoms = model.geoms
    if not len(geoms.pairs):
        return None
    sets = _geom_sets(model)
    order = [geom for s in sets for geom in s.geoms]
    extents = geoms.half_extents[order]
    thin = (extents == 0).sum(axis=1)
    allowed = np.zeros((len(order), len(order)), bool)
    for pair in geoms.pairs:
        # Round shapes come first: their edges are tried, a box's against a round one never.
        a, b = sorted((order.index(int(geom)) for geom in pair), key=lambda k: -thin[k])
        allowed[a, b] = True
        allowed[b, a] |= bool(geoms.is_box[order[a]] and geoms.is_box[order[b]])
    return PairTables(
        sets=sets,
        half_extents=tuple(constant(extents[:, k]) for k in range(3)),
        radius=constant(geoms.radius[order]),
        share=constant(np.array([1.0, np.nan, 0.25, 1.0 / 12.0])[thin]),
        box=constant(geoms.is_box[order].astype(np.float64)),
        cylinder=constant(geoms.is_cylinder[order].astype(np.float64))
        if geoms.is_cylinder[order].any()
        else None,
        material=tuple(constant(getattr(geoms, field)[order]) for field in MATERIAL),
        slippery=None if geoms.frictionless is None else geoms.frictionless[np.ix_(order, order)],
        allowed=allowed,
        attract_inside=geoms.attract_inside,
    )


def _geom_sets(model: Model) -> tuple[GeomSet, ...]:
    frames = joint_axis_frames(model)
    geoms, paired = model.geoms, np.unique(model.geoms.pairs)
    places = [(-1, (-1,)), *((g, group.links) for g, group in enumerate(groups_of(model)))]
    sets = []
    for g, links in places:
        for rows in slots([paired[geoms.link[paired] == link] for link in links]):
            outer = [np.eye(3) if link < 0 else frames[link] for link in geoms.link[rows]]
            pose = vectors(outer, geoms.position[rows]), turns(outer, geoms.quaternion[rows])
            sets.append(GeomSet(g, tuple(map(int, rows)), *pose))
    return tuple(sets)


class Placed(NamedTuple):
    """Where all shapes are and how they move: components over (G, batch) about a common origin;
    and the factor on their environment's friction, if there is one."""

    center: Vector
    rotation: Rotation
    velocity: Motion
    friction: Scalar | None = None


def typed(constants: tuple[Scalar, ...], dtype: Any) -> list[Scalar]:
    """Constants in the precision of the state."""
    return [x if isinstance(x, float) else jnp.asarray(x, dtype) for x in constants]
