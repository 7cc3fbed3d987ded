"""Contact between links: which shapes touch, where, and with what force.

Every shape is a box with rounded edges (`rpo.physics.geoms`), so one code serves spheres, capsules
and boxes; a cylinder can only be B (`rpo.physics.cylinder`). Of a pair (A, B) the twelve edges of A
are tried against B: on each edge the point nearest to B's box is found by golden-section search,
and B's closest point to it. Two boxes are tried both ways. With n the normal from B to A, d the
distance of the two points along it less both radii, and v the velocity of A's point relative to
B's, there is contact where d < 0, with

    force on A = -(n f + unit(v_t) min(kf |v_t|, -mu f)),   f = ke d + kd min(n . v, 0) <= 0.

The normal of a box A is the gradient of B's distance function at A's *centre*; that of a round A is
the same at the edge's point. (A round shape's edges coincide; each has a share of the force.)

Only pairs that may touch are looked at (`rpo.physics.pair_candidates`). The search is piecewise
constant and carries no derivative (envelope theorem); the points, normals and forces do.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from rpo.physics.contact import NO_WRENCH, TINY, Wrench
from rpo.physics.kinematics import Motion, Pose, add_motion
from rpo.physics.model import Model
from rpo.physics.pair_candidates import (
    Listed,
    Slots,
    list_pairs,
    mark_slots,
    may_touch,
    take_slots,
)
from rpo.physics.pair_points import Size, points
from rpo.physics.pair_tables import PairTables, Placed, pair_tables, typed
from rpo.physics.spatial import (
    ZERO,
    Scalar,
    Vector,
    compose,
    cross,
    dot,
    rotate,
    rotate_back,
    scale,
    vadd,
    vector,
    vsub,
)
from rpo.physics.topology import Group

SLOTS = 8
"""Directed pairs per environment of the batch that one round computes side by side."""
BACKWARD_SLOTS = 2
"""The same of a round backwards, which has only those pairs to do that touch."""
SAVED = "pair wrenches"
"""Name under which the result may be kept when a substep is recomputed in the backward pass."""


def pair_wrenches(
    model: Model,
    groups: tuple[Group, ...],
    poses: list[Pose],
    moving: list[Motion],
    origins: list[Vector],
    friction: Array | None = None,
) -> list[Wrench]:
    """Wrench of the other links on each group's links, about the group's own origin.

    Args:
        model: the robot.
        groups: its groups.
        poses: of every group, about its origin.
        moving: velocity of every group, about its origin.
        origins: where these origins are in the world.
        friction: factor on Coulomb's coefficient (batch,), None for the model's own.

    Returns:
        One wrench per group; `NO_WRENCH` where a group has no shape that touches another.
    """
    tables = pair_tables(model)
    if tables is None:
        return [NO_WRENCH] * len(groups)
    common = common_origin(origins)
    shifts = [vsub(origin, common) for origin in origins]
    placed = place_shapes(tables, poses, moving, shifts, common, friction)
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
        result[s.group] = add_motion(result[s.group], Wrench(moment, own.linear))
    return result


def common_origin(origins: list[Vector]) -> Vector:
    """Every root has an origin of its own, pairs need one for all: the first link's."""
    return vector(x[:1] if isinstance(x, jax.Array) else x for x in origins[0])


def _rows(wrench: Wrench, rows: slice, summed: bool) -> Wrench:
    def take(x: Array) -> Array:
        part = lax.slice_in_dim(x, rows.start, rows.stop)
        return jnp.sum(part, axis=0, keepdims=True) if summed else part

    result: Wrench = jax.tree.map(take, wrench)
    return result


def place_shapes(
    tables: PairTables,
    poses: list[Pose],
    moving: list[Motion],
    shifts: list[Vector],
    origin: Vector,
    friction: Array | None,
) -> Placed:
    """All shapes about the common origin, which `shifts` lead to from each group's own."""
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

    def all_sets(parts: list[Vector]) -> Vector:
        return vector(stack([part[k] for part in parts]) for k in range(3))

    x, y, z = (all_sets([rotation[k] for rotation in rotations]) for k in range(3))
    if friction is not None:
        friction = jnp.broadcast_to(friction, (sum(sizes), batch))
    return Placed(
        all_sets(centers), (x, y, z), Motion(all_sets(angular), all_sets(linear)), friction
    )


def _differentiable(tables: PairTables) -> Any:
    """Wrenches on all shapes, six components over (G, batch), as a function of `Placed`."""

    @jax.custom_vjp
    def wrenches(placed: Placed) -> Wrench:
        rows = pack(placed)

        def one_round(slots: Slots, chosen: Array, total: Array) -> Array:
            return total.at[chosen].add(_slot_wrenches(tables, slots, rows[chosen])[0])

        near = may_touch(tables, placed)
        return _by_shape(placed, _work_off(list_pairs(near), 0.0 * rows[:, :6], one_round, SLOTS))

    def forward(placed: Placed) -> tuple[Wrench, tuple[Placed, Array]]:
        rows = pack(placed)

        def one_round(
            slots: Slots, chosen: Array, carry: tuple[Array, Array]
        ) -> tuple[Array, Array]:
            added, touching = _slot_wrenches(tables, slots, rows[chosen])
            return carry[0].at[chosen].add(added), mark_slots(slots, touching, carry[1])

        near = may_touch(tables, placed)
        start = 0.0 * rows[:, :6], near & False
        total, touching = _work_off(list_pairs(near), start, one_round, SLOTS)
        return _by_shape(placed, total), (placed, checkpoint_name(touching, SAVED))

    def backward(residual: tuple[Placed, Array], cotangent: Wrench) -> tuple[Placed]:
        placed, touching = residual
        rows, unpack = jax.vjp(pack, placed)
        cotangents = pack(cotangent)

        def one_round(slots: Slots, chosen: Array, total: Array) -> Array:
            _, vjp = jax.vjp(lambda own: _slot_wrenches(tables, slots, own)[0], rows[chosen])
            return total.at[chosen].add(vjp(cotangents[chosen])[0])

        # Pairs that were near without touching have no derivative.
        (result,) = unpack(_work_off(list_pairs(touching), 0.0 * rows, one_round, BACKWARD_SLOTS))
        return (result,)

    wrenches.defvjp(forward, backward)
    return wrenches


def pack(components: Any) -> Array:
    """Components over (G, batch) as one row per shape and environment (G * batch, components)."""
    return jnp.stack([x.reshape(-1) for x in jax.tree.leaves(components)], axis=-1)


def _by_shape(placed: Placed, rows: Array) -> Wrench:
    components = rows.reshape(*placed.center[0].shape, 6)
    parts = [components[:, :, k] for k in range(6)]
    return Wrench(vector(parts[:3]), vector(parts[3:]))


def _work_off(listed: Listed, start: Any, one_round: Any, slots: int) -> Any:
    """What is left of `start` after as many rounds as the listed pairs need.

    The order of the sums is that of the list, so it does not depend on how the rounds fall.

    Args:
        listed: which directed pairs.
        start: arrays to begin with.
        one_round: given slots, the row numbers of A, B, A, B, ... (2 slots,) and the arrays so far,
            the next ones.
        slots: per environment, of one round.
    """
    total, batch = listed.environment_ends[-1], len(listed.environment_ends)
    size = slots * batch

    def body(carry: tuple[Array, Any]) -> tuple[Array, Any]:
        first, result = carry
        taken = take_slots(listed, first, size)
        chosen = jnp.stack([taken.a, taken.b], axis=1) * batch + taken.environment[:, None]
        return first + size, one_round(taken, chosen.reshape(-1), result)

    return lax.while_loop(lambda carry: carry[0] < total, body, (total * 0, start))[1]


def _slot_wrenches(tables: PairTables, slots: Slots, rows: Array) -> tuple[Array, Array]:
    """Wrenches on A and B of each slot (2 slots, 6): A, B, A, B, ..., see `edge_forces`.

    And whether the two touch (slots,).
    """
    b, on_a, on_b, force = edge_forces(tables, slots, rows)
    wrench_a = _to_world(b, on_a, force)
    wrench_b = _to_world(b, on_b, scale(-1.0, force))
    sizes = jnp.abs(force[0]) + jnp.abs(force[1]) + jnp.abs(force[2])
    touching = (sizes != 0.0).any(axis=0)
    return jnp.stack([pack(wrench_a), pack(wrench_b)], axis=1).reshape(-1, 6), touching


def edge_forces(
    tables: PairTables, slots: Slots, rows: Array
) -> tuple[Placed, Vector, Vector, Vector]:
    """B of each slot, and for each edge of A the contact point on A and on B, and the force on A.

    Points and forces are in B's frame about B's centre, components over (12, slots); forces are
    zero where there is no contact.

    Args:
        tables: constants.
        slots: who is in them.
        rows: `Placed` of A, B, A, B, ... (2 slots, 18, or 19 with a factor of friction).
    """
    a, b = _unpack(rows[0::2]), _unpack(rows[1::2])

    def of(geom: Array, values: tuple[Scalar, ...]) -> list[Scalar]:
        return [x if isinstance(x, float) else x[:, 0][geom] for x in typed(values, rows.dtype)]

    shapes = (*tables.half_extents, tables.radius, tables.share, tables.box)
    size_a, size_b = Size(*of(slots.a, shapes)), Size(*of(slots.b, shapes))
    if tables.cylinder is not None:
        size_b = size_b._replace(cylinder=of(slots.b, (tables.cylinder,))[0])
    materials = zip(of(slots.a, tables.material), of(slots.b, tables.material), strict=True)
    material = [0.5 * (x + y) for x, y in materials]
    if tables.slippery is not None:
        sticky = jnp.asarray(1.0 - tables.slippery, rows.dtype)
        material[3] = material[3] * sticky[slots.a, slots.b]
    if a.friction is not None:
        material[3] = material[3] * a.friction
    on_a, on_b, normal, distance = points(a, b, size_a, size_b, tables.attract_inside)
    relative = vsub(_velocity_at(a, b, on_a), _velocity_at(b, b, on_b))
    active = (distance < 0.0) & slots.used
    force = vector(
        jnp.where(active, size_a.share * f, 0.0)
        for f in _force(distance, normal, relative, material)
    )
    return b, on_a, on_b, force


def _unpack(rows: Array) -> Placed:
    c = rows.T
    columns = ((c[3], c[4], c[5]), (c[6], c[7], c[8]), (c[9], c[10], c[11]))
    return Placed(
        center=(c[0], c[1], c[2]),
        rotation=columns,
        velocity=Motion((c[12], c[13], c[14]), (c[15], c[16], c[17])),
        friction=c[18] if len(c) > 18 else None,
    )


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
    inverse_speed = lax.rsqrt(jnp.maximum(dot(sliding, sliding), TINY))
    brake = jnp.minimum(friction_stiffness, friction * load * inverse_speed)
    return vsub(scale(load, normal), scale(brake, sliding))


def _to_world(frame: Placed, point: Vector, force: Vector) -> Wrench:
    """Sum over a slot's edges of forces at points, from B's frame to a wrench at the origin."""
    moment = vector(jnp.sum(m, axis=0) for m in cross(point, force))
    total = vector(jnp.sum(f, axis=0) for f in force)
    linear = rotate(frame.rotation, total)
    return Wrench(vadd(rotate(frame.rotation, moment), cross(frame.center, linear)), linear)
