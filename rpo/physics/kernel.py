"""A control step as one GPU kernel, from the same source as XLA's program; so is its derivative.

One environment per lane, one block of environments per program of the grid (Pallas, lowered through
Triton). Every link is a group of its own here, so that each number of the state is one array of
shape (block,): one register of each lane. The forward kernel writes down the state before every
substep. The backward kernel goes through them in reverse and applies the transpose of one substep
at a time, which it recomputes; the mass matrix is that of the interval's first state, and its
derivative goes by `dynamics.Solver` as everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from rpo.errors import SettingsError
from rpo.physics import kinematics
from rpo.physics.factors import NOMINAL, Factors
from rpo.physics.kinematics import Components
from rpo.physics.model import JointType, Model
from rpo.physics.substep import Constants, State, StepSettings, begin, end, mass_matrix, substep
from rpo.physics.topology import Group, groups_of

BLOCK = 32
"""Environments of one program of the grid: one per lane of a warp."""

_UNKNOWN_FACTORS = ("mass", "inertia", "friction", "gravity")


def control_step(
    model: Model,
    settings: StepSettings,
    q: Array,
    qd: Array,
    joint_force: Array,
    factors: Factors = NOMINAL,
) -> tuple[Array, Array]:
    """As `rpo.physics.step.control_step`, where `settings.kernel` is not `xla`.

    Raises:
        SettingsError: in one line, if there is no GPU, or if the robot, or what is randomised of
            it, is not for the kernel.
    """
    varied = [name for name in _UNKNOWN_FACTORS if getattr(factors, name) is not None]
    if varied:
        raise SettingsError(
            f"the kernel does not know randomised {', '.join(varied)}: use kernel = 'xla'"
        )
    interpret = settings.kernel == "interpret"
    platform = jax.default_backend()
    if not interpret and platform != "gpu":
        raise SettingsError(
            f"kernel is 'pallas', which needs a GPU; JAX runs on {platform}: use kernel = 'xla'"
        )
    return kernel_step(model, settings, q, qd, joint_force, interpret=interpret)


def kernel_step(
    model: Model,
    settings: StepSettings,
    q: Array,
    qd: Array,
    joint_force: Array,
    *,
    block: int = BLOCK,
    interpret: bool = False,
) -> tuple[Array, Array]:
    """The kernel itself, on whatever the program is lowered for.

    Args:
        model: the robot; its links must not touch one another.
        settings: how the step is cut; its `kernel` is not looked at.
        q: coordinates (nq, batch).
        qd: velocities (nv, batch).
        joint_force: along each joint (nv, batch).
        block: environments of one program, a power of two; the batch is filled up to a multiple.
        interpret: run the kernel's program by XLA, as a loop over blocks.

    Returns:
        q and qd after the step, in the shapes and precision given; differentiable in reverse mode.

    Raises:
        SettingsError: if the robot has what the kernel does not know.
    """
    refuse_unsupported(model)
    plan = _Plan(model, settings, groups_of(model, apart=True), block, interpret)

    @jax.custom_vjp
    def step(q: Array, qd: Array, force: Array) -> tuple[Array, Array]:
        q, qd = _call(plan, _advance, (q, qd, force), _shapes(q, qd))
        return q, qd

    def forward(q: Array, qd: Array, force: Array) -> tuple[tuple[Array, Array], tuple[Any, ...]]:
        saved = (settings.substeps + 1, model.nq + model.nv)
        end_q, end_qd, states = _call(plan, _advance, (q, qd, force), [*_shapes(q, qd), saved])
        return (end_q, end_qd), (q, force, states)

    def backward(
        residuals: tuple[Array, Array, Array], cotangents: tuple[Array, Array]
    ) -> tuple[Array, ...]:
        q, force, states = residuals
        arrays = (q, force, states, *cotangents)
        transposed: tuple[Array, ...] = _call(plan, _retreat, arrays, _shapes(q, force, force))
        return transposed

    step.defvjp(forward, backward)
    batch = q.shape[1]
    inputs, missing = [q, qd, joint_force], -batch % block
    if missing:  # the last environment is repeated
        inputs = [jnp.pad(x, ((0, 0), (0, missing)), mode="edge") for x in inputs]
    q, qd = step(*inputs)
    return q[:, :batch], qd[:, :batch]


def refuse_unsupported(model: Model) -> None:
    """Refuses a robot that has what the kernel does not know.

    Raises:
        SettingsError: in one line.
    """
    found = {
        "links that touch one another": len(model.geoms.pairs),
        "contact with planes besides the ground": len(model.planes.link),
        "tendons": len(model.tendons.names) + len(model.cords.names),
        "a fluid": len(model.fluid.link),
        "exchanged inertias": model.inertia_link is not None,
    }
    unknown = [what for what, present in found.items() if present]
    if unknown:
        raise SettingsError(
            f"{model.name} has {', '.join(unknown)}, which the kernel does not know: "
            "use kernel = 'xla'"
        )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a kernel is made from."""

    model: Model
    settings: StepSettings
    groups: tuple[Group, ...]
    block: int
    interpret: bool

    @property
    def dt(self) -> float:
        return self.settings.control_dt / self.settings.substeps

    @property
    def coordinate_rows(self) -> list[list[int]]:
        """Row of q of each component, by group."""
        return [[rows[0] for rows in group.coordinates] for group in self.groups]

    @property
    def velocity_rows(self) -> list[list[int]]:
        """Row of qd of each component, by group."""
        return [[rows[0] for rows in group.velocities] for group in self.groups]

    @property
    def origin_components(self) -> list[int]:
        """How many of each joint's coordinates, its first, move the origin; the start of a control
        step enters its substeps by these alone."""
        return [3 if g.kind is JointType.FREE else int(g.base) for g in self.groups]

    @property
    def force_components(self) -> list[int]:
        """How many forces each joint takes."""
        return [0 if group.kind is JointType.FREE else 1 for group in self.groups]

    def constants(self, start: list[Components], forces: list[Components]) -> Constants:
        origins = kinematics.origins(self.groups, start)
        return Constants(self.model, self.groups, self.dt, start, origins, forces)


def _advance(plan: _Plan, q_in: Any, qd_in: Any, force: Any, q: Any, qd: Any, *saved: Any) -> None:
    """Kernel: one control step.

    Args:
        plan: what it is made from.
        q_in: reference to the coordinates before the step (nq, block).
        qd_in: to the velocities (nv, block).
        force: to the joint forces (nv, block).
        q: where the coordinates after the step go.
        qd: where the velocities go.
        *saved: where the state before every substep, and after the last, goes, if anywhere
            (substeps + 1, nq + nv, block).
    """
    start = _load(q_in, plan.coordinate_rows)
    constants = plan.constants(start, _load(force, plan.velocity_rows))
    each = plan.settings.mass_matrix_interval

    def interval(i: Array, state: State) -> State:
        solver, varying = mass_matrix(plan.groups, state)
        factor, fixed = solver.factorise(varying)
        solve = functools.partial(solver.substitute, {**fixed, **factor})

        def one(k: Array, state: State) -> State:
            for ref in saved:
                _write_down(ref, i * each + k, state)
            return substep(constants, solve, state)

        after: State = _loop(each, one, state)
        return after

    state = begin(plan.groups, start, _load(qd_in, plan.velocity_rows))
    state = _loop(plan.settings.substeps // each, interval, state)
    for ref in saved:
        _write_down(ref, plan.settings.substeps, state)
    coordinates, velocities = end(plan.groups, start, state)
    _store(q, plan.coordinate_rows, coordinates)
    _store(qd, plan.velocity_rows, velocities)


def _retreat(
    plan: _Plan,
    q: Any,
    force: Any,
    saved: Any,
    at_q: Any,
    at_qd: Any,
    to_q: Any,
    to_qd: Any,
    to_force: Any,
) -> None:
    """Kernel: the transpose of one control step's derivative.

    Args:
        plan: what it is made from.
        q: reference to the coordinates before the step.
        force: to the joint forces.
        saved: to the states that `_advance` wrote down.
        at_q: to the cotangent of the coordinates after the step.
        at_qd: to that of the velocities.
        to_q: where the cotangent of the coordinates before the step goes.
        to_qd: where that of the velocities goes.
        to_force: where that of the forces goes.
    """
    start, forces = _load(q, plan.coordinate_rows), _load(force, plan.velocity_rows)
    # Of these a substep needs what moves the origin, and the forces along joints.
    shifts = _first(start, plan.origin_components)
    pushes = _first(forces, plan.force_components)
    steps, each = plan.settings.substeps, plan.settings.mass_matrix_interval
    example: State = (start, forces)
    at_end = _read_back(saved, steps, example)
    _, transpose = jax.vjp(functools.partial(end, plan.groups), start, at_end)
    cotangents = _load(at_q, plan.coordinate_rows), _load(at_qd, plan.velocity_rows)
    of_start, of_state = transpose(cotangents)

    def interval(i: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        first = steps - each * (i + 1)
        solver, varying = mass_matrix(plan.groups, _read_back(saved, first, example))
        factor = solver.factorise(varying)

        def one(k: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            of_state, *rest = carry

            def advance(state: State, varying: Any, shifts: Any, pushes: Any) -> State:
                constants = plan.constants(_whole(shifts, start), _whole(pushes, forces))
                return substep(constants, functools.partial(solver, varying, *factor), state)

            state = _read_back(saved, first + each - 1 - k, example)
            _, transpose = jax.vjp(advance, state, varying, shifts, pushes)
            of_state, *more = transpose(of_state)
            return (of_state, *jax.tree.map(jnp.add, rest, more))

        of_state, of_shifts, of_pushes = carry
        carry = of_state, _zeros(varying), of_shifts, of_pushes
        of_state, of_varying, of_shifts, of_pushes = _loop(each, one, carry)
        # Only now, so that nothing of it has to be kept during the loop.
        _, transpose = jax.vjp(
            lambda state: mass_matrix(plan.groups, state)[1], _read_back(saved, first, example)
        )
        of_state = jax.tree.map(jnp.add, of_state, transpose(of_varying)[0])
        return of_state, of_shifts, of_pushes

    carry = of_state, _first(of_start, plan.origin_components), _zeros(pushes)
    of_state, of_shifts, of_pushes = _loop(steps // each, interval, carry)
    _, transpose = jax.vjp(functools.partial(begin, plan.groups), start, of_state[1])
    of_start, of_velocities = transpose(of_state)
    _store(to_q, plan.coordinate_rows, _whole(of_shifts, of_start))
    _store(to_qd, plan.velocity_rows, of_velocities)
    _store(to_force, plan.velocity_rows, _whole(of_pushes, _zeros(forces)))


def _first(values: list[Components], counts: list[int]) -> list[Components]:
    """The first few components of each group."""
    return [components[:count] for components, count in zip(values, counts, strict=True)]


def _whole(first: list[Components], values: list[Components]) -> list[Components]:
    """`values` with the first components of each group replaced."""
    return [(*new, *old[len(new) :]) for new, old in zip(first, values, strict=True)]


def _zeros(values: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, values)


def _loop(count: int, body: Any, carry: Any) -> Any:
    """`body(k, carry)` for k = 0, 1, ...; without a loop if there is but one."""
    return body(0, carry) if count == 1 else lax.fori_loop(0, count, body, carry)


def _load(ref: Any, rows: list[list[int]]) -> list[Components]:
    """Components by group, each (block,), from the rows of a reference."""
    return [tuple(ref[row, :] for row in group) for group in rows]


def _store(ref: Any, rows: list[list[int]], values: list[Components]) -> None:
    """Inverse of `_load`."""
    for group, components in zip(rows, values, strict=True):
        for row, component in zip(group, components, strict=True):
            ref[row, :] = component


def _write_down(ref: Any, index: Any, state: State) -> None:
    for row, component in enumerate(jax.tree.leaves(state)):
        ref[index, row, :] = component


def _read_back(ref: Any, index: Any, example: State) -> State:
    """State that `_write_down` wrote, in the structure of an example."""
    leaves, structure = jax.tree.flatten(example)
    values = [ref[index, row, :] for row in range(len(leaves))]
    state: State = jax.tree.unflatten(structure, values)
    return state


def _shapes(*arrays: Array) -> list[tuple[int, ...]]:
    return [array.shape[:-1] for array in arrays]


def _call(
    plan: _Plan, kernel: Any, inputs: tuple[Array, ...], outputs: list[tuple[int, ...]]
) -> Any:
    """Runs a kernel over the blocks of a batch.

    Args:
        plan: what the kernel is made from.
        kernel: its function of references.
        inputs: arrays whose last axis is the batch.
        outputs: shape of each output without that axis.
    """
    from jax.experimental import pallas as pl  # late: nobody else needs to wait for it
    from jax.experimental.pallas import triton

    batch, dtype = inputs[0].shape[-1], inputs[0].dtype

    def of_block(shape: tuple[int, ...]) -> Any:
        return pl.BlockSpec((*shape, plan.block), lambda i: (0,) * len(shape) + (i,))

    return pl.pallas_call(
        functools.partial(kernel, plan),
        grid=(batch // plan.block,),
        in_specs=[of_block(x.shape[:-1]) for x in inputs],
        out_specs=[of_block(shape) for shape in outputs],
        out_shape=[jax.ShapeDtypeStruct((*shape, batch), dtype) for shape in outputs],
        compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
        interpret=plan.interpret,
        name=f"{kernel.__name__.strip('_')}_{plan.model.name}",
    )(*inputs)
