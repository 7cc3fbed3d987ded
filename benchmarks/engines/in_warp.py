"""The simulators written in Warp: MuJoCo Warp, and Newton with its articulated-body solver.

On a GPU a rollout is recorded as one CUDA graph; on a CPU Warp uses one core.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import warp as wp

from engines.robots import STEPS, Robot, Simulation, potential_contacts, random_actions


def build(name: str, robot: Robot, num_envs: int, gradient_envs: int, cores: int) -> Simulation:
    """On the GPU if Warp sees one, which `CUDA_VISIBLE_DEVICES` can prevent."""
    wp.init()
    make = {"mujoco-warp": _mujoco_warp, "newton": _newton}[name]
    return make(robot, num_envs, gradient_envs)


def _recorded(run: Any) -> Any:
    """`run`, which has run before; on a GPU as a graph, to the end of which is waited."""
    if not wp.get_device().is_cuda:
        return run
    with wp.ScopedCapture() as capture:
        run()

    def launch():
        wp.capture_launch(capture.graph)
        wp.synchronize()

    return launch


def _mujoco_warp(robot: Robot, num_envs: int, gradient_envs: int) -> Simulation:
    import mujoco_warp as mjw

    points, limits = potential_contacts(robot.model), robot.model.nu
    model = mjw.put_model(robot.model)
    data = mjw.make_data(robot.model, num_envs, nconmax=points, njmax=4 * points + limits)
    actions = wp.array(random_actions(num_envs, robot.model.nu), dtype=float)
    kept = [data.qpos, data.qvel, data.qacc_warmstart]
    start = [wp.clone(array) for array in kept]
    for array, values in zip(start, robot.starts(num_envs), strict=False):
        array.assign(values.astype(np.float32))

    def run():
        for array, values in zip(kept, start, strict=True):
            wp.copy(array, values)
        for action in range(STEPS):
            wp.copy(data.ctrl, actions[action])
            for _ in range(robot.substeps):
                mjw.step(model, data)

    run()
    for array, values in zip(start, kept, strict=True):
        wp.copy(array, values)
    recorded = _recorded(run)

    def forward():
        recorded()
        q = data.qpos.numpy()
        return q[:, 2], q[:, 0]

    return Simulation(
        timestep=robot.model.opt.timestep,
        substeps=robot.substeps,
        bits=32,
        cores=1,
        forward=forward,
        gradient=None,
        gradient_envs=0,
        derivative="none yet",
    )


_NEWTON_DAMPING = 100.0
"""Of a contact, N s/m, Newton's default. Our figure is per depth as well, which Newton has not."""


class _Newton:
    """Copies of the robot with a state per substep where a tape is to look back at them.

    Substeps, mass matrix and contact figures are ours. As in Newton's own examples of walking
    robots, contact points are sought once per control step.
    """

    def __init__(self, robot: Robot, num_envs: int, requires_grad: bool) -> None:
        import newton

        settings = robot.env.settings
        one = newton.ModelBuilder()
        material, joint = one.default_shape_cfg, one.default_joint_cfg
        material.ke, material.kd = settings.contact_stiffness, _NEWTON_DAMPING
        material.kf, material.mu = settings.friction_stiffness, settings.friction_coefficient
        joint.limit_ke, joint.limit_kd = settings.limit_stiffness, 0.0
        one.add_mjcf(robot.spec.to_xml())
        builder = newton.ModelBuilder()
        builder.replicate(one, num_envs)
        self.model = builder.finalize(requires_grad=requires_grad)
        self.substeps, self.dt = settings.substeps, robot.control_dt / settings.substeps
        # A solver keeps its mass matrix in one place, where the tape would find the latest one.
        self.solvers = [
            newton.solvers.SolverFeatherstone(
                self.model, update_mass_matrix_interval=settings.mass_matrix_interval
            )
            for _ in range(STEPS if requires_grad else 1)
        ]
        pipeline = newton.CollisionPipeline(self.model)
        number = STEPS * self.substeps + 1 if requires_grad else 2
        self.states = [self.model.state() for _ in range(number)]
        self.controls = [self.model.control() for _ in range(STEPS)]
        self.contacts = [pipeline.contacts() for _ in range(STEPS if requires_grad else 1)]
        self.collide, self.fk = pipeline.collide, newton.eval_fk
        self.strength = np.array(settings.strengths, np.float32)
        self.num_envs = num_envs
        torques = self.strength * random_actions(num_envs, len(self.strength))
        idle = np.zeros((STEPS, num_envs, 6), np.float32)
        for control, force in zip(
            self.controls, np.concatenate([idle, torques], axis=2), strict=True
        ):
            control.joint_f.assign(force.ravel())
        q, qd = robot.starts(num_envs)
        q[:, 3:7] = np.roll(q[:, 3:7], -1, axis=1)  # w x y z to x y z w
        self.start = [wp.array(x.ravel(), dtype=float) for x in (q, qd)]

    def run(self, tape: wp.Tape | None = None) -> Any:
        """The last state of a rollout from `start`; without a tape in two states by turns."""
        state, states = self.states[0], self.states
        wp.copy(state.joint_q, self.start[0])
        wp.copy(state.joint_qd, self.start[1])
        self.fk(self.model, state.joint_q, state.joint_qd, state)
        for k in range(STEPS * self.substeps):
            state, following = states[k % len(states)], states[(k + 1) % len(states)]
            step = k // self.substeps
            contacts = self.contacts[step % len(self.contacts)]
            advance = self.solvers[step % len(self.solvers)].step
            state.clear_forces()
            if k % self.substeps == 0:
                self.collide(state, contacts)
            if tape is None:
                advance(state, following, self.controls[step], contacts, self.dt)
            else:
                with tape:
                    advance(state, following, self.controls[step], contacts, self.dt)
        return following

    def begin_at_end(self) -> None:
        """The next rollout goes on where one from `start` ended."""
        last = self.run()
        wp.copy(self.start[0], last.joint_q)
        wp.copy(self.start[1], last.joint_qd)

    def root(self) -> tuple[np.ndarray, np.ndarray]:
        """Heights and distances at the end."""
        last = self.states[STEPS * self.substeps % len(self.states)]
        q = last.joint_q.numpy().reshape(self.num_envs, -1)
        return q[:, 2], q[:, 0]

    def gradient(self) -> np.ndarray:
        """Of the sum of distances, by every action."""
        tape = wp.Tape()
        last = self.run(tape)
        seed = np.zeros((self.num_envs, last.joint_q.size // self.num_envs), np.float32)
        seed[:, 0] = 1
        tape.backward(grads={last.joint_q: wp.array(seed.ravel(), dtype=float)})
        found = np.stack([control.joint_f.grad.numpy() for control in self.controls])
        tape.zero()  # not before they are copied: on a CPU numpy() is Warp's own memory
        found = found.reshape(STEPS, self.num_envs, -1)[:, :, 6:] * self.strength
        return found.transpose(1, 0, 2)


def _newton(robot: Robot, num_envs: int, gradient_envs: int) -> Simulation:
    forward = _Newton(robot, num_envs, requires_grad=False)
    backward = _Newton(robot, gradient_envs, requires_grad=True)
    forward.begin_at_end()
    backward.begin_at_end()
    recorded = _recorded(forward.run)

    def simulate():
        recorded()
        return forward.root()

    return Simulation(
        timestep=forward.dt,
        substeps=forward.substeps,
        bits=32,
        cores=1,
        forward=simulate,
        gradient=backward.gradient,
        gradient_envs=gradient_envs,
        derivative="reverse mode, by Warp's tape",
    )
