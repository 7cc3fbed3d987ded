"""The examples with Gymnasium's robots: they move as in MuJoCo, and earn what they earn there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from rpo.physics.step import StepSettings
from rpo.training.task_check import check_env

gymnasium = pytest.importorskip("gymnasium")
pytestmark = pytest.mark.filterwarnings("ignore:compiler attribute")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROBOTS = {"half_cheetah": "HalfCheetah", "walker2d": "Walker2d"}


def load(name: str) -> tuple[ModuleType, Any]:
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module, getattr(module, ROBOTS[name])()


@pytest.mark.parametrize("name", ROBOTS)
def test_moves_in_the_air_as_in_mujoco(name: str) -> None:
    module, env = load(name)
    check_env(env)
    model = mujoco.MjModel.from_xml_path(str(module.ROBOT))
    assert model.nu == env.spec.action_size
    draw = np.random.default_rng(0)
    q = draw.uniform(-0.1, 0.1, 9) + np.array([0, 3.0, 0, *[0.0] * 6])
    q[3:] = model.jnt_range[3:].mean(axis=1)  # free of their limits
    qd, action = draw.uniform(-0.5, 0.5, 9), draw.uniform(-0.05, 0.05, 6)
    data, substeps = mujoco.MjData(model), 200
    model.opt.timestep = env.spec.control_dt / substeps
    data.qpos[:], data.qvel[:], data.ctrl[:] = q, qd, action
    mujoco.mj_step(model, data, substeps)
    module.SETTINGS = StepSettings(env.spec.control_dt, substeps, 1)  # as fine as there
    state = module.State(*(jnp.asarray(x[None], jnp.float32) for x in (q, qd)))
    after = jax.jit(env.dynamics)(state, jnp.asarray(action[None], jnp.float32))
    np.testing.assert_allclose(after.q[0], data.qpos, atol=1e-3)
    np.testing.assert_allclose(after.qd[0], data.qvel, atol=0.02)


@pytest.mark.parametrize("name", ROBOTS)
def test_earns_what_it_earns_there(name: str) -> None:
    """The same two states and action, given to Gymnasium's own function."""
    module, env = load(name)
    theirs = gymnasium.make(f"{ROBOTS[name]}-v5").unwrapped
    action = np.linspace(-1, 1, 6)
    before = np.array([0.3, 1.2 if name == "walker2d" else 0.0, 0.1, *[0.0] * 6])
    after = before + 0.01
    theirs.set_state(after, np.full(9, 0.5))
    speed = (after[0] - before[0]) / theirs.dt
    expected = theirs._get_rew(speed, action)[0]
    states = [module.State(jnp.asarray(x[None]), jnp.full((1, 9), 0.5)) for x in (before, after)]
    found = env.reward(states[0], jnp.asarray(action[None]), states[1])
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)
    np.testing.assert_allclose(env.observe(states[1])[0], theirs._get_obs(), rtol=1e-5)
    assert theirs.dt == pytest.approx(env.spec.control_dt)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ROBOTS)
def test_random_actions_keep_it_finite(name: str) -> None:
    _, env = load(name)

    def step(state: Any, key: Any) -> Any:
        action = jax.random.uniform(key, (16, 6), minval=-1)
        state, transition = env.step(state, action)
        return state, (transition.info["non_finite"], transition.observation[:, 0])

    keys = jax.random.split(jax.random.key(1), 200)
    run = jax.jit(lambda state: jax.lax.scan(step, state, keys)[1])
    broken, height = run(env.reset(jax.random.key(0), 16))
    assert not broken.any()
    assert (np.abs(height) < 5).all()
