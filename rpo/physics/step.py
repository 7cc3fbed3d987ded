"""One control step: substeps of the equations of motion, the mass matrix refreshed now and then."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from rpo.physics import dynamics, joints, kinematics
from rpo.physics.contact import Wrench, ground_wrench
from rpo.physics.drag import box_sets, drag_wrench
from rpo.physics.factors import NOMINAL, Factors, gravity_of, varied_groups
from rpo.physics.kinematics import Components, Motion, Pose
from rpo.physics.model import JointType, Model
from rpo.physics.pairs import SAVED, pair_wrenches
from rpo.physics.plane_contact import plane_sets, plane_wrench, varied_planes
from rpo.physics.spatial import Scalar, Vector, add, cross, is_constant, sub, vadd, vsub
from rpo.physics.tension import cord_wrenches, tendon_forces
from rpo.physics.topology import Group, groups_of


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """How a control step is cut.

    Args:
        control_dt: duration of a control step in s.
        substeps: physics steps in it.
        mass_matrix_interval: substeps that share one factored mass matrix; divides `substeps`.

    Raises:
        ValueError: if a figure is not positive or the interval does not divide the substeps.
    """

    control_dt: float = 1.0 / 60.0
    substeps: int = 16
    mass_matrix_interval: int = 16

    def __post_init__(self) -> None:
        if not self.control_dt > 0:
            raise ValueError(f"control_dt must be positive, got {self.control_dt}")
        if self.substeps < 1 or self.mass_matrix_interval < 1:
            raise ValueError("substeps and mass_matrix_interval must be at least 1")
        if self.substeps % self.mass_matrix_interval:
            raise ValueError(
                f"mass_matrix_interval {self.mass_matrix_interval} must divide "
                f"substeps {self.substeps}"
            )


State = tuple[list[Components], list[Components]]
"""Coordinates and velocities by group, about the origin of the control step."""


def control_step(
    model: Model,
    settings: StepSettings,
    q: Array,
    qd: Array,
    joint_force: Array,
    factors: Factors = NOMINAL,
) -> tuple[Array, Array]:
    """Advance a batch of robots by one control step under constant joint forces.

    The derivative is that of this discrete map, the path through the cached mass matrix included.

    Args:
        model: the robot.
        settings: how the step is cut.
        q: coordinates (nq, batch); see `Model` for their order.
        qd: velocities (nv, batch).
        joint_force: force or torque along each joint (nv, batch); rows of a free joint are ignored.
        factors: by what each robot of the batch differs from the model; strength counts for the
            servos' springs and dampers only, since motors are part of `joint_force`.

    Returns:
        q and qd after the step, in the shapes and precision given.
    """
    factors = jax.tree.map(lambda factor: factor.astype(q.dtype), factors)
    groups = varied_groups(groups_of(model), factors)
    coordinate_rows = [group.coordinates for group in groups]
    velocity_rows = [group.velocities for group in groups]
    start = joints.split(q, coordinate_rows)
    forces = joints.split(joint_force, velocity_rows)
    origins = kinematics.origins(groups, start)
    velocities = joints.split(qd, velocity_rows)
    state: State = (
        [joints.about_origin(g, c) for g, c in zip(groups, start, strict=True)],
        velocities,
    )
    interval = _make_interval(model, settings, groups, factors, start, origins, forces)
    intervals = settings.substeps // settings.mass_matrix_interval
    if intervals == 1:
        state = interval(state)
    else:
        state, _ = lax.scan(lambda s, _: (interval(s), None), state, length=intervals)
    coordinates, velocities = state
    end = [joints.in_world(*args) for args in zip(groups, start, coordinates, strict=True)]
    settled = [_at_link(*args) for args in zip(groups, coordinates, velocities, strict=True)]
    return joints.join(end, coordinate_rows), joints.join(settled, velocity_rows)


def _at_link(group: Group, q: Components, qd: Components) -> Components:
    """Velocity of the free link's own origin, from the twist about the step's origin."""
    if group.kind is not JointType.FREE:
        return qd
    return (*vadd(qd[:3], cross(qd[3:], q[:3])), *qd[3:])


def _make_interval(
    model: Model,
    settings: StepSettings,
    groups: tuple[Group, ...],
    factors: Factors,
    start: list[Components],
    origins: list[Vector],
    forces: list[Components],
) -> Callable[[State], State]:
    """The function that advances the state by the substeps that share a mass matrix."""
    dt = settings.control_dt / settings.substeps

    def interval(state: State) -> State:
        poses = kinematics.link_poses(groups, state[0])
        matrix = dynamics.mass_matrix(groups, poses, kinematics.motion_subspaces(groups, poses))
        solver = dynamics.Solver(groups, matrix)
        varying = _broadcast(groups, solver.varying(matrix), state)
        factor, constants = solver.factorise(lax.stop_gradient(varying))

        def substep(state: State, _: None) -> tuple[State, None]:
            tau = _generalised_forces(model, groups, factors, start, origins, forces, state)
            acceleration = solver(varying, factor, constants, tau)
            coordinates, velocities = state
            moved = [
                joints.integrate(
                    group,
                    coordinates[g],
                    velocities[g],
                    tuple(acceleration[g, c] for c in range(group.kind.velocities)),
                    dt,
                )
                for g, group in enumerate(groups)
            ]
            return ([q for q, _ in moved], [v for _, v in moved]), None

        # Contact between links is searched for once; the rest is cheaper recomputed than kept.
        kept = jax.checkpoint_policies.save_only_these_names(SAVED)
        checkpointed = jax.checkpoint(substep, policy=kept)
        state, _ = lax.scan(checkpointed, state, length=settings.mass_matrix_interval)
        return state

    return interval


def _broadcast(
    groups: tuple[Group, ...], entries: dynamics.Entries, state: State
) -> dynamics.Entries:
    """Give every entry its group's full shape, the one its cotangent will have."""
    batch = state[1][0][0].shape[1]
    return {
        (k, i): value
        if value.shape == (groups[k[0]].size, batch)
        else jnp.broadcast_to(value, (groups[k[0]].size, batch))
        for (k, i), value in entries.items()
    }


def _generalised_forces(
    model: Model,
    groups: tuple[Group, ...],
    factors: Factors,
    start: list[Components],
    origins: list[Vector],
    forces: list[Components],
    state: State,
) -> dynamics.Forces:
    """Right-hand side of H qdd = tau."""
    coordinates, velocities = state
    poses = kinematics.link_poses(groups, coordinates)
    subspaces = kinematics.motion_subspaces(groups, poses)
    moving = kinematics.link_velocities(groups, subspaces, velocities)
    gravity = gravity_of(model, factors)
    wrenches = dynamics.bias_wrenches(groups, poses, subspaces, velocities, moving, gravity)
    between = pair_wrenches(model, groups, poses, moving, origins, factors.friction)
    others = _other_wrenches(model, groups, factors, poses, moving, origins)
    for g, group in enumerate(groups):
        ground = ground_wrench(group, poses[g], moving[g], origins[g][2])
        for external in (ground, between[g], *others[g]):
            angular = vsub(wrenches[g].angular, external.angular)
            wrenches[g] = Wrench(angular, vsub(wrenches[g].linear, external.linear))
    needed = dynamics.project_wrenches(groups, subspaces, wrenches)
    tau: dynamics.Forces = {}
    tendons: list[Scalar] = [0.0] * len(groups)
    if model.tendons.names:
        positions = [_in_world(*args) for args in zip(groups, start, coordinates, strict=True)]
        tendons = tendon_forces(model, groups, factors, positions, velocities)
    for g, group in enumerate(groups):
        for c in range(group.kind.velocities):
            applied: Scalar = 0.0
            if group.kind is not JointType.FREE:
                q = _in_world(group, start[g], coordinates[g])
                applied = joints.joint_force(group, q, velocities[g][0], forces[g][0])
                applied = add(applied, tendons[g])
            value = sub(applied, needed[g, c])
            assert not is_constant(value)
            shape = velocities[g][c].shape
            tau[g, c] = value if value.shape == shape else jnp.broadcast_to(value, shape)
    return tau


def _in_world(group: Group, start: Components, coordinates: Components) -> Scalar:
    """First coordinate of a joint, not as a displacement (of no use for a free joint)."""
    return add(start[0], coordinates[0]) if group.base else coordinates[0]


def _other_wrenches(
    model: Model,
    groups: tuple[Group, ...],
    factors: Factors,
    poses: list[Pose],
    moving: list[Motion],
    origins: list[Vector],
) -> list[list[Wrench]]:
    """What few robots have: planes besides the ground, a fluid, cords. By group."""
    result: list[list[Wrench]] = [[] for _ in groups]
    planes, boxes = plane_sets(model), box_sets(model)
    cords = cord_wrenches(model, groups, poses, moving, origins) if model.cords.names else None
    for g, group in enumerate(groups):
        if planes is not None:
            sets = varied_planes(planes[g], factors)
            wrench = plane_wrench(sets, group.size, poses[g], moving[g], origins[g])
            result[g].append(wrench)
        if boxes is not None:
            result[g].append(drag_wrench(boxes[g], group.size, poses[g], moving[g]))
        if cords is not None:
            result[g].append(cords[g])
    return result
