"""One substep: how a control step is cut, the forces on every joint, and the integration.

The mass matrix belongs to an interval of substeps. `rpo.physics.step` makes XLA's program of these
functions, `rpo.physics.kernel` a GPU kernel of the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp

from rpo.physics import dynamics, joints, kinematics
from rpo.physics.contact import Wrench, ground_wrench
from rpo.physics.drag import box_sets, drag_wrench
from rpo.physics.factors import NOMINAL, Factors, gravity_of
from rpo.physics.kinematics import Components, Motion, Pose
from rpo.physics.model import JointType, Model
from rpo.physics.pairs import pair_wrenches
from rpo.physics.plane_contact import plane_sets, plane_wrench, varied_planes
from rpo.physics.spatial import Scalar, Vector, add, cross, is_constant, sub, vadd, vsub
from rpo.physics.tension import cord_wrenches, tendon_forces
from rpo.physics.topology import Group

Kernel: TypeAlias = Literal["xla", "pallas", "interpret"]
"""What the control step is compiled by; see `StepSettings`."""


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """How a control step is cut.

    Args:
        control_dt: duration of a control step in s.
        substeps: physics steps in it.
        mass_matrix_interval: substeps that share one factored mass matrix; divides `substeps`.
        kernel: `xla`: the program that XLA makes of it, everywhere. `pallas`: one GPU kernel per
            step (`rpo.physics.kernel`). `interpret`: that kernel's program without a GPU, slow, for
            tests.

    Raises:
        ValueError: if a figure is not positive, the interval does not divide the substeps, or there
            is no such kernel.
    """

    control_dt: float = 1.0 / 60.0
    substeps: int = 16
    mass_matrix_interval: int = 16
    kernel: Kernel = "xla"

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
        if self.kernel not in get_args(Kernel):
            raise ValueError(
                f"kernel is {self.kernel!r}, must be one of {', '.join(get_args(Kernel))}"
            )


State = tuple[list[Components], list[Components]]
"""Coordinates and velocities by group, about the origin of the control step."""


@dataclasses.dataclass(frozen=True)
class Constants:
    """What does not change during a control step.

    Args:
        model: the robot.
        groups: its groups, of which all lists below have one entry each.
        dt: duration of a substep in s.
        start: coordinates at the start of the control step.
        origins: where each group's origin is in the world.
        forces: along the joints.
        factors: by what each robot of the batch differs from the model; those on masses, inertias
            and the ground's friction are in the groups already.
    """

    model: Model
    groups: tuple[Group, ...]
    dt: float
    start: list[Components]
    origins: list[Vector]
    forces: list[Components]
    factors: Factors = NOMINAL


def mass_matrix(
    groups: tuple[Group, ...], state: State
) -> tuple[dynamics.Solver, dynamics.Entries]:
    """The solver of an interval that starts in `state`, and the matrix' entries that vary."""
    poses = kinematics.link_poses(groups, state[0])
    matrix = dynamics.mass_matrix(groups, poses, kinematics.motion_subspaces(groups, poses))
    solver = dynamics.Solver(groups, matrix)
    return solver, _broadcast(solver.varying(matrix), state)


def substep(
    constants: Constants, solve: Callable[[dynamics.Forces], dynamics.Forces], state: State
) -> State:
    """The state one substep later.

    Args:
        constants: of the control step.
        solve: accelerations from forces, by the interval's mass matrix.
        state: before the substep.
    """
    groups, dt = constants.groups, constants.dt
    acceleration = solve(_generalised_forces(constants, state))
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
    return [q for q, _ in moved], [v for _, v in moved]


def begin(
    groups: tuple[Group, ...], start: list[Components], velocities: list[Components]
) -> State:
    """State about the step's origin, from coordinates and velocities in the world."""
    return [joints.about_origin(g, c) for g, c in zip(groups, start, strict=True)], velocities


def end(groups: tuple[Group, ...], start: list[Components], state: State) -> State:
    """Inverse of `begin`: coordinates and velocities in the world."""
    coordinates, velocities = state
    moved = [joints.in_world(*args) for args in zip(groups, start, coordinates, strict=True)]
    return moved, [_at_link(*args) for args in zip(groups, coordinates, velocities, strict=True)]


def _at_link(group: Group, q: Components, qd: Components) -> Components:
    """Velocity of the free link's own origin, from the twist about the step's origin."""
    if group.kind is not JointType.FREE:
        return qd
    return (*vadd(qd[:3], cross(qd[3:], q[:3])), *qd[3:])


def _broadcast(entries: dynamics.Entries, state: State) -> dynamics.Entries:
    """Give every entry its group's full shape, the one its cotangent will have."""
    shapes = [components[0].shape for components in state[1]]
    return {
        (k, i): value if value.shape == shapes[k[0]] else jnp.broadcast_to(value, shapes[k[0]])
        for (k, i), value in entries.items()
    }


def _generalised_forces(constants: Constants, state: State) -> dynamics.Forces:
    """Right-hand side of H qdd = tau."""
    model, groups = constants.model, constants.groups
    start, origins, forces = constants.start, constants.origins, constants.forces
    coordinates, velocities = state
    poses = kinematics.link_poses(groups, coordinates)
    subspaces = kinematics.motion_subspaces(groups, poses)
    moving = kinematics.link_velocities(groups, subspaces, velocities)
    factors = constants.factors
    gravity = gravity_of(model, factors)
    wrenches = dynamics.bias_wrenches(groups, poses, subspaces, velocities, moving, gravity)
    between = pair_wrenches(model, groups, poses, moving, origins, factors.friction)
    others = _other_wrenches(model, groups, factors, poses, moving, origins)
    for g, group in enumerate(groups):
        ground = ground_wrench(group, poses[g], moving[g], origins[g][2])
        for external in (ground, between[g], *others[g]):
            wrenches[g] = Wrench(*map(vsub, wrenches[g], external))
    needed = dynamics.project_wrenches(groups, subspaces, wrenches)
    tau: dynamics.Forces = {}
    tendons: list[Scalar] = [0.0] * len(groups)
    if model.tendons.names:
        positions = [q[0] for q in map(joints.in_world, groups, start, coordinates)]
        tendons = tendon_forces(model, groups, factors, positions, velocities, forces)
    for g, group in enumerate(groups):
        for c in range(group.kind.velocities):
            applied: Scalar = 0.0
            if group.kind is not JointType.FREE:
                (q,) = joints.in_world(group, start[g], coordinates[g])
                applied = joints.joint_force(group, q, velocities[g][0], forces[g][0])
                applied = add(applied, tendons[g])
            value = sub(applied, needed[g, c])
            assert not is_constant(value)
            shape = velocities[g][c].shape
            tau[g, c] = value if value.shape == shape else jnp.broadcast_to(value, shape)
    return tau


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
