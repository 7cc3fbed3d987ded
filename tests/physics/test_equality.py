"""Equality constraints of joints and tendons, as springs, against MuJoCo's constraints."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.physics.mjcf import load_mjcf
from rpo.physics.step import StepSettings, control_step
from tests.physics.engine import (
    compile_mjcf,
    mujoco_acceleration,
    our_acceleration,
    relative_error,
    without_constraints,
)

# Three wheels of constant inertia, so that nothing but the constraint accelerates them.
WHEELS = """<mujoco><option gravity="0 0 {gravity}"/>
  <default><geom contype="0" conaffinity="0"/></default><worldbody>
  <body><joint name="a" axis="0 1 0" ref="30"/><geom size="0.1" mass="2" pos="{arm} 0 0"/></body>
  <body><joint name="b" axis="0 1 0"/><geom size="0.2" mass="3"/></body>
  <body><joint name="c" type="slide"/><geom size="0.1" mass="1"/></body></worldbody>
  <tendon><fixed name="ab"><joint joint="a" coef="1"/><joint joint="b" coef="-0.5"/></fixed>
    <fixed name="bc"><joint joint="b" coef="2"/><joint joint="c" coef="1"/></fixed></tendon>
  <equality>{equality}</equality></mujoco>"""
HARD = 'solimp="0.9999 0.9999 0.001"'


def wheels(equality: str, gravity: float = 0.0, arm: float = 0.0) -> str:
    return WHEELS.format(equality=equality, gravity=gravity, arm=arm)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    "equality",
    [
        f'<joint joint1="a" joint2="b" polycoef="0.2 -1.5 0 0 0" solref="0.05 0.7" {HARD}/>',
        f'<joint joint1="a" polycoef="0.2 0 0 0 0" solref="-300 -20" {HARD}/>',
        f'<tendon tendon1="ab" solref="0.02 1" {HARD}/>',
        f'<tendon tendon1="ab" tendon2="bc" polycoef="0.1 0.7 0 0 0" {HARD}/>',
    ],
)
def test_without_other_forces_the_residual_moves_as_in_mujoco(equality: str) -> None:
    xml = wheels(equality)
    model, compiled = load_mjcf(xml), compile_mjcf(xml)
    draw = np.random.default_rng(0)
    q, qd = draw.uniform(-0.3, 0.3, (4, 3)), draw.uniform(-1, 1, (4, 3))
    expected = mujoco_acceleration(compiled, q, qd, constraints=True)
    assert relative_error(our_acceleration(model, q, qd), expected) < 1e-3
    assert not our_acceleration(load_mjcf(wheels("")), q, qd).any()


def test_under_load_it_gives_way_by_what_its_spring_says() -> None:
    """A wheel with a weight is held by another that a joint equality turns along."""
    xml = wheels('<joint joint1="a" joint2="b" polycoef="0 1 0 0 0" solref="0.01 1"/>', -9.81, 0.2)
    model = load_mjcf(xml)
    settings = StepSettings(control_dt=0.01, substeps=10, mass_matrix_interval=10)

    @jax.jit
    def run(q):
        step = lambda _, s: control_step(model, settings, *s, jnp.zeros((3, 1)))  # noqa: E731
        return jax.lax.fori_loop(0, 60, step, (q, jnp.zeros((3, 1))))[0]

    start = jnp.asarray(compile_mjcf(xml).qpos0)[:, None]
    after = run(start)
    fallen = after - start
    assert abs(fallen[0, 0]) > 0.3
    assert abs(fallen[0, 0] - fallen[1, 0]) < 0.01


def test_inactive_and_disabled_constraints_do_nothing() -> None:
    gear = '<joint joint1="a" joint2="b" {}/>'
    assert load_mjcf(wheels(gear.format(""))).tendons.names == ("equality_0",)
    assert not load_mjcf(wheels(gear.format('active="false"'))).tendons.names
    off = wheels(gear.format("")).replace("/>", '><flag equality="disable"/></option>', 1)
    assert not load_mjcf(off).tendons.names


@pytest.mark.parametrize(
    ("equality", "message"),
    [
        (
            '<joint name="cam" joint1="a" joint2="b" polycoef="0 1 2 0 0"/>',
            r"'cam' \(joint\) is not supported: polycoef must be linear",
        ),
        (
            '<weld name="glue" body1="body_1" body2="body_2"/>',
            r"'glue' \(weld\) is not supported: only those of joints",
        ),
    ],
)
def test_other_constraints_are_refused_by_name(equality: str, message: str) -> None:
    xml = wheels(equality)
    for k in (1, 2, 3):
        xml = xml.replace("<body>", f'<body name="body_{k}">', 1)
    with pytest.raises(ValueError, match=message):
        load_mjcf(xml)


def test_removing_constraints_for_comparisons_keeps_equalities() -> None:
    model = load_mjcf(wheels('<joint joint1="a" joint2="b"/>'))
    assert without_constraints(model).tendons.names == ("equality_0",)
