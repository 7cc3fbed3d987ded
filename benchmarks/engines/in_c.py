"""MuJoCo's C engine: rollouts by its own thread pool, derivatives by its finite differences."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np
from mujoco import rollout

from engines.robots import STEPS, Robot, Simulation, random_actions

STEP = 1e-6
"""Of the finite differences; in double precision."""


def build(name: str, robot: Robot, num_envs: int, gradient_envs: int, cores: int) -> Simulation:
    """As many threads as cores; the engine's solver and tolerances are left as they come."""
    model = robot.model
    q, qd = robot.starts(num_envs)
    actions = random_actions(num_envs, model.nu)
    controls = np.repeat(actions.transpose(1, 0, 2), robot.substeps, axis=1).astype(float)
    workers = [mujoco.MjData(model) for _ in range(cores)]
    pool = rollout.Rollout(nthread=cores)
    size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    states = np.zeros((num_envs, STEPS * robot.substeps, size))

    def run(start):
        pool.rollout(model, workers, start, controls, state=states)
        return states[:, -1].copy()

    start = run(np.concatenate([np.zeros((num_envs, 1)), q, qd], axis=1))

    def forward():
        last = run(start)
        return last[:, 3], last[:, 1]

    threads = ThreadPoolExecutor(cores)

    def gradient():
        shares = np.array_split(np.arange(gradient_envs), cores)
        jobs = [
            threads.submit(_differentiate, model, data, start[share], controls[share])
            for data, share in zip(workers, shares, strict=True)
        ]
        by_control = np.concatenate([job.result() for job in jobs])
        return by_control.reshape(gradient_envs, STEPS, robot.substeps, model.nu).sum(axis=2)

    return Simulation(
        timestep=model.opt.timestep,
        substeps=robot.substeps,
        bits=64,
        cores=cores,
        forward=forward,
        gradient=gradient,
        gradient_envs=gradient_envs,
        derivative="finite differences of every physics step (mjd_transitionFD), chained",
    )


def _differentiate(model, data, starts, controls):
    """The last x by every control (envs, physics steps, nu)."""
    size, steps = 2 * model.nv, controls.shape[1]
    by_state, by_control = np.zeros((steps, size, size)), np.zeros((steps, size, model.nu))
    found = np.zeros((len(starts), steps, model.nu))
    for k, start in enumerate(starts):
        mujoco.mj_setState(model, data, start, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        for step in range(steps):
            data.ctrl[:] = controls[k, step]
            mujoco.mjd_transitionFD(
                model, data, STEP, False, by_state[step], by_control[step], None, None
            )
            mujoco.mj_step(model, data)
        adjoint = np.zeros(size)
        adjoint[0] = 1
        for step in reversed(range(steps)):
            found[k, step] = adjoint @ by_control[step]
            adjoint = adjoint @ by_state[step]
    return found
