"""Groups of isomorphic links, and each group's constants in frames that suit the dynamics.

Links that hang in the same way (four hips, four ankles) are computed together as one array of shape
(links, batch): the compiled program grows with the number of groups, not of links. Every link's
axes are turned so that its joint axis is its z axis, which leaves most constants zero or one.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import numpy as np

from rpo.physics.attachments import quaternion_matrix, slots, vectors
from rpo.physics.geoms import Floats
from rpo.physics.model import CONTACT_FIELDS, JointType, Model
from rpo.physics.spatial import Rotation, Scalar, Symmetric, Vector, constant, vector

Signature = tuple[Any, ...]
"""Kind of joint, whether there is mass, number of contact points and of shapes that touch other
shapes or planes, of bodies in a fluid, signatures of the children."""


@dataclasses.dataclass(frozen=True)
class ContactPoints:
    """Contact points of one group: `rows` arrays over (links or points, batch).

    Args:
        numbers: of these points in the model.
        position: in the link frame.
        radius, stiffness, damping, friction_stiffness, friction_coefficient: see `Model`.
    """

    numbers: tuple[int, ...]
    position: Vector
    radius: Scalar
    stiffness: Scalar
    damping: Scalar
    friction_stiffness: Scalar
    friction_coefficient: Scalar


@dataclasses.dataclass(frozen=True)
class Group:
    """Isomorphic links, their constants folded to floats where all of them agree.

    Args:
        links: indices in the model.
        parent: index of the parent group, -1 for the world. The parent has one link, or as many.
        base: whether the joint only moves the robot's origin: a slide whose direction in the world
            never changes, all the way to the world.
        summed: whether several links hang on a single parent, so that sums over them reduce.
        offset: link origin in the parent frame; `turn`: link axes in the parent frame at zero.
        frictionloss_rate: inverse of the friction's velocity scale, zero without friction.
        coordinates, velocities: rows of q and qd of each component of the joint, by link.
        contacts: one entry per set of points that is computed as one array.
        inertia_rows: for each link the one of the group whose inertia enters the mass matrix; None
            for its own.
        apart: whether it has one link and each of its contact points is a set of its own.
    """

    links: tuple[int, ...]
    parent: int
    kind: JointType
    base: bool
    summed: bool
    offset: Vector
    turn: Rotation
    mass: Scalar
    center_of_mass: Vector
    inertia: Symmetric
    armature: tuple[Scalar, ...]
    damping: Scalar
    stiffness: Scalar
    spring_target: Scalar
    limit_lower: Scalar
    limit_upper: Scalar
    limit_stiffness: Scalar
    limit_damping_beyond: Scalar
    frictionloss: Scalar
    frictionloss_rate: Scalar
    coordinates: tuple[tuple[int, ...], ...]
    velocities: tuple[tuple[int, ...], ...]
    contacts: tuple[ContactPoints, ...]
    inertia_rows: tuple[int, ...] | None
    apart: bool

    @property
    def size(self) -> int:
        """Number of links."""
        return len(self.links)

    @property
    def massless(self) -> bool:
        """Whether the links have neither mass nor inertia."""
        return isinstance(self.mass, float) and self.mass == 0.0


@lru_cache(maxsize=64)
def groups_of(model: Model, apart: bool = False) -> tuple[Group, ...]:
    """Groups of the model, parents first.

    Args:
        model: the robot.
        apart: every link a group of its own, in the model's order, and every contact point an array
            of its own: all constants are floats, and arrays need no axis of links.
    """
    frames = joint_axis_frames(model)
    partition = [(k,) for k in range(model.num_links)] if apart else _partition(model)
    group_of_link = {link: g for g, links in enumerate(partition) for link in links}
    groups: list[Group] = []
    for links in partition:
        parent_link = int(model.parent[links[0]])
        parent = -1 if parent_link < 0 else group_of_link[parent_link]
        groups.append(_group(model, frames, links, parent, groups, apart))
    return tuple(groups)


def ancestors(groups: tuple[Group, ...], g: int) -> list[int]:
    """Groups from g's parent up to the root, nearest first."""
    chain = []
    while (g := groups[g].parent) >= 0:
        chain.append(g)
    return chain


def joint_axis_frames(model: Model) -> list[Floats]:
    """For each link the rotation from the axes used here to the model's link axes."""
    frames: list[Floats] = []
    for link, kind in enumerate(model.joint_type):
        if kind is JointType.FREE:
            frames.append(np.eye(3))
            continue
        parent = model.parent[link]
        outer = np.eye(3) if parent < 0 else frames[parent]
        fixed = outer.T @ quaternion_matrix(model.joint_quaternion[link])
        axis = fixed @ model.joint_axis[link]
        frames.append(fixed.T @ _axes_with_z(axis))
    return frames


def _axes_with_z(z: Floats) -> Floats:
    """A rotation whose third column is z and whose first has a zero: few terms survive folding."""
    if abs(z[2]) > 1 - 1e-12:
        return np.diag([1.0, np.sign(z[2]), np.sign(z[2])])
    x = np.array([-z[1], z[0], 0.0]) / np.hypot(z[0], z[1])
    return np.stack([x, np.cross(z, x), z], axis=1)


def _signatures(model: Model) -> list[Signature]:
    signatures: list[Signature] = [()] * model.num_links
    for link in reversed(range(model.num_links)):
        children = sorted(signatures[c] for c in range(model.num_links) if model.parent[c] == link)
        points = int((model.contact_link == link).sum())
        shapes = int((model.geoms.link[np.unique(model.geoms.pairs)] == link).sum())
        massive = bool(model.mass[link] > 0)
        kind = int(model.joint_type[link])
        curved = model.planes.curved[model.planes.link == link]
        places = (int((~curved).sum()), int(curved.sum()))
        boxes = int((model.fluid.link == link).sum())
        signatures[link] = (kind, massive, points, shapes, *places, boxes, tuple(children))
    return signatures


def _partition(model: Model) -> list[tuple[int, ...]]:
    """Links by group, parents first; the parent of a group has one link or as many as the group."""
    signatures = _signatures(model)
    result: list[tuple[int, ...]] = []
    waiting: list[tuple[int, ...]] = [(-1,)]
    while waiting:
        parents = waiting.pop(0)
        children: list[dict[Signature, list[int]]] = [{} for _ in parents]
        for own, parent in zip(children, parents, strict=True):
            for link in np.flatnonzero(model.parent == parent):
                own.setdefault(signatures[link], []).append(int(link))
        for signature, alike in children[0].items():  # parents of a group have like children
            rows = zip(*(own[signature] for own in children), strict=True)
            found = [tuple(alike)] if len(parents) == 1 else list(rows)
            result += found
            waiting += found
    return result


def _group(
    model: Model,
    frames: list[Floats],
    links: tuple[int, ...],
    parent: int,
    above: list[Group],
    apart: bool,
) -> Group:
    kind = model.joint_type[links[0]]
    outer = [np.eye(3) if model.parent[k] < 0 else frames[model.parent[k]] for k in links]
    own, chosen = [frames[k] for k in links], list(links)
    fixed = np.stack(
        [
            o.T @ quaternion_matrix(model.joint_quaternion[k]) @ frames[k]
            for o, k in zip(outer, links, strict=True)
        ]
    )
    inertia = np.stack([frames[k].T @ model.inertia[k] @ frames[k] for k in links])
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    q = tuple(tuple(model.coordinate_start[k] + i for k in links) for i in range(kind.coordinates))
    v = tuple(tuple(model.velocity_start[k] + i for k in links) for i in range(kind.velocities))
    rows = list(v[0])
    loss, speed = model.frictionloss[rows], model.frictionloss_speed[rows]
    return Group(
        links=links,
        parent=parent,
        kind=kind,
        base=kind is JointType.SLIDE and (parent < 0 or above[parent].base),
        summed=len(links) > 1 and (parent < 0 or above[parent].size == 1),
        offset=vectors(outer, model.joint_position[chosen]),
        turn=vector(vector(map(constant, column)) for column in fixed.T),
        mass=constant(model.mass[chosen]),
        center_of_mass=vectors(own, model.center_of_mass[chosen]),
        inertia=tuple(constant(inertia[:, i, j]) for i, j in pairs),
        armature=tuple(constant(model.armature[list(component)]) for component in v),
        damping=constant(model.damping[rows] + model.limit_damping[rows]),
        **{field: constant(getattr(model, field)[rows]) for field in _AS_THEY_ARE},
        frictionloss_rate=constant(np.where(loss > 0, 1 / np.where(loss > 0, speed, 1.0), 0.0)),
        coordinates=q,
        velocities=v,
        contacts=_contacts(model, frames, links, apart),
        inertia_rows=_inertia_rows(model, links),
        apart=apart,
    )


_AS_THEY_ARE = (
    *("stiffness", "spring_target", "limit_lower", "limit_upper", "limit_stiffness"),
    *("limit_damping_beyond", "frictionloss"),
)
"""Figures of the model's degrees of freedom that a group has, too."""


def _inertia_rows(model: Model, links: tuple[int, ...]) -> tuple[int, ...] | None:
    if model.inertia_link is None:
        return None
    sources = [int(model.inertia_link[link]) for link in links]
    if set(sources) != set(links):
        raise ValueError(f"{model.name}: inertia_link can only exchange links that hang alike")
    return None if sources == list(links) else tuple(links.index(link) for link in sources)


def _contacts(
    model: Model, frames: list[Floats], links: tuple[int, ...], apart: bool
) -> tuple[ContactPoints, ...]:
    """Points of a lone link side by side in one array; of several links one array per slot."""
    points = [np.flatnonzero(model.contact_link == link) for link in links]
    sets = [points[0][k : k + 1] for k in range(len(points[0]))] if apart else slots(points)
    return tuple(
        ContactPoints(
            numbers=tuple(map(int, s)),
            position=vectors(
                [frames[link] for link in model.contact_link[s]], model.contact_position[s]
            ),
            **{
                field.removeprefix("contact_"): constant(getattr(model, field)[s])
                for field in CONTACT_FIELDS
                if field != "contact_link"
            },
        )
        for s in sets
    )
