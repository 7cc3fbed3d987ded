"""Newton beneath a task: its motion beside ours, and its derivative beside finite differences."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import rpo
from rpo.envs import EnvSpec, EpisodicEnv
from rpo.errors import SettingsError
from tests.training.fakes import TINY

pytest.importorskip("newton")

from rpo.adapters.newton import NewtonStep

pytestmark = [
    pytest.mark.nightly,  # Warp compiles for minutes, once per machine
    pytest.mark.filterwarnings("ignore"),  # those of Newton
]

ARM = """<mujoco model="arm">
  <compiler angle="radian"/>
  <worldbody>
    <body name="upper" pos="0 0 2">
      <joint name="shoulder" type="hinge" axis="0 1 0" damping="0.5"/>
      <geom type="capsule" fromto="0 0 0 0 0 -0.5" size="0.05" mass="1"/>
      <body name="lower" pos="0 0 -0.5">
        <joint name="elbow" type="hinge" axis="0 1 0" damping="0.5"/>
        <geom type="capsule" fromto="0 0 0 0 0 -0.5" size="0.04" mass="0.5"/>
      </body>
    </body>
  </worldbody>
</mujoco>"""
PERIOD, SUBSTEPS = 0.02, 8


class Arm(EpisodicEnv):
    """Hold a double pendulum out to the side."""

    spec: EnvSpec = eqx.field(static=True, default=EnvSpec("arm", 4, 2, 20, PERIOD))
    newton: Any = eqx.field(
        static=True, default_factory=lambda: NewtonStep(ARM, PERIOD, SUBSTEPS, ground=False)
    )

    def initial_state(self, key):
        return jax.random.uniform(key, (4,), minval=-0.3, maxval=0.3)

    def dynamics(self, state, action):
        return jnp.concatenate(self.newton(state[:, :2], state[:, 2:], 5 * action), axis=1)

    def observe(self, state):
        return state

    def reward(self, state, action, next_state):
        return -((next_state[:, :2] - 1.0) ** 2).sum(axis=1)


@pytest.fixture(scope="module")
def arm() -> Arm:
    return Arm()


def some(count: int) -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(0)
    return tuple(jnp.asarray(draw.uniform(-1, 1, (count, 2)), jnp.float32) for _ in range(3))


def test_moves_as_in_mujoco(arm: Arm) -> None:
    """Up to Newton's angular damping (0.05 by default) and the order of its integration."""
    q, qd, force = some(5)
    after, speed = jax.jit(arm.newton)(q, qd, force)
    model = mujoco.MjModel.from_xml_string(ARM)
    model.opt.timestep = PERIOD / SUBSTEPS / 4
    for k in range(len(q)):
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:], data.qfrc_applied[:] = q[k], qd[k], force[k]
        mujoco.mj_step(model, data, 4 * SUBSTEPS)
        np.testing.assert_allclose(after[k], data.qpos, atol=2e-3)
        np.testing.assert_allclose(speed[k], data.qvel, atol=0.04)


def test_environments_are_independent(arm: Arm) -> None:
    q, qd, force = some(3)
    together = arm.newton(q, qd, force)
    alone = arm.newton(q[1:2], qd[1:2], force[1:2])
    for x, y in zip(together, alone, strict=True):
        np.testing.assert_allclose(x[1:2], y, atol=1e-6)


def compare_derivatives(value: Any, inputs: tuple[Any, ...], tolerance: float) -> None:
    """Those by every entry of the inputs with central differences."""
    found = jax.jit(jax.grad(value, argnums=tuple(range(len(inputs)))))(*inputs)
    value, step = jax.jit(value), 1e-2
    for number, gradient in enumerate(found):
        expected = np.zeros(gradient.shape)
        for entry in np.ndindex(gradient.shape):
            ahead, back = (
                [x.at[entry].add(by) if k == number else x for k, x in enumerate(inputs)]
                for by in (step, -step)
            )
            expected[entry] = (value(*ahead) - value(*back)) / (2 * step)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=tolerance * scale)


def test_derivative_over_several_control_steps() -> None:
    """So long ones that the mass matrix changes within each: every substep needs its own."""
    newton, weight = NewtonStep(ARM, 0.1, 40, ground=False), jnp.asarray([[1.0, -0.5], [0.3, 0.8]])

    def value(q: Any, qd: Any, force: Any) -> Any:
        after, speed = jax.lax.scan(lambda s, f: (newton(*s, f), None), (q, qd), force)[0]
        return (weight * after).sum() + 0.1 * (weight * speed).sum()

    q, qd, _ = some(2)
    force = jnp.asarray(np.random.default_rng(1).uniform(-3, 3, (3, 2, 2)), jnp.float32)
    compare_derivatives(value, (q, 4 * qd, force), 0.01)


@pytest.mark.xfail(strict=True, reason="Newton 1.8.0 differentiates contact wrongly")
def test_derivative_on_the_ground() -> None:
    """On a level floor a ball ends as much further along as it starts."""
    ball = """<mujoco><worldbody><body pos="0 0 0.3"><freejoint/>
      <geom type="sphere" size="0.3" mass="5"/></body></worldbody></mujoco>"""
    newton = NewtonStep(ball, 0.001, 1)
    q = jnp.asarray(newton.start[None]).at[:, 2].set(0.297)
    qd = jnp.zeros((1, newton.num_velocities)).at[0, 0].set(0.3).at[0, 2].set(-0.3)

    def value(x: Any) -> Any:
        after, speed = newton(q.at[0, 0].set(x), qd, jnp.zeros_like(qd))
        return after[0, 0] + speed.sum()

    np.testing.assert_allclose(jax.grad(value)(0.0), 1.0, rtol=1e-3)


def test_maps_over_seeds(arm: Arm) -> None:
    q, qd, force = some(4)
    pairs = [x.reshape(2, 2, 2) for x in (q, qd, force)]
    mapped = jax.vmap(arm.newton)(*pairs)
    whole = arm.newton(q, qd, force)
    for x, y in zip(mapped, whole, strict=True):
        np.testing.assert_allclose(x.reshape(4, 2), y, atol=1e-6)


def test_trains(arm: Arm, tmp_path: Any) -> None:
    settings = TINY | {"total_steps": 8 * 8 * 4, "verbose": False, "run_dir": tmp_path / "run"}
    run = rpo.train(arm, **settings)
    assert np.isfinite(run.metrics()["value_loss"]).all()
    assert not run.metrics()["non_finite_gradients"].any()


def test_impossible_settings() -> None:
    with pytest.raises(SettingsError, match="must be positive"):
        NewtonStep(ARM, 0.0)
