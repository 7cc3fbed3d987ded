"""The simulators written in JAX: ours, MuJoCo MJX and Brax, timed through the same programs."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from engines.robots import Robot, Simulation, random_actions

BLOCK = 128
"""Environments that a core simulates at a time, all 32 steps of them, so that they stay in its
cache; on a GPU all at once."""


def build(name: str, robot: Robot, num_envs: int, gradient_envs: int, cores: int) -> Simulation:
    """Splits the environments over the devices, one per core of a CPU.

    Backwards every control step is computed again from its state. Keeping all of it instead takes
    300 kB per physics step and environment of MJX's humanoid, 5 GB together.
    """
    family, _, backend = name.partition("-")
    make = {"rpo": _ours, "mjx": _mjx, "brax": functools.partial(_brax, backend)}[family]
    timestep, substeps, start, step, position = make(robot, num_envs)
    if family != "rpo":  # ours does so itself, for every substep
        step = jax.checkpoint(step, prevent_cse=False)
    on_cpu = jax.default_backend() == "cpu"
    devices = jax.devices()[: cores if on_cpu else 1]
    forward, gradient = _programs(step, position, devices, BLOCK if on_cpu else num_envs)
    size = robot.env.spec.action_size
    if family == "brax":
        size = _brax_env(robot.name, backend, robot.control_dt)[0].action_size
    actions = jax.device_put(random_actions(num_envs, size), _along(devices, 1))
    start = jax.device_put(start, _along(devices, 0))
    start = forward(start, actions)[0]

    def run():
        return jax.block_until_ready(forward(start, actions)[1])

    def differentiate():
        return jax.block_until_ready(gradient(start, actions))

    return Simulation(
        timestep=timestep,
        substeps=substeps,
        bits=32,
        cores=len(devices) if on_cpu else 1,
        forward=run,
        gradient=None if family == "mjx" else differentiate,
        gradient_envs=0 if family == "mjx" else num_envs,
        derivative="none" if family == "mjx" else "reverse mode",
    )


def _along(devices: list[Any], axis: int) -> NamedSharding:
    return NamedSharding(Mesh(devices, ("cores",)), _spec(axis))


def _spec(axis: int) -> PartitionSpec:
    return PartitionSpec(*[None] * axis, "cores")


def _programs(step, position, devices, block):
    """Rollout, and its derivative by the actions, over all devices.

    Args:
        step: (state, action) -> state, of a batch.
        position: state -> heights and distances of a batch.
        devices: over which the batch is split.
        block: most environments that are simulated at a time.
    """

    def rollout(state, actions):
        state, _ = lax.scan(lambda s, a: (step(s, a), None), state, actions)
        return state, position(state)

    def distance(actions, state):
        return rollout(state, actions)[1][1].sum()

    def derivative(state, actions):
        return jnp.moveaxis(jax.grad(distance)(actions, state), 1, 0)

    def program(function):
        def in_blocks(state, actions):
            local = actions.shape[1]
            size = max(d for d in range(1, block + 1) if local % d == 0)
            if size == local:
                return function(state, actions)
            state = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), state)
            actions = actions.reshape(len(actions), -1, size, actions.shape[2])
            found = lax.map(lambda pair: function(*pair), (state, jnp.moveaxis(actions, 1, 0)))
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)

        mesh = Mesh(devices, ("cores",))
        specs, out = (_spec(0), _spec(1)), _spec(0)
        return jax.jit(
            jax.shard_map(in_blocks, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
        )

    return program(rollout), program(derivative)


def _ours(robot: Robot, num_envs: int):
    env = robot.env
    state = env.state(*(jnp.asarray(x, jnp.float32) for x in robot.starts(num_envs)))
    settings = env.settings
    timestep = robot.control_dt / settings.substeps
    return timestep, settings.substeps, state, env.dynamics, lambda s: (s.q[:, 2], s.q[:, 0])


def _mjx(robot: Robot, num_envs: int):
    """With at most 4 iterations of the solver, and 8 of its line search.

    One iteration, as MJX's own humanoid has it, is not enough for these robots, at any step from 8
    to 0.3 ms; four are as good as the C engine's default. More than one are a loop of unknown
    length, which JAX does not differentiate backwards.
    """
    from mujoco import mjx

    robot.model.opt.iterations, robot.model.opt.ls_iterations = 4, 8
    model = mjx.put_model(robot.model, impl="jax")

    def begin(q, qd):
        return mjx.make_data(robot.model, impl="jax").replace(qpos=q, qvel=qd)

    def step(data, action):
        data = data.replace(ctrl=action)
        return lax.scan(lambda d, _: (mjx.step(model, d), None), data, length=robot.substeps)[0]

    q, qd = (jnp.asarray(x, jnp.float32) for x in robot.starts(num_envs))
    start = jax.jit(jax.vmap(begin))(q, qd)

    def position(data):
        return data.qpos[:, 2], data.qpos[:, 0]

    return robot.model.opt.timestep, robot.substeps, start, jax.vmap(step), position


@functools.cache
def _brax_env(name: str, backend: str, control_dt: float):
    """Brax's own task, with physics steps just short enough to make our control step."""
    from brax import envs

    own = float(envs.get_environment(name, backend=backend).sys.opt.timestep)
    substeps = math.ceil(control_dt / own - 1e-6)
    env = envs.get_environment(name, backend=backend, n_frames=substeps)
    env.sys = env.sys.tree_replace({"opt.timestep": control_dt / substeps})
    return env, substeps


def _brax(backend: str, robot: Robot, num_envs: int):
    env, substeps = _brax_env(robot.name, backend, robot.control_dt)
    low, high = jnp.asarray(env.sys.actuator.ctrl_range).T

    def step(state, action):
        return env.pipeline_step(state, low + (high - low) * 0.5 * (action + 1))

    keys = jax.random.split(jax.random.key(1), num_envs)
    start = jax.jit(jax.vmap(lambda key: env.reset(key).pipeline_state))(keys)

    def position(state):
        return state.x.pos[:, 0, 2], state.x.pos[:, 0, 0]

    return robot.control_dt / substeps, substeps, start, jax.vmap(step), position
