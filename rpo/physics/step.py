"""One control step: substeps of the equations of motion, the mass matrix refreshed now and then."""

from __future__ import annotations

import functools

import jax
from jax import Array, lax

from rpo.physics import joints, kernel, kinematics
from rpo.physics.factors import NOMINAL, Factors, varied_groups
from rpo.physics.model import Model
from rpo.physics.pairs import SAVED
from rpo.physics.substep import Constants, State, StepSettings, begin, end, mass_matrix, substep
from rpo.physics.topology import groups_of

__all__ = ["StepSettings", "control_step"]


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

    Raises:
        SettingsError: in one line, if `settings.kernel` cannot run here or not with this robot.
    """
    if settings.kernel != "xla":
        return kernel.control_step(model, settings, q, qd, joint_force, factors)
    factors = jax.tree.map(lambda factor: factor.astype(q.dtype), factors)
    groups = varied_groups(groups_of(model), factors)
    coordinate_rows = [group.coordinates for group in groups]
    velocity_rows = [group.velocities for group in groups]
    start = joints.split(q, coordinate_rows)
    forces = joints.split(joint_force, velocity_rows)
    origins = kinematics.origins(groups, start)
    state = begin(groups, start, joints.split(qd, velocity_rows))
    dt = settings.control_dt / settings.substeps
    constants = Constants(model, groups, dt, start, origins, forces, factors)

    def interval(state: State) -> State:  # substeps that share a mass matrix
        solver, varying = mass_matrix(groups, state)
        factor = solver.factorise(lax.stop_gradient(varying))

        def one(state: State, _: None) -> tuple[State, None]:
            solve = functools.partial(solver, varying, *factor)
            return substep(constants, solve, state), None

        # Contact between links is searched for once; the rest is cheaper recomputed than kept.
        kept = jax.checkpoint_policies.save_only_these_names(SAVED)
        checkpointed = jax.checkpoint(one, policy=kept)
        return lax.scan(checkpointed, state, length=settings.mass_matrix_interval)[0]

    intervals = settings.substeps // settings.mass_matrix_interval
    if intervals == 1:
        state = interval(state)
    else:
        state, _ = lax.scan(lambda s, _: (interval(s), None), state, length=intervals)
    coordinates, velocities = end(groups, start, state)
    return joints.join(coordinates, coordinate_rows), joints.join(velocities, velocity_rows)
