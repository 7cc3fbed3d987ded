"""Forces, mass matrix, its sparse factor, and the solve with its derivative.

The mass matrix is a dictionary of its non-zero entries (Featherstone's branch-induced sparsity):
the keys are pairs of degrees of freedom, the second an ancestor of the first or the first itself.
It is factored as L^T D L, which fills nothing in.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rpo.physics.contact import NO_WRENCH, Wrench
from rpo.physics.joints import take_rows
from rpo.physics.kinematics import AT_REST, Components, Motion, Pose, add_motion, joint_motion
from rpo.physics.model import JointType
from rpo.physics.spatial import (
    Scalar,
    Symmetric,
    Vector,
    add,
    cross,
    dot,
    is_constant,
    mul,
    neg,
    point_mass_inertia,
    rotate,
    rotate_back,
    rotate_symmetric,
    scale,
    sub,
    symmetric_times,
    total,
    vadd,
    vector,
    vsub,
)
from rpo.physics.topology import Group, ancestors

Dof = tuple[int, int]
"""Group and component of its joint."""
Entries = dict[tuple[Dof, Dof], Scalar]
Forces = dict[Dof, Scalar]


def degrees_of_freedom(groups: tuple[Group, ...]) -> list[Dof]:
    """All degrees of freedom, ancestors first."""
    return [(g, c) for g, group in enumerate(groups) for c in range(group.kind.velocities)]


def dof_ancestors(groups: tuple[Group, ...], dof: Dof) -> Iterator[Dof]:
    """Degrees of freedom between this one and the world, nearest first."""
    g, component = dof
    yield from ((g, c) for c in reversed(range(component)))
    for parent in ancestors(groups, g):
        yield from ((parent, c) for c in reversed(range(groups[parent].kind.velocities)))


def sum_links(value: Scalar, size: int) -> Scalar:
    """Sum over a group's links, for their common parent."""
    if size == 1:
        return value
    if isinstance(value, np.ndarray):
        return float(value.sum())
    if is_constant(value) or value.shape[0] == 1:
        return mul(float(size), value)
    return jnp.sum(value, axis=0, keepdims=True)


def _sum_vector(value: Vector, group: Group) -> Vector:
    return vector(sum_links(x, group.size) for x in value) if group.summed else value


def bias_wrenches(
    groups: tuple[Group, ...],
    poses: list[Pose],
    subspaces: list[Motion],
    velocities: list[Components],
    moving: list[Motion],
    gravity: Vector,
) -> list[Wrench]:
    """Wrench each link needs to move as it does at zero joint acceleration, gravity included.

    a = a_parent + v x (S qd), then Newton and Euler at the centre of mass; gravity enters as an
    acceleration of the world, so that it costs nothing per link.
    """
    accelerations: list[Motion] = []
    wrenches = []
    world = Motion(AT_REST.angular, scale(-1.0, gravity))
    for g, group in enumerate(groups):
        above = world if group.parent < 0 else accelerations[group.parent]
        if group.kind is JointType.FREE:
            accelerations.append(above)
        else:
            joint = joint_motion(group, subspaces[g], velocities[g])
            accelerations.append(add_motion(above, _motion_cross(moving[g], joint)))
        wrenches.append(_newton_euler(group, poses[g], moving[g], accelerations[g]))
    return wrenches


def _motion_cross(v: Motion, m: Motion) -> Motion:
    linear = vadd(cross(v.angular, m.linear), cross(v.linear, m.angular))
    return Motion(cross(v.angular, m.angular), linear)


def _newton_euler(group: Group, pose: Pose, v: Motion, a: Motion) -> Wrench:
    if group.massless:
        return NO_WRENCH
    c = vadd(pose.position, rotate(pose.rotation, group.center_of_mass))
    speed = vadd(v.linear, cross(v.angular, c))
    acceleration = vadd(vadd(a.linear, cross(a.angular, c)), cross(v.angular, speed))
    force = scale(group.mass, acceleration)
    w = rotate_back(pose.rotation, v.angular)
    wdot = rotate_back(pose.rotation, a.angular)
    moment = vadd(symmetric_times(group.inertia, wdot), cross(w, symmetric_times(group.inertia, w)))
    return Wrench(vadd(rotate(pose.rotation, moment), cross(c, force)), force)


def project_wrenches(
    groups: tuple[Group, ...], subspaces: list[Motion], wrenches: list[Wrench]
) -> Forces:
    """S . (wrench of the link and all its descendants), for every degree of freedom."""
    total_wrench = list(wrenches)
    for g in reversed(range(len(groups))):
        group = groups[g]
        if group.parent >= 0:
            below = Wrench(*(_sum_vector(part, group) for part in total_wrench[g]))
            total_wrench[group.parent] = add_motion(total_wrench[group.parent], below)
    return {
        (g, c): value
        for g, group in enumerate(groups)
        for c, value in enumerate(_along_joint(group, subspaces[g], total_wrench[g]))
    }


def _along_joint(group: Group, subspace: Motion, wrench: Motion) -> tuple[Scalar, ...]:
    if group.kind is JointType.FREE:
        return (*wrench.linear, *wrench.angular)
    return (add(dot(subspace.angular, wrench.angular), dot(subspace.linear, wrench.linear)),)


def mass_matrix(groups: tuple[Group, ...], poses: list[Pose], subspaces: list[Motion]) -> Entries:
    """Non-zero entries of H = sum over links of S^T I S, plus the armature (composite bodies)."""
    composite = _composite_inertias(groups, poses)
    entries: Entries = {}
    for g, group in enumerate(groups):
        momenta = _momenta(group, subspaces[g], composite[g])
        for c, momentum in enumerate(momenta):
            here = _along_joint(group, subspaces[g], momentum)
            for d in range(c + 1):
                extra = group.armature[c] if d == c else 0.0
                entries[(g, c), (g, d)] = add(here[d], extra)
            for parent in ancestors(groups, g):
                along = _along_joint(groups[parent], subspaces[parent], momentum)
                for d, value in enumerate(along):
                    entries[(g, c), (parent, d)] = value
    return entries


Inertia = tuple[Scalar, Vector, Symmetric]
"""Mass, mass times centre, inertia about the origin."""


def _composite_inertias(groups: tuple[Group, ...], poses: list[Pose]) -> list[Inertia]:
    result: list[Inertia] = []
    for group, pose in zip(groups, poses, strict=True):
        c = vadd(pose.position, rotate(pose.rotation, group.center_of_mass))
        turned = rotate_symmetric(pose.rotation, group.inertia)
        offset = point_mass_inertia(group.mass, c)
        own = tuple(add(a, b) for a, b in zip(turned, offset, strict=True))
        result.append(_exchange(group, (group.mass, scale(group.mass, c), own)))
    for g in reversed(range(len(groups))):
        group = groups[g]
        if group.parent >= 0:
            (mass, first, second), (m, f, s) = result[group.parent], result[g]
            if group.summed:
                s = tuple(sum_links(value, group.size) for value in s)
                m, f = sum_links(m, group.size), _sum_vector(f, group)
            summed = tuple(add(a, b) for a, b in zip(second, s, strict=True))
            result[group.parent] = (add(mass, m), vadd(first, f), summed)
    return result


def _exchange(group: Group, inertia: Inertia) -> Inertia:
    """Inertias in the order in which they enter the mass matrix (`Model.inertia_link`)."""
    rows = group.inertia_rows
    if rows is None:
        return inertia

    def take(value: Scalar) -> Scalar:
        if np.ndim(value) == 0 or value.shape[0] == 1:
            return value
        if isinstance(value, np.ndarray):
            return value[list(rows)]
        return take_rows(value, rows)

    mass, first, second = inertia
    return take(mass), vector(map(take, first)), tuple(map(take, second))


def _momenta(group: Group, subspace: Motion, inertia: Inertia) -> list[Motion]:
    """I S for each component of the joint."""
    if group.kind is not JointType.FREE:
        return [_momentum(inertia, subspace)]
    unit: list[Vector] = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    still: Vector = (0.0, 0.0, 0.0)
    columns = [Motion(still, e) for e in unit] + [Motion(e, still) for e in unit]
    return [_momentum(inertia, column) for column in columns]


def _momentum(inertia: Inertia, v: Motion) -> Motion:
    mass, first, second = inertia
    linear = vsub(scale(mass, v.linear), cross(first, v.angular))
    return Motion(vadd(symmetric_times(second, v.angular), cross(first, v.linear)), linear)


class Solver:
    """H^-1 with a cached factor: `solver(matrix, factor, forces)` gives accelerations.

    The derivative never goes through the factorisation: for x = H^-1 b and a cotangent c of x, with
    l = H^-1 c, the cotangent of b is l and that of H is -l x^T on its non-zeros. Differentiating is
    right only for `factor == self.factorise(matrix)`.
    """

    def __init__(self, groups: tuple[Group, ...], matrix: Entries) -> None:
        self.groups = groups
        self.dofs = degrees_of_freedom(groups)
        self.above = {dof: list(dof_ancestors(groups, dof)) for dof in self.dofs}
        self.fixed = {key: value for key, value in matrix.items() if is_constant(value)}

    def varying(self, matrix: Entries) -> Entries:
        """The entries that depend on the state, each (links of the first dof, batch)."""
        return {key: value for key, value in matrix.items() if key not in self.fixed}

    def size(self, dof: Dof) -> int:
        """Links in the degree of freedom's group."""
        return self.groups[dof[0]].size

    def factorise(self, varying: Entries) -> tuple[Entries, Entries]:
        """L^T D L. Returns the entries of L, and of D^-1 on its diagonal, constants apart."""
        work = {**self.fixed, **varying}
        deferred: dict[tuple[Dof, Dof], dict[int, Scalar]] = {}
        lower: Entries = {}
        for k in reversed(self.dofs):
            row = [k, *self.above[k]]
            for i in row:
                for size, value in deferred.pop((k, i), {}).items():
                    work[k, i] = sub(work[k, i], sum_links(value, size))
            diagonal = work[k, k]
            inverse = 1.0 / diagonal if is_constant(diagonal) else jnp.reciprocal(diagonal)
            lower[k, k] = inverse
            for i in self.above[k]:
                lower[k, i] = mul(work[k, i], inverse)
            for a, i in enumerate(self.above[k]):
                for j in self.above[k][a:]:
                    change = mul(lower[k, i], work[k, j])
                    if self.size(i) == self.size(k):
                        work[i, j] = sub(work[i, j], change)
                    else:
                        sums = deferred.setdefault((i, j), {})
                        sums[self.size(k)] = add(sums.get(self.size(k), 0.0), change)
        traced = {key: value for key, value in lower.items() if not is_constant(value)}
        return traced, {key: value for key, value in lower.items() if is_constant(value)}

    def __call__(
        self, varying: Entries, factor: Entries, constants: Entries, forces: Forces
    ) -> Forces:
        """Accelerations H^-1 forces, differentiable in `varying` and `forces`."""

        @jax.custom_vjp
        def solve(varying: Entries, factor: Entries, forces: Forces) -> Forces:
            return self.substitute({**constants, **factor}, forces)

        def forward(
            varying: Entries, factor: Entries, forces: Forces
        ) -> tuple[Forces, tuple[Entries, Forces]]:
            x = self.substitute({**constants, **factor}, forces)
            return x, (factor, x)

        def backward(
            residuals: tuple[Entries, Forces], cotangent: Forces
        ) -> tuple[Entries, None, Forces]:
            factor, x = residuals
            y = self.substitute({**constants, **factor}, cotangent)
            matrix = {
                (k, i): neg(mul(y[k], x[k]))
                if k == i
                else neg(add(mul(y[k], x[i]), mul(y[i], x[k])))
                for k, i in keys
            }
            return matrix, None, y

        keys = list(varying)
        solve.defvjp(forward, backward)
        acceleration: Forces = solve(varying, factor, forces)
        return acceleration

    def substitute(self, lower: Entries, forces: Forces) -> Forces:
        """Accelerations from the factor, constants included; nothing here knows a derivative."""
        y = dict(forces)
        deferred: dict[Dof, dict[int, Scalar]] = {}
        for k in reversed(self.dofs):
            for size, value in deferred.pop(k, {}).items():
                y[k] = sub(y[k], sum_links(value, size))
            for i in self.above[k]:
                change = mul(lower[k, i], y[k])
                if self.size(i) == self.size(k):
                    y[i] = sub(y[i], change)
                else:
                    sums = deferred.setdefault(i, {})
                    sums[self.size(k)] = add(sums.get(self.size(k), 0.0), change)
        x: Forces = {}
        for k in self.dofs:
            known = total(*(mul(lower[k, i], x[i]) for i in self.above[k]))
            x[k] = sub(mul(y[k], lower[k, k]), known)
        return x
