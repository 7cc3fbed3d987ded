"""Where links touch the ground, planes, obstacles and one another, and with what force.

These are the functions that the step runs, with their results kept apart by contact instead of
summed by link. They are there to be looked at, not for inner loops.

Contacts come in this order: the model's contact points, its places on other planes, its pairs. The
force of a pair is that on the link which comes later in the description; the other one, or the
obstacle, feels the opposite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from rpo.physics import joints, kinematics
from rpo.physics.contact import ground_forces
from rpo.physics.factors import NOMINAL, Factors, varied_groups
from rpo.physics.kinematics import Motion, Pose
from rpo.physics.model import Model
from rpo.physics.pair_candidates import Slots, may_touch
from rpo.physics.pair_tables import PairTables, pair_tables
from rpo.physics.pairs import common_origin, edge_forces, pack, place_shapes
from rpo.physics.plane_contact import plane_forces, plane_sets, varied_planes
from rpo.physics.spatial import Vector, rotate, scale, vadd, vector, vsub
from rpo.physics.topology import Group, groups_of


def contact_links(model: Model) -> tuple[int, ...]:
    """The link that each contact's force acts on."""
    pairs = [int(model.geoms.link[pair].max()) for pair in model.geoms.pairs]
    return (*map(int, model.contact_link), *map(int, model.planes.link), *pairs)


def contact_names(model: Model, contacts: Sequence[int] | None = None) -> tuple[str, ...]:
    """What to call contacts: the link, and what a pair's link touches.

    Args:
        model: the robot.
        contacts: which ones; by default all. Those of the same name are numbered.
    """
    geoms, links = model.geoms, model.link_names
    names = [links[link] for link in (*model.contact_link, *model.planes.link)]
    for pair in geoms.pairs:
        other, own = sorted(pair, key=lambda geom: geoms.link[geom])
        fixed = geoms.link[other] < 0
        touched = geoms.names[other] if fixed else links[geoms.link[other]]
        names.append(f"{links[geoms.link[own]]} on {touched}")
    if contacts is not None:
        names = [names[k] for k in contacts]
    total, seen = Counter(names), Counter[str]()
    for k, name in enumerate(names):
        seen[name] += 1
        names[k] = f"{name} {seen[name]}" if total[name] > 1 else name
    return tuple(names)


def contact_forces(
    model: Model, q: Array, qd: Array, factors: Factors = NOMINAL
) -> tuple[Array, Array]:
    """Point and force of every contact in a state, along the world's axes.

    Args:
        model: the robot.
        q: coordinates (nq, batch).
        qd: velocities (nv, batch).
        factors: by what each robot of the batch differs from the model, as in `control_step`.

    Returns:
        Points in m and forces in N (contacts, 3, batch). The point of a pair is the mean of the
        places where its shapes touch, weighted by their forces. What does not touch has no force.
    """
    groups = varied_groups(groups_of(model), factors)
    coordinates = joints.split(q, [group.coordinates for group in groups])
    relative = [joints.about_origin(*both) for both in zip(groups, coordinates, strict=True)]
    origins = kinematics.origins(groups, coordinates)
    poses = kinematics.link_poses(groups, relative)
    subspaces = kinematics.motion_subspaces(groups, poses)
    # A free link's velocity is the twist about its own origin, where the step's origin is at first.
    velocities = joints.split(qd, [group.velocities for group in groups])
    moving = kinematics.link_velocities(groups, subspaces, velocities)
    points, forces = _on_planes(model, groups, factors, poses, moving, origins, q)
    tables = pair_tables(model)
    if tables is None:
        return points, forces
    pairs = _pair_forces(model, tables, poses, moving, origins, factors.friction)
    return jnp.concatenate([points, pairs[0]]), jnp.concatenate([forces, pairs[1]])


def _on_planes(
    model: Model,
    groups: tuple[Group, ...],
    factors: Factors,
    poses: list[Pose],
    moving: list[Motion],
    origins: list[Vector],
    like: Array,
) -> tuple[Array, Array]:
    """Of the contact points, then of the places on other planes (contacts, 3, batch)."""
    points: dict[int, Array] = {}
    forces: dict[int, Array] = {}

    def note(first: int, numbers: tuple[int, ...], place: Vector, force: Vector) -> None:
        shape = (len(numbers), like.shape[1])
        for values, found in ((place, points), (force, forces)):
            full = [jnp.broadcast_to(jnp.asarray(x, like.dtype), shape) for x in values]
            for row, number in enumerate(numbers):
                found[first + number] = jnp.stack([x[row] for x in full])

    places = plane_sets(model) or ((),) * len(groups)
    for group, sets, pose, motion, origin in zip(
        groups, places, poses, moving, origins, strict=True
    ):
        for own in group.contacts:
            point, force = ground_forces(own, pose, motion, origin[2])
            note(0, own.numbers, vadd(point, origin), force)
        for other in varied_planes(sets, factors):
            point, force = plane_forces(other, pose, motion, origin)
            note(len(model.contact_link), other.numbers, vadd(point, origin), force)
    if not points:
        nothing = jnp.zeros((0, 3, like.shape[1]), like.dtype)
        return nothing, nothing
    order = range(len(points))
    return jnp.stack([points[k] for k in order]), jnp.stack([forces[k] for k in order])


def _pair_forces(
    model: Model,
    tables: PairTables,
    poses: list[Pose],
    moving: list[Motion],
    origins: list[Vector],
    friction: Array | None,
) -> tuple[Array, Array]:
    """Of every pair (pairs, 3, batch); one directed pair is computed at a time."""
    common = common_origin(origins)
    shifts = [vsub(origin, common) for origin in origins]
    placed = place_shapes(tables, poses, moving, shifts, common, friction)
    near = may_touch(tables, placed)
    shapes, batch = placed.center[0].shape
    common = vector(jnp.broadcast_to(x, (1, batch))[0] for x in common)
    rows = pack(placed).reshape(shapes, batch, -1)

    def directed(pair: Array) -> tuple[Array, Array, Array]:
        a, b = pair
        everyone = jnp.arange(batch)
        slots = Slots(a + 0 * everyone, b + 0 * everyone, everyone, near[b, a])
        both = jnp.stack([rows[a], rows[b]], axis=1).reshape(2 * batch, -1)
        frame, on_a, on_b, force = edge_forces(tables, slots, both)
        weight = jnp.sqrt(sum(f * f for f in force))
        middle = scale(0.5, vadd(on_a, on_b))
        moment = vector(jnp.sum(weight * m, axis=0) for m in middle)
        total = jnp.sum(weight, axis=0)
        place = vadd(rotate(frame.rotation, moment), scale(total, vadd(frame.center, common)))
        push = rotate(frame.rotation, vector(jnp.sum(f, axis=0) for f in force))
        return total, jnp.stack(place), jnp.stack(push)

    wanted, sign, first, second = _directed_pairs(model, tables)
    weight, place, push = lax.map(directed, jnp.asarray(wanted))
    push = push * jnp.asarray(sign, push.dtype)[:, None, None]

    def of_pairs(values: Array) -> Array:  # by gathers: on scatters XLA may abort, see rpo.runtime
        mirrored = jnp.where((second < 0)[:, None, None], 0, values[np.maximum(second, 0)])
        return values[first] + mirrored

    total = of_pairs(weight[:, None])
    return of_pairs(place) / jnp.where(total > 0, total, 1), of_pairs(push)


def _directed_pairs(model: Model, tables: PairTables) -> tuple[np.ndarray, ...]:
    """Rows of A and B in the tables (n, 2), the sign of A's force in its pair (n,), and of every
    pair its first and its second directed one, -1 where there is no second (pairs,)."""
    links = model.geoms.link
    order = np.array([geom for s in tables.sets for geom in s.geoms])
    wanted = np.argwhere(tables.allowed)
    directed: dict[frozenset[int], list[int]] = {}
    for row, (a, b) in enumerate(order[wanted]):
        directed.setdefault(frozenset((int(a), int(b))), []).append(row)
    own = [directed[frozenset(map(int, pair))] for pair in model.geoms.pairs]
    first = np.array([rows[0] for rows in own])
    second = np.array([rows[1] if len(rows) == 2 else -1 for rows in own])
    ends = links[order[wanted]]
    return wanted, np.where(ends[:, 0] > ends[:, 1], 1.0, -1.0), first, second
