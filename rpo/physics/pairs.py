"""Contact between links: which shapes touch, where, and with what force.

Every shape is a box with rounded edges (`rpo.physics.geoms`), so one code serves spheres, capsules
and boxes. Of a pair (A, B) the twelve edges of A are tried against B: on each edge the point nearest
to B's box is found by golden-section search, and B's closest point to it. Two boxes are tried both
ways. With n the normal from B to A, d the distance of the two points along it less both radii, and v
the velocity of A's point relative to B's, there is contact where d < 0, with

    force on A = -(n f + unit(v_t) min(kf |v_t|, -mu f)),   f = ke d + kd min(n . v, 0) <= 0.

The normal of a box A is the gradient of B's distance function at A's *centre*; that of a round A the
same at the edge's point. (A round shape's degenerate edges coincide; their forces are shared out.)

A pair is left out of the search only when it provably cannot touch: with c the distance of A's
centre from B's box and n the direction of that distance, every point of A has d >= c - (extent of A
along n) - radii. What remains is worked off in as many rounds of `SLOTS` as the fullest
environment of the batch needs, so nothing is ever dropped. The search is piecewise constant and
carries no derivative (envelope theorem); the points, normals and forces do.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from rpo.physics.contact import NO_WRENCH, Wrench
from rpo.physics.kinematics import Motion, Pose
from rpo.physics.model import Floats, Model
from rpo.physics.spatial import (
    ZERO,
    Rotation,
    Scalar,
    Vector,
    compose,
    constant,
    cross,
    dot,
    mul,
    rotate,
    rotate_back,
    scale,
    sub,
    vadd,
    vsub,
)
from rpo.physics.topology import Group, groups_of, joint_axis_frames, quaternion_matrix

SLOTS = 8
"""Directed pairs per environment of the batch that one round computes side by side."""
SAVED = "pair wrenches"
"""Name under which the result may be kept when a substep is recomputed in the backward pass."""
_SEARCH_STEPS = 10
_INVERSE_GOLDEN = 0.61803398875
_TINY = 1e-24  # its power -3/2, in the derivative of rsqrt, must fit single precision


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
        allowed: which directed pairs exist (G of A, G of B).
    """

    sets: tuple[GeomSet, ...]
    half_extents: Vector
    radius: Scalar
    share: Scalar
    box: Scalar
    material: tuple[Scalar, ...]
    allowed: np.ndarray
    attract_inside: bool


class Placed(NamedTuple):
    """Where all shapes are and how they move: components over (G, batch) about a common origin."""

    center: Vector
    rotation: Rotation
    velocity: Motion


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
        half_extents=tuple(_column(extents[:, k]) for k in range(3)),  # type: ignore[arg-type]
        radius=_column(geoms.radius[order]),
        share=_column(np.array([1.0, np.nan, 0.25, 1.0 / 12.0])[thin]),
        box=_column(geoms.is_box[order].astype(np.float64)),
        material=tuple(
            _column(getattr(geoms, field)[order])
            for field in ("stiffness", "damping", "friction_stiffness", "friction_coefficient")
        ),
        allowed=allowed,
        attract_inside=geoms.attract_inside,
    )


def _column(values: Floats) -> Scalar:
    return constant(values)


def _geom_sets(model: Model) -> tuple[GeomSet, ...]:
    frames = joint_axis_frames(model)
    geoms, paired = model.geoms, np.unique(model.geoms.pairs)
    places = [(-1, (-1,)), *((g, group.links) for g, group in enumerate(groups_of(model)))]
    sets = []
    for g, links in places:
        own = [[int(k) for k in paired if geoms.link[k] == link] for link in links]
        # A lone link's shapes side by side in one array, of several links one array per shape.
        slots = own if len(links) == 1 else [list(slot) for slot in zip(*own, strict=True)]
        for slot in slots:
            if slot:
                sets.append(_geom_set(model, frames, g, tuple(slot)))
    return tuple(sets)


def _geom_set(model: Model, frames: list[Floats], g: int, indices: tuple[int, ...]) -> GeomSet:
    geoms = model.geoms
    outer = [np.eye(3) if geoms.link[k] < 0 else frames[geoms.link[k]] for k in indices]
    position = np.stack([o.T @ geoms.position[k] for o, k in zip(outer, indices, strict=True)])
    turn = np.stack(
        [o.T @ quaternion_matrix(geoms.quaternion[k]) for o, k in zip(outer, indices, strict=True)]
    )

    def vector(values: Floats) -> Vector:
        return (constant(values[:, 0]), constant(values[:, 1]), constant(values[:, 2]))

    columns = (vector(turn[:, :, 0]), vector(turn[:, :, 1]), vector(turn[:, :, 2]))
    return GeomSet(g, indices, vector(position), columns)


def pair_wrenches(
    model: Model,
    groups: tuple[Group, ...],
    poses: list[Pose],
    moving: list[Motion],
    origins: list[Vector],
) -> list[Wrench]:
    """Wrench of the other links on each group's links, about the group's own origin.

    Args:
        model: the robot.
        groups: its groups.
        poses: of every group, about its origin.
        moving: velocity of every group, about its origin.
        origins: where these origins are in the world.

    Returns:
        One wrench per group; `NO_WRENCH` where a group has no shape that touches another.
    """
    tables = pair_tables(model)
    if tables is None:
        return [NO_WRENCH] * len(groups)
    shifts = [vsub(origin, origins[0]) for origin in origins]
    placed = _place(tables, poses, moving, shifts, origins[0])
    wrench = _differentiable(tables)(placed)
    wrench = jax.tree.map(lambda x: checkpoint_name(x, SAVED), wrench)
    result = [NO_WRENCH] * len(groups)
    first = 0
    for s in tables.sets:
        rows = slice(first, first + len(s.geoms))
        first = rows.stop
        if s.group < 0:
            continue
        own = _rows(wrench, rows, summed=groups[s.group].size == 1)
        moment = vsub(own.angular, cross(shifts[s.group], own.linear))
        old = result[s.group]
        result[s.group] = Wrench(vadd(old.angular, moment), vadd(old.linear, own.linear))
    return result


def _rows(wrench: Wrench, rows: slice, summed: bool) -> Wrench:
    def take(x: Array) -> Array:
        part = lax.slice_in_dim(x, rows.start, rows.stop)
        return jnp.sum(part, axis=0, keepdims=True) if summed else part

    moment, force = (tuple(take(x) for x in vector) for vector in wrench)
    return Wrench(moment, force)  # type: ignore[arg-type]


def _place(
    tables: PairTables,
    poses: list[Pose],
    moving: list[Motion],
    shifts: list[Vector],
    origin: Vector,
) -> Placed:
    """All shapes about the first group's origin."""
    example = next(x for x in jax.tree.leaves((poses, moving)) if isinstance(x, jax.Array))
    batch, dtype = example.shape[1], example.dtype
    centers, rotations, angular, linear = [], [], [], []
    for s in tables.sets:
        if s.group < 0:
            centers.append(vsub(s.position, origin))
            rotations.append(s.turn)
            angular.append(ZERO)
            linear.append(ZERO)
            continue
        pose, velocity, shift = poses[s.group], moving[s.group], shifts[s.group]
        center = vadd(pose.position, rotate(pose.rotation, s.position))
        centers.append(vadd(center, shift))
        rotations.append(compose(pose.rotation, s.turn))
        angular.append(velocity.angular)
        linear.append(vsub(velocity.linear, cross(velocity.angular, shift)))

    sizes = [len(s.geoms) for s in tables.sets]

    def stack(parts: list[Scalar]) -> Array:
        return jnp.concatenate(
            [
                jnp.broadcast_to(jnp.asarray(part, dtype), (size, batch))
                for part, size in zip(parts, sizes, strict=True)
            ]
        )

    def vector(parts: list[Vector]) -> Vector:
        x, y, z = (stack([part[k] for part in parts]) for k in range(3))
        return (x, y, z)

    columns = tuple(vector([rotation[k] for rotation in rotations]) for k in range(3))
    return Placed(vector(centers), columns, Motion(vector(angular), vector(linear)))  # type: ignore[arg-type]


def _differentiable(tables: PairTables) -> Any:
    """Wrenches on all shapes, six components over (G, batch), as a function of `Placed`."""

    @jax.custom_vjp
    def wrenches(placed: Placed) -> Wrench:
        listed, rows = _list_near(tables, placed), _pack(placed)
        zero = 0.0 * rows[:, :6]
        total = _work_off(listed, zero, lambda slots: _slot_wrenches(tables, slots, rows))
        moment_and_force = total.reshape(*placed.center[0].shape, 6)
        parts = [moment_and_force[:, :, k] for k in range(6)]
        return Wrench((parts[0], parts[1], parts[2]), (parts[3], parts[4], parts[5]))

    def forward(placed: Placed) -> tuple[Wrench, Placed]:
        return wrenches(placed), placed

    def backward(placed: Placed, cotangent: Wrench) -> tuple[Placed]:
        rows, unpack = jax.vjp(_pack, placed)
        cotangents = _pack(cotangent)

        def transpose(slots: Slots) -> Array:
            _, vjp = jax.vjp(lambda rows: _slot_wrenches(tables, slots, rows), rows)
            result: Array = vjp(cotangents)[0]
            return result

        listed = _list_near(tables, placed)
        return tuple(unpack(_work_off(listed, 0.0 * rows, transpose)))  # type: ignore[return-value]

    wrenches.defvjp(forward, backward)
    return wrenches


def _pack(components: Any) -> Array:
    """Components over (G, batch) as one row per shape and environment (G * batch, components)."""
    return jnp.stack([x.reshape(-1) for x in jax.tree.leaves(components)], axis=-1)


class Listed(NamedTuple):
    """How many directed pairs that may touch are listed up to each one, environment by environment.

    Args:
        within: among the pairs of its A and environment (G of B, G of A, batch).
        shape_ends: up to the end of each A, among the pairs of its environment (G of A, batch).
        environment_ends: up to the end of each environment, among all (batch,).
    """

    within: Array
    shape_ends: Array
    environment_ends: Array


class Slots(NamedTuple):
    """Shapes A and B of each slot, its environment, and whether it is in use, all (slots,)."""

    a: Array
    b: Array
    environment: Array
    used: Array


def _work_off(listed: Listed, zero: Array, one_round: Any) -> Array:
    """Sum of `one_round(slots)` over as many rounds as are needed."""
    total = listed.environment_ends[-1]
    size = SLOTS * len(listed.environment_ends)

    def body(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        first, result = carry
        return first + size, result + one_round(_take_slots(listed, first, size))

    return lax.while_loop(lambda carry: carry[0] < total, body, (total * 0, zero))[1]


def _list_near(tables: PairTables, placed: Placed) -> Listed:
    near = _may_touch(tables, lax.stop_gradient(placed))
    within = _running_sum(near.astype(jnp.int32))
    shape_ends = _running_sum(within[-1])
    return Listed(within, shape_ends, jnp.cumsum(shape_ends[-1]))


def _running_sum(values: Array) -> Array:
    """Prefix sums along the first axis; `cumsum` takes several times as long."""
    return lax.scan(lambda total, x: (total + x, total + x), 0 * values[0], values)[1]


def _may_touch(tables: PairTables, placed: Placed) -> Array:
    """Whether each directed pair may touch (G of B, G of A, batch)."""

    def of_a(x: Scalar) -> Scalar:
        return x if isinstance(x, float) else x[None]

    def of_b(x: Scalar) -> Scalar:
        return x if isinstance(x, float) else x[:, None]

    extents = _like(tables.half_extents, placed.center[0].dtype)
    (radius,) = _like((tables.radius,), placed.center[0].dtype)
    axes_b: Rotation = jax.tree.map(of_b, placed.rotation)
    axes_a: Rotation = jax.tree.map(of_a, placed.rotation)
    between = vsub(jax.tree.map(of_a, placed.center), jax.tree.map(of_b, placed.center))
    offset = rotate_back(axes_b, between)
    excess = [
        sub(x, jnp.clip(x, -bound, bound))
        for x, bound in zip(offset, map(of_b, extents), strict=True)
    ]
    distance = jnp.sqrt(sum(x * x for x in excess))
    toward = rotate(axes_b, (excess[0], excess[1], excess[2]))
    extent = sum(
        mul(of_a(half), jnp.abs(dot(axis, toward)))
        for axis, half in zip(axes_a, extents, strict=True)
    )
    # Multiplied by the distance: no division, and a centre inside B (zero) always counts.
    reach = distance * (distance - of_a(radius) - of_b(radius))
    return (reach <= extent) & jnp.asarray(tables.allowed.T[:, :, None])


def _take_slots(listed: Listed, first: Array, size: int) -> Slots:
    """Who is in the `size` slots from number `first` on."""
    shapes, _, batch = listed.within.shape
    number = first + jnp.arange(size, dtype=jnp.int32)
    used = number < listed.environment_ends[-1]
    environment, number = _place_in(lambda k: listed.environment_ends[k], batch, number)
    of_shape, within = listed.shape_ends.reshape(-1), listed.within.reshape(-1)
    a, number = _place_in(lambda k: of_shape[k * batch + environment], shapes, number)
    column = a * batch + environment
    b, _ = _place_in(lambda k: within[k * (shapes * batch) + column], shapes, number)
    return Slots(a, b, environment, used)


def _place_in(ends: Any, size: int, number: Array) -> tuple[Array, Array]:
    """Which of the consecutive runs that end at ascending `ends(k)` holds `number`, and where."""
    run = jnp.zeros_like(number)
    for bit in reversed(range(size.bit_length())):
        probe = run + (1 << bit) - 1
        passed = (probe < size) & (ends(jnp.minimum(probe, size - 1)) <= number)
        run = run + jnp.where(passed, 1 << bit, 0)
    run = jnp.minimum(run, size - 1)  # a slot that is not in use
    return run, number - jnp.where(run > 0, ends(jnp.maximum(run - 1, 0)), 0)


def _like(constants: tuple[Scalar, ...], dtype: Any) -> list[Scalar]:
    return [x if isinstance(x, float) else jnp.asarray(x, dtype) for x in constants]


def _slot_wrenches(tables: PairTables, slots: Slots, rows: Array) -> Array:
    """Wrenches on all shapes (G * batch, 6) from the directed pairs in the slots.

    Args:
        tables: constants.
        slots: who is in them.
        rows: `Placed`, packed.
    """
    batch = len(rows) // len(tables.allowed)
    row_a, row_b = (geom * batch + slots.environment for geom in (slots.a, slots.b))
    a, b = _unpack(rows[row_a]), _unpack(rows[row_b])

    def of(geom: Array, values: tuple[Scalar, ...]) -> list[Scalar]:
        return [x if isinstance(x, float) else x[:, 0][geom] for x in _like(values, rows.dtype)]

    extents_a, extents_b = of(slots.a, tables.half_extents), of(slots.b, tables.half_extents)
    (radius_a,), (radius_b,) = of(slots.a, (tables.radius,)), of(slots.b, (tables.radius,))
    share, box = of(slots.a, (tables.share, tables.box))
    materials = zip(of(slots.a, tables.material), of(slots.b, tables.material), strict=True)
    material = [0.5 * (x + y) for x, y in materials]
    # Everything in B's frame about B's centre, where its box is level.
    center = rotate_back(b.rotation, vsub(a.center, b.center))
    axes: Rotation = tuple(rotate_back(b.rotation, axis) for axis in a.rotation)  # type: ignore[assignment]
    start, along = _edges(center, axes, extents_a)
    where = _nearest(start, along, extents_b)
    point: Vector = tuple(s + where * d for s, d in zip(start, along, strict=True))  # type: ignore[assignment]
    closest, own_normal = _closest(point, extents_b, tables.attract_inside)
    _, center_normal = _closest(center, extents_b, False)
    normal: Vector = tuple(  # type: ignore[assignment]
        jnp.where(box > 0.5, c, o) for c, o in zip(center_normal, own_normal, strict=True)
    )
    distance = dot(normal, vsub(point, closest)) - radius_a - radius_b
    on_a = vsub(point, scale(radius_a, normal))
    on_b = vadd(closest, scale(radius_b, normal))
    relative = vsub(_velocity_at(a, b, on_a), _velocity_at(b, b, on_b))
    active = (distance < 0.0) & slots.used
    force: Vector = tuple(  # type: ignore[assignment]
        jnp.where(active, share * f, 0.0) for f in _force(distance, normal, relative, material)
    )
    wrench_a = _to_world(b, on_a, force)
    wrench_b = _to_world(b, on_b, scale(-1.0, force))
    both = jnp.concatenate([_pack(wrench_a), _pack(wrench_b)])
    zero = jnp.zeros((len(rows), 6), rows.dtype)
    return zero.at[jnp.concatenate([row_a, row_b])].add(both)


def _unpack(rows: Array) -> Placed:
    c = rows.T
    columns = ((c[3], c[4], c[5]), (c[6], c[7], c[8]), (c[9], c[10], c[11]))
    return Placed(
        (c[0], c[1], c[2]), columns, Motion((c[12], c[13], c[14]), (c[15], c[16], c[17]))
    )


def _edges(center: Vector, axes: Rotation, extents: Vector) -> tuple[Vector, Vector]:
    """Start of the twelve edges and the way to their end, components over (12, slots)."""
    signs = np.zeros((3, 12, 1))
    own = np.zeros((3, 12, 1))
    for k in range(3):
        others = [j for j in range(3) if j != k]
        for e in range(4):
            signs[k, 4 * k + e] = -1.0
            signs[others[0], 4 * k + e] = 1.0 if e % 2 else -1.0
            signs[others[1], 4 * k + e] = 1.0 if e // 2 else -1.0
            own[k, 4 * k + e] = 2.0
    dtype = center[0].dtype
    start, along = [], []
    for component in range(3):
        reach = [extents[k] * axes[k][component] for k in range(3)]
        start.append(
            center[component] + sum(jnp.asarray(signs[k], dtype) * reach[k] for k in range(3))
        )
        along.append(sum(jnp.asarray(own[k], dtype) * reach[k] for k in range(3)))
    return tuple(start), tuple(along)  # type: ignore[return-value]


def _nearest(start: Vector, along: Vector, extents: Vector) -> Array:
    """Coordinate in [0, 1] of each edge's point nearest to the box: golden-section search."""
    start, along, extents = lax.stop_gradient((start, along, extents))
    keep, cut = _INVERSE_GOLDEN, 1.0 - _INVERSE_GOLDEN

    def height(u: Scalar) -> Array:
        """Grows with the signed distance from the box: squared outside, plain inside."""
        q = [
            jnp.abs(s + u * d) - half for s, d, half in zip(start, along, extents, strict=True)
        ]
        outside = sum(jnp.maximum(x, 0.0) ** 2 for x in q)
        return outside + jnp.minimum(jnp.maximum(jnp.maximum(q[0], q[1]), q[2]), 0.0)

    low = jnp.zeros_like(start[0])
    left, right = low + cut, low + keep
    at_left, at_right = height(left), height(right)
    width = 1.0
    for _ in range(_SEARCH_STEPS):
        width *= keep
        lower = at_left < at_right
        low = jnp.where(lower, low, left)
        probe = low + jnp.where(lower, cut * width, keep * width)
        at_probe = height(probe)
        left, right = jnp.where(lower, probe, right), jnp.where(lower, left, probe)
        at_left, at_right = (
            jnp.where(lower, at_probe, at_right),
            jnp.where(lower, at_left, at_probe),
        )
    end = low + width
    return 0.5 * jnp.where(at_left < at_right, low + right, left + end)


def _closest(point: Vector, extents: Vector, attract_inside: bool) -> tuple[Vector, Vector]:
    """Closest point of the box's surface and the outward normal there, both in the box's frame."""
    q = [jnp.abs(p) - half for p, half in zip(point, extents, strict=True)]
    deepest = jnp.maximum(jnp.maximum(q[0], q[1]), q[2])
    inside = deepest < 0.0
    clipped = [
        jnp.where(x > 0.0, jnp.sign(p) * half, p)
        for x, p, half in zip(q, point, extents, strict=True)
    ]
    away = [p - c for p, c in zip(point, clipped, strict=True)]
    inverse = lax.rsqrt(jnp.maximum(sum(x * x for x in away), _TINY))
    faces = [q[0] >= deepest, (q[1] >= deepest) & (q[0] < deepest)]
    faces.append(~(faces[0] | faces[1]))
    inward = -1.0 if attract_inside else 1.0
    surface, normal = [], []
    for k in range(3):
        sign = jnp.where(point[k] < 0.0, -1.0, 1.0)
        surface.append(jnp.where(inside & faces[k], sign * extents[k], clipped[k]))
        face = jnp.where(faces[k], inward * sign, 0.0)
        normal.append(jnp.where(inside, face, away[k] * inverse))
    return tuple(surface), tuple(normal)  # type: ignore[return-value]


def _velocity_at(geom: Placed, frame: Placed, point: Vector) -> Vector:
    """Velocity of the material point of `geom` at a point given in the frame of `frame`."""
    velocity = vadd(geom.velocity.linear, cross(geom.velocity.angular, frame.center))
    turning = rotate_back(frame.rotation, geom.velocity.angular)
    return vadd(rotate_back(frame.rotation, velocity), cross(turning, point))


def _force(distance: Array, normal: Vector, velocity: Vector, material: list[Scalar]) -> Vector:
    stiffness, damping, friction_stiffness, friction = material
    closing = dot(normal, velocity)
    sliding = vsub(velocity, scale(closing, normal))
    load = -(stiffness * distance + damping * jnp.minimum(closing, 0.0))
    # unit(v_t) min(kf |v_t|, mu load) without a division by zero, as with the ground.
    inverse_speed = lax.rsqrt(jnp.maximum(dot(sliding, sliding), _TINY))
    brake = jnp.minimum(friction_stiffness, friction * load * inverse_speed)
    return vsub(scale(load, normal), scale(brake, sliding))


def _to_world(frame: Placed, point: Vector, force: Vector) -> Wrench:
    """Sum over a slot's edges of forces at points, from B's frame to a wrench at the origin."""
    moment: Vector = tuple(jnp.sum(m, axis=0) for m in cross(point, force))  # type: ignore[assignment]
    total: Vector = tuple(jnp.sum(f, axis=0) for f in force)  # type: ignore[assignment]
    linear = rotate(frame.rotation, total)
    return Wrench(vadd(rotate(frame.rotation, moment), cross(frame.center, linear)), linear)
