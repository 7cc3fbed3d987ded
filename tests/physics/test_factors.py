"""Factors of each environment: known answers, models changed by hand, and MuJoCo's engine."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from rpo.physics.factors import NOMINAL, Factors, varied_groups
from rpo.physics.mjcf import load_mjcf
from rpo.physics.model import Model
from rpo.physics.step import StepSettings, control_step
from rpo.physics.topology import groups_of
from tests.eager import eagerly
from tests.marks import rest_nightly
from tests.physics.engine import (
    SHORT,
    compile_mjcf,
    mujoco_acceleration,
    random_states,
    relative_error,
    without_constraints,
)

STEP = StepSettings(control_dt=0.01, substeps=2, mass_matrix_interval=2)

# A block on two slides that may touch the ground, and a wheel: every answer is known.
BLOCK_AND_WHEEL = """<mujoco><worldbody><geom type="plane" size="1 1 1"/>
  <body name="block"><joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 0 1"/>
    <geom type="sphere" size="0.1" mass="2"/></body>
  <body name="wheel" pos="0 0 9"><joint axis="0 0 1"/>
    <inertial pos="0 0 0" mass="3" diaginertia="1 1 0.5"/></body>
</worldbody></mujoco>"""
LEGS = """<mujoco><compiler angle="radian"/><worldbody><geom type="plane" size="1 1 1"/>
  <body pos="0 0 0.1"><freejoint/><geom type="sphere" size="0.1" mass="2"/>
    <body pos="0.3 0 0"><joint axis="0 1 0" range="-3 3"/>
      <geom type="capsule" fromto="0 0 0 0.2 0 -0.1" size="0.04" mass="1"/></body>
    <body pos="-0.3 0 0"><joint axis="0 1 0" range="-3 3"/>
      <geom type="capsule" fromto="0 0 0 -0.2 0 -0.1" size="0.04" mass="1.5"/></body>
  </body></worldbody></mujoco>"""


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def batch(values: list[float], rows: int | None = None) -> jax.Array:
    """Factors of a batch, the same for every link or actuator."""
    row = jnp.asarray(values, jnp.float64)
    return row if rows is None else jnp.tile(row, (rows, 1))


@functools.lru_cache
def block() -> Model:
    model = load_mjcf(BLOCK_AND_WHEEL)
    none = np.zeros(model.nv)
    return dataclasses.replace(model, limit_damping=none, damping=none, armature=none)


@eagerly
def step_block(q, qd, force, factors):
    return control_step(block(), STEP, q, qd, force, factors)


def block_after(height: float, speed: float, force: list[float], **factors: list[float]):
    """Velocities (nv, 3) of three environments after one step, over those before it."""
    ones = [1.0, 1.0, 1.0]
    row = {name: factors.get(name, ones) for name in Factors._fields}
    rows = dict.fromkeys(("mass", "inertia"), block().num_links)
    each = {name: batch(values, rows.get(name)) for name, values in row.items()}
    each["strength"] = None
    column = lambda *x: jnp.tile(jnp.asarray(x, jnp.float64)[:, None], 3)  # noqa: E731
    qd = column(speed, 0, 0)
    return np.asarray(step_block(column(0, height, 0), qd, column(*force), Factors(**each))[1] - qd)


def test_a_heavier_body_accelerates_by_force_over_mass() -> None:
    factors = [0.5, 1.0, 2.0]
    change = block_after(5.0, 0.0, [7.0, 0.0, 3.0], mass=factors)
    np.testing.assert_allclose(change[0], 0.01 * 7 / (2 * np.array(factors)), rtol=1e-12)
    # the inertia grows with it: a denser body; and all fall alike
    np.testing.assert_allclose(change[2], 0.01 * 3 / (0.5 * np.array(factors)), rtol=1e-12)
    np.testing.assert_allclose(change[1], -0.01 * 9.81, rtol=1e-12)


def test_inertia_alone() -> None:
    change = block_after(5.0, 0.0, [7.0, 0.0, 3.0], inertia=[0.5, 1.0, 2.0])
    np.testing.assert_allclose(change[2], 0.01 * 3 / (0.5 * np.array([0.5, 1, 2])), rtol=1e-12)
    np.testing.assert_allclose(change[0], 0.01 * 7 / 2, rtol=1e-12)


def test_twice_the_gravity_falls_twice_as_fast() -> None:
    change = block_after(5.0, 0.0, [0.0, 0.0, 0.0], gravity=[0.0, 1.0, 2.0])
    np.testing.assert_allclose(change[1], -0.01 * 9.81 * np.array([0, 1, 2]), rtol=1e-12)


def test_without_friction_it_slides() -> None:
    """In the ground: a quick block is braked by mu N, in proportion to the factor."""
    change = block_after(0.05, 50.0, [0.0, 0.0, 0.0], friction=[0.0, 0.5, 1.0])
    assert change[0, 0] == 0
    assert change[0, 2] < -1e-3
    assert change[0, 1] == pytest.approx(change[0, 2] / 2, rel=1e-6)


def test_factors_are_a_model_with_other_figures() -> None:
    """Random factors of every link in contact; the other environments are the model itself."""
    model = load_mjcf(LEGS)
    random = np.random.default_rng(0)
    mass, inertia = random.uniform(0.5, 2, (2, model.num_links))
    changed = dataclasses.replace(
        model,
        mass=model.mass * mass,
        inertia=model.inertia * (mass * inertia)[:, None, None],
        friction_coefficient=model.friction_coefficient * 0.3,
        gravity=model.gravity * 2,
    )
    q = jnp.array([0, 0, 0.05, 1, 0, 0, 0, 0.1, 0.2])[:, None]
    qd, force = (jnp.asarray(random.normal(size=(model.nv, 1))) for _ in range(2))
    own = {"mass": mass, "inertia": inertia}
    ones = np.ones(model.num_links)
    factors = {k: jnp.stack([jnp.asarray(v), ones, ones], axis=1) for k, v in own.items()}
    factors |= {"friction": batch([0.3, 1.0, 1.0]), "gravity": batch([2.0, 1.0, 1.0])}
    state = [jnp.tile(x, 3) for x in (q, qd, force)]
    found = eagerly(control_step)(model, STEP, *state, Factors(**factors))
    for k, one in enumerate((changed, model)):
        expected = eagerly(control_step)(one, STEP, *state)
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine[:, k], theirs[:, k], rtol=1e-10, atol=1e-12)


SERVO = LEGS.replace(
    "</mujoco>",
    """<actuator><position name="knee" joint="knee" kp="30" kv="2"/>
    <motor joint="hip" gear="5"/></actuator></mujoco>""",
).replace('<joint axis="0 1 0" range="-3 3"/>', '<joint name="{}" axis="0 1 0" range="-3 3"/>')


def test_factors_agree_with_mujoco() -> None:
    """Its engine with other masses, inertias, gravity and gains gives the same accelerations."""
    xml = SERVO.format("hip", "knee")
    compiled, envs = compile_mjcf(xml), 3
    model = without_constraints(load_mjcf(xml))
    model = dataclasses.replace(model, limit_damping=np.zeros(model.nv))
    random = np.random.default_rng(1)
    q, qd = random_states(model, envs, seed=2)
    control = random.uniform(-1, 1, (envs, 2))
    factors = Factors(
        mass=random.uniform(0.5, 2, (envs, model.num_links)),
        inertia=random.uniform(0.5, 2, (envs, model.num_links)),
        strength=random.uniform(0.5, 2, (envs, 2)),
        gravity=random.uniform(0.5, 2, envs),
    )
    expected = []
    for k in range(envs):
        other = compile_mjcf(xml)
        other.body_mass[1:] *= factors.mass[k]
        other.body_inertia[1:] *= (factors.mass[k] * factors.inertia[k])[:, None]
        other.actuator_gainprm[:, 0] *= factors.strength[k]
        other.actuator_biasprm[:, :3] *= factors.strength[k][:, None]
        other.opt.gravity *= factors.gravity[k]
        mujoco.mj_setConst(other, mujoco.MjData(other))
        rows = slice(k, k + 1)
        expected.append(mujoco_acceleration(other, q[rows], qd[rows], control[rows])[0])
    last = jax.tree.map(jnp.asarray, factors).transposed()
    force = model.actuators.forces(jnp.asarray(control.T), last.strength)
    short = StepSettings(control_dt=SHORT, substeps=1, mass_matrix_interval=1)
    state = jnp.asarray(q.T), jnp.asarray(qd.T)
    after = eagerly(control_step)(model, short, *state, force, last)[1]
    found = (np.asarray(after).T - qd) / SHORT
    assert relative_error(found, np.array(expected)) < 1e-5
    nominal = mujoco_acceleration(compiled, q, qd, control)
    assert relative_error(nominal, np.array(expected)) > 0.1


@pytest.mark.parametrize("differentiated", rest_nightly([False, True]))
def test_friction_between_links_and_its_derivative(differentiated: bool) -> None:
    """A ball that slides on a box of the world starts to spin in proportion to the factor."""
    model = load_mjcf("""<mujoco><worldbody><geom type="box" size="1 1 0.1" pos="0 0 1"/>
      <body pos="0 0 1.15"><freejoint/><geom type="sphere" size="0.1" mass="1"/></body>
      </worldbody></mujoco>""")
    q = jnp.array([0, 0, 1.15, 1, 0, 0, 0.0])[:, None]
    qd = jnp.array([20.0, 0, 0, 0, 0, 0])[:, None]
    once = StepSettings(control_dt=0.01, substeps=1, mass_matrix_interval=1)

    def spin(friction):
        start = [jnp.tile(x, friction.shape[0]) for x in (q, qd, 0 * qd)]
        rate = control_step(model, once, *start, Factors(friction=friction))[1][4]
        return rate.sum(), rate

    friction = jnp.array([0.0, 0.5, 1.0])
    load = model.geoms.stiffness[0] * 0.05
    expected = 0.01 * 0.1 * load / (0.4 * 0.1**2)
    if differentiated:
        slope, _ = eagerly(jax.grad(spin, has_aux=True))(friction)
        assert slope[1] == pytest.approx(expected)
    else:
        _, rate = eagerly(spin)(friction)
        np.testing.assert_allclose(rate, expected * np.array([0, 0.5, 1]), rtol=1e-9)


def test_without_factors_the_groups_are_the_models_own() -> None:
    """So that constants fold as they always did."""
    groups = groups_of(block())
    assert varied_groups(groups, NOMINAL) is groups
    assert varied_groups(groups, Factors(gravity=batch([2.0]))) is groups
