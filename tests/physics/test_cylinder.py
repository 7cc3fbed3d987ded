"""Spheres and capsules that touch cylinders, and contact without friction, against MuJoCo."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from rpo.physics.mjcf import load_mjcf
from rpo.physics.step import StepSettings, control_step
from tests.physics.test_pairs import NUMBERS, two_wrenches


def test_depth_of_a_capsule_in_a_cylinder_is_mujocos():
    """In the plane that both axes span or not: the deepest point of the capsule is found."""
    xml = f"""<mujoco>{NUMBERS}<worldbody>
      <body name="a"><freejoint/><geom name="a" type="capsule" size="0.05 0.2"/></body>
      <body name="b" pos="0 0 3"><freejoint/>
        <geom name="b" type="cylinder" size="0.2 0.3"/></body></worldbody></mujoco>"""
    model, spec = load_mjcf(xml), mujoco.MjModel.from_xml_string(xml)
    data, rng, checked = mujoco.MjData(spec), np.random.default_rng(1), 0
    with jax.enable_x64(True):
        place = jax.jit(lambda q: two_wrenches(model, q))
        for _ in range(80):
            turns = rng.normal(size=(2, 4))
            turns /= np.linalg.norm(turns, axis=1, keepdims=True)
            q = np.array([*rng.uniform(-0.5, 0.5, 3), *turns[0], 0, 0, 0, *turns[1]])
            data.qpos[:] = q
            mujoco.mj_kinematics(spec, data)
            segment = np.zeros(6)
            depth = -mujoco.mj_geomDistance(spec, data, 0, 1, 1.0, segment)
            force = np.asarray(place(jnp.asarray(q)[:, None]))[:, 0]
            if depth < 0:
                assert not force.any()
            elif 0.005 < depth < 0.045:  # deeper, the axis itself is inside
                # The nearest point carries 700 N/m, the two ends as much where they are in.
                assert np.linalg.norm(force) <= 3 * 700 * depth * (1 + 1e-6)
                direction = (segment[:3] - segment[3:]) / depth
                assert abs(direction @ force) > 0.99 * 700 * depth
                checked += 1
    assert checked > 3


def test_derivatives_through_a_cylinder_are_those_of_the_step():
    xml = """<mujoco><worldbody><geom type="cylinder" size="0.2 0.3" euler="90 0 0" pos="0 0 1"/>
      <body pos="0.05 0 1.28"><freejoint/><geom type="capsule" size="0.1 0.05"/></body>
      </worldbody></mujoco>"""
    model = load_mjcf(xml)
    settings = StepSettings(control_dt=0.001, substeps=1, mass_matrix_interval=1)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(6, 1))
    moves = [rng.normal(size=(n, 1)) for n in (7, 6)]

    @jax.jit
    def both(q, qd):
        def value(q, qd):
            qd = control_step(model, settings, q, qd, 0 * qd)[1]
            return (weights * qd).sum(), qd

        (found, after), slopes = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(q, qd)
        return found, after, sum((s * m).sum() for s, m in zip(slopes, moves, strict=True))

    with jax.enable_x64(True):
        q = jnp.array([0.05, 0.02, 1.28, 0.9, 0.1, 0.3, 0.2])[:, None]
        qd = jnp.asarray(rng.normal(size=(6, 1)))
        _, after, predicted = both(q, qd)
        assert np.abs(after - qd - jnp.eye(6)[:, 2:3] * -9.81e-3).max() > 0.02  # they touch
        h = 1e-7
        ahead, back = (both(q + k * moves[0], qd + k * moves[1])[0] for k in (h, -h))
    assert float(predicted) == pytest.approx(float(ahead - back) / (2 * h), rel=1e-5)


def test_contact_of_dimension_one_has_no_friction():
    """A ball slides over a fixed one; another pair of the ball has friction all the same."""
    ball = '<body pos="{} 0 1.18"><freejoint/><geom size="0.2" condim="1"/></body>'
    xml = f"""<mujoco><worldbody><geom size="0.2" pos="0 0 0.79" condim="1"/>
      <geom size="0.2" pos="0 0 5" condim="3"/><geom size="0.2" pos="2 0 0.79" condim="3"/>
      {ball.format(0)}{ball.format(2)}</worldbody></mujoco>"""
    model = load_mjcf(xml)
    settings = StepSettings(control_dt=0.001, substeps=1, mass_matrix_interval=1)
    q = jnp.array([0, 0, 1.18, 1, 0, 0, 0, 2, 0, 1.18, 1, 0, 0, 0])[:, None]
    qd = jnp.zeros((12, 1)).at[np.array([0, 6])].set(1.0)
    _, after = jax.jit(lambda q, qd: control_step(model, settings, q, qd, 0 * qd))(q, qd)
    assert abs(float(after[4, 0])) <= 1e-3 < abs(float(after[10, 0]))
