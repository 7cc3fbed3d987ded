"""The fastest modes of a robot, and the step that they allow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from rpo.physics.mjcf import load_mjcf
from rpo.physics.step import StepSettings, control_step
from rpo.physics.stiffness import LOAD, Rates, fastest_rates

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
    # the ground's friction, which turns the ball, too
    assert touching.damper == pytest.approx(1e3 * (1 / 4 + 0.1**2 / (0.4 * 4 * 0.1**2)), rel=1e-6)
    assert rates(xml.format(1e6)).spring == pytest.approx(2e3, rel=1e-6)


CUBE = """<mujoco><worldbody><geom type="plane" size="1 1 1"/><body pos="0 0 0.2"><freejoint/>
  <geom type="box" size="0.2 0.2 0.2" mass="3" euler="{turn} 0 0" contype="0"
    friction="{friction}"/></body></worldbody></mujoco>"""


@pytest.mark.parametrize("turn", [0, 30])
def test_a_cube_stands_on_four_of_its_corners(turn: float) -> None:
    """And rocks on them: 4 k a^2 over 2/3 m a^2; however it lies at the start."""
    found = rates(CUBE.format(turn=turn, friction=0))
    assert found.spring == pytest.approx((6 * 2e4 / 3) ** 0.5, rel=1e-6)
    # rubbing turns it about the vertical: 4 kf 2 a^2 over the same
    rubbed = rates(CUBE.format(turn=turn, friction=1))
    assert rubbed.damper == pytest.approx(12 * 1e3 / 3, rel=1e-6)


def test_what_lies_deeper_than_the_load_presses_is_not_touched() -> None:
    xml = """<mujoco><worldbody><geom type="plane" size="1 1 1"/><body pos="0 0 1"><freejoint/>
      <geom type="box" size="0.2 0.2 {thin}" mass="3" contype="0" friction="0"/></body>
      </worldbody></mujoco>"""
    load = LOAD * 3 * 9.81
    inside, outside = 0.9 * load / 8e4 / 2, 1.1 * load / 8e4 / 2
    four, eight = (rates(xml.format(thin=thin)).spring for thin in (outside, inside))
    assert eight == pytest.approx((24 * 2e4 / 3) ** 0.5, rel=1e-3)  # 8 k a^2 over 1/3 m a^2
    assert four < 0.85 * eight  # on two corners of one end, as it happens


def test_links_of_many_shapes_ask_for_no_more_than_what_touches() -> None:
    """The lightest link has two boxes in a row, of which one face each can be on the ground."""
    leg = "".join(
        f'<geom type="box" size="0.02 0.02 0.1" pos="0 0 {-0.1 - 0.2 * k}" mass="0.1"/>'
        for k in (0, 1)
    )
    xml = f"""<mujoco><default><geom contype="0" friction="1"/></default><worldbody>
      <geom type="plane" size="1 1 1" contype="1" conaffinity="1"/><body pos="0 0 0.5"><freejoint/>
      <geom size="0.1" mass="5"/><body pos="0 0 -0.1"><joint axis="0 1 0"/>{leg}</body></body>
      </worldbody></mujoco>"""
    compiled, model = mujoco.MjModel.from_xml_string(xml), load_mjcf(xml)
    assert len(model.contact_link) == 17
    found = fastest_rates(model, compiled, compiled.qpos0)
    everything = sum(0.02**2 + z**2 for z in 2 * [0.0, 0.2, 0.2, 0.4] * 2) * 1e3  # about the hinge
    hinge = 0.2 * 0.4**2 / 3
    assert 0.3 < found.damper / (everything / hinge) < 0.75


def test_the_longest_step_of_a_strong_damper_beside_a_spring_keeps_its_digits() -> None:
    assert Rates(spring=1.0, damper=1e12).longest_step == pytest.approx(1e-12, rel=1e-9)
    assert Rates(spring=0.0, damper=0.0).longest_step == np.inf


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
