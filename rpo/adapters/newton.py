"""Robots in the simulator Newton, for tasks of one's own: a control step as a JAX function.

Newton computes with Warp, which JAX calls through its foreign function interface; the derivative is
that of Warp's tape. A task calls `NewtonStep` in its `dynamics`.
"""

from __future__ import annotations

import inspect
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rpo.errors import SettingsError

try:
    import newton
    import warp as wp
except ModuleNotFoundError as missing:
    raise SettingsError("Newton is not installed: pip install 'rpo-jax[newton]'") from missing


class NewtonStep:
    """One control step of a batch of copies of a robot, which do not touch one another.

    Coordinates and velocities are in Newton's order: a free root has its position, then its
    quaternion (x, y, z, w), and the linear velocity before the angular one. The engine is Newton's
    `SolverFeatherstone`, on the CPU, in single precision.

    Args:
        mjcf: the robot, a path or MJCF text.
        control_dt: seconds of a control step.
        substeps: of Newton per control step.
        ground: whether there is a floor at height zero. Derivatives of a step in which something
            touches it are wrong in Newton 1.8.0.

    Attributes:
        start: coordinates of the robot as described (nq,).
        num_velocities: nv, entries of a velocity, and of a force.
    """

    def __init__(
        self, mjcf: str, control_dt: float, substeps: int = 16, ground: bool = True
    ) -> None:
        if control_dt <= 0 or substeps < 1:
            raise SettingsError(
                f"control_dt is {control_dt} and substeps is {substeps}, must be positive"
            )
        self._robot = newton.ModelBuilder()
        self._robot.add_mjcf(mjcf)
        self._ground, self._dt, self._substeps = ground, control_dt / substeps, substeps
        self._copies: dict[int, _Copies] = {}
        self._lock = threading.Lock()  # JAX may call for several devices at the same time
        self.start: Float[np.ndarray, " nq"] = np.array(self._robot.joint_q, np.float32)
        self.num_velocities = len(self._robot.joint_qd)
        self._call = jax.custom_vjp(self._forward)
        self._call.defvjp(self._forward_keeping, self._backward)
        names = ("q", "qd", "force")
        self._advance = _callable(self._run, names, ("q_out", "qd_out"))
        given = (*names, "q_gradient", "qd_gradient")
        self._differentiate = _callable(self._run_back, given, ("by_q", "by_qd", "by_force"))

    def __call__(
        self,
        q: Float[Array, "envs nq"],
        qd: Float[Array, "envs nv"],
        force: Float[Array, "envs nv"],
    ) -> tuple[Float[Array, "envs nq"], Float[Array, "envs nv"]]:
        """The coordinates and velocities after the step.

        Args:
            q: coordinates.
            qd: velocities.
            force: on every velocity, throughout the step.
        """
        after: tuple[Array, Array] = self._call(q, qd, force)
        return after

    def _forward(self, q: Array, qd: Array, force: Array) -> tuple[Array, Array]:
        rows = [x.astype(jnp.float32).ravel() for x in (q, qd, force)]
        dims = {"q_out": q.size, "qd_out": qd.size}
        after, speed = self._advance(*rows, output_dims=dims)
        return after.reshape(q.shape).astype(q.dtype), speed.reshape(qd.shape).astype(qd.dtype)

    def _forward_keeping(self, q: Array, qd: Array, force: Array) -> tuple[Any, Any]:
        return self._forward(q, qd, force), (q, qd, force)

    def _backward(self, kept: Any, gradients: Any) -> tuple[Array, ...]:
        rows = [x.astype(jnp.float32).ravel() for x in (*kept, *gradients)]
        names = ("by_q", "by_qd", "by_force")
        dims = {name: x.size for name, x in zip(names, kept, strict=True)}
        found = self._differentiate(*rows, output_dims=dims)
        return tuple(y.reshape(x.shape).astype(x.dtype) for x, y in zip(kept, found, strict=True))

    def _run(self, q: Any, qd: Any, force: Any, q_out: Any, qd_out: Any) -> None:
        with self._lock:
            last = self._of_size(q.size).advance(q, qd, force, None)
            wp.copy(q_out, last.joint_q)
            wp.copy(qd_out, last.joint_qd)

    def _run_back(
        self,
        q: Any,
        qd: Any,
        force: Any,
        q_gradient: Any,
        qd_gradient: Any,
        by_q: Any,
        by_qd: Any,
        by_force: Any,
    ) -> None:
        with self._lock:
            copies, tape = self._of_size(q.size), wp.Tape()
            last = copies.advance(q, qd, force, tape)
            tape.backward(grads={last.joint_q: q_gradient, last.joint_qd: qd_gradient})
            wp.copy(by_q, copies.states[0].joint_q.grad)
            wp.copy(by_qd, copies.states[0].joint_qd.grad)
            wp.copy(by_force, copies.control.joint_f.grad)
            tape.zero()

    def _of_size(self, entries: int) -> _Copies:
        """As many copies of the robot as have this many coordinates together."""
        count = entries // len(self.start)
        if count not in self._copies:
            self._copies[count] = _Copies(
                self._robot, count, self._dt, self._substeps, self._ground
            )
        return self._copies[count]


class _Copies:
    """A Newton model of several robots, with a state and a solver per substep for the tape to look
    back at: a solver keeps its mass matrix in one place, and the next substep overwrites it."""

    def __init__(
        self, robot: newton.ModelBuilder, count: int, dt: float, substeps: int, ground: bool
    ) -> None:
        builder = newton.ModelBuilder()
        builder.replicate(robot, count)
        if ground:
            builder.add_ground_plane()
        self.model = builder.finalize(device="cpu", requires_grad=True)
        self.solvers = [newton.solvers.SolverFeatherstone(self.model) for _ in range(substeps)]
        self.states = [self.model.state(requires_grad=True) for _ in range(substeps + 1)]
        self.control = self.model.control(requires_grad=True)
        self.dt = dt
        self.pipeline: Any = None
        self.contacts: list[Any] = [None] * substeps
        if ground:
            self.pipeline = newton.CollisionPipeline(self.model)
            self.contacts = [self.pipeline.contacts() for _ in range(substeps)]

    def advance(self, q: Any, qd: Any, force: Any, tape: wp.Tape | None) -> Any:
        """The last state of a control step, recorded on a tape if there is one."""
        first = self.states[0]
        wp.copy(first.joint_q, q)
        wp.copy(first.joint_qd, qd)
        wp.copy(self.control.joint_f, force)
        newton.eval_fk(self.model, first.joint_q, first.joint_qd, first)
        for k, (state, following) in enumerate(zip(self.states, self.states[1:], strict=False)):
            state.clear_forces()
            contacts, solver = self.contacts[k], self.solvers[k]
            if contacts is not None:
                self.pipeline.collide(state, contacts)  # which points touch is not differentiated
            if tape is None:
                solver.step(state, following, self.control, contacts, self.dt)
            else:
                with tape:
                    solver.step(state, following, self.control, contacts, self.dt)
        return self.states[-1]


def _callable(function: Any, given: tuple[str, ...], found: tuple[str, ...]) -> Any:
    """A JAX function of flat arrays that calls `function` with Warp's arrays on the same memory."""

    def call(*arrays: Any) -> None:
        function(*arrays)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    flat: Any = wp.array(dtype=float)
    call.__annotations__ = dict.fromkeys((*given, *found), flat)
    names = [inspect.Parameter(name, kind, annotation=flat) for name in call.__annotations__]
    vars(call)["__signature__"] = inspect.Signature(names)
    return wp.jax_callable(call, num_outputs=len(found), vmap_method="sequential")
