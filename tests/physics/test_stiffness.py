"""The fastest modes of a robot, and the step that they allow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from rpo.physics.mjcf import load_mjcf
from rpo.physics.step import StepSettings, control_step
from rpo.physics.stiffness import Rates, fastest_rates

SPRING = """<mujoco><worldbody><body><joint type="slide" stiffness="{k}" damping="{c}" {joint}/>
  <geom size="0.1" mass="2"/></body></worldbody></mujoco>"""


def rates(xml: str) -> Rates:
    compiled = mujoco.MjModel.from_xml_string(xml)
    return fastest_rates(load_mjcf(xml), compiled, compiled.qpos0)


def test_a_mass_on_a_spring_and_damper() -> None:
    found = rates(SPRING.format(k=50, c=3, joint=""))
    assert found.spring == pytest.approx(5) and found.damper == pytest.approx(1.5)
    limited = rates(SPRING.format(k=50, c=0, joint='range="-1 1" frictionloss="2"'))
    assert limited.spring == pytest.approx((1050 / 2) ** 0.5)
    assert limited.damper == pytest.approx((10 + 2 / 0.1) / 2)


def test_contact_and_tendons_count() -> None:
    xml = """<mujoco><worldbody><geom type="plane" size="1 1 1"/>
      <body name="a" pos="0 0 0.1"><freejoint/><geom size="0.1" mass="4" contype="0"/></body>
      <body pos="3 0 5"><joint name="s" type="slide"/>
        <geom size="0.1" mass="1" contype="0" conaffinity="0"/></body>
      </worldbody><tendon><fixed stiffness="{}"><joint joint="s" coef="2"/></fixed></tendon>
      </mujoco>"""
    touching = rates(xml.format(1))
    assert touching.spring == pytest.approx((2e4 / 4) ** 0.5, rel=1e-6)
    assert touching.damper == pytest.approx(1e3 / 4, rel=1e-6)  # the ground's friction
    assert rates(xml.format(1e6)).spring == pytest.approx(2e3, rel=1e-6)


@pytest.mark.parametrize(("k", "c"), [(1e4, 0.0), (0.0, 200.0), (1e4, 100.0)])
def test_the_longest_step_is_stable_and_twice_and_a_bit_is_not(k: float, c: float) -> None:
    xml = SPRING.format(k=k, c=c, joint="")
    model, dt = load_mjcf(xml), rates(xml).longest_step

    def amplitude(dt: float) -> float:
        settings = StepSettings(control_dt=dt, substeps=1, mass_matrix_interval=1)
        step = lambda _, s: control_step(model, settings, *s, jnp.zeros((1, 1)))  # noqa: E731
        run = jax.jit(lambda s: jax.lax.fori_loop(0, 200, step, s))
        return float(np.abs(run((jnp.ones((1, 1)), jnp.ones((1, 1))))).max())

    assert amplitude(dt) < 3
    assert not amplitude(2.1 * dt) < 1e6  # or not a number
