"""Tendons, servos and dry friction against MuJoCo, through the step itself."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from rpo.physics.factors import NOMINAL, Factors
from rpo.physics.mjcf import load_mjcf
from rpo.physics.step import StepSettings, control_step
from tests.eager import eagerly
from tests.physics.engine import (
    Floats,
    compile_mjcf,
    mujoco_acceleration,
    our_acceleration,
    random_states,
    relative_error,
    without_constraints,
)

# Two like arms (one group of the dynamics) on a free base, and a cart on a slide of its own.
ARMS = """<mujoco>{rest}<worldbody>
  <body name="base"><freejoint/><geom size="0.1" contype="0" conaffinity="0"/>
    <site name="top" pos="0 0 0.1"/>
    <body pos="0 0.2 0"><joint name="left" axis="1 0 0" ref="20" {joint}/>
      <geom type="capsule" size="0.05 0.2" pos="0.1 0 0.2" contype="0" conaffinity="0"/>
      <site name="left" pos="0.05 0.02 0.3"/></body>
    <body pos="0 -0.2 0"><joint name="right" axis="1 0 0" {joint}/>
      <geom type="capsule" size="0.05 0.2" pos="0.1 0 0.2" contype="0" conaffinity="0"/>
      <site name="right" pos="0.05 0.02 0.3"/></body></body>
  <body name="cart" pos="1 0 0"><joint name="cart" type="slide" axis="1 0 1"/>
    <geom size="0.1" contype="0" conaffinity="0"/><site name="hook" pos="0 0.1 0"/></body>
  <site name="wall" pos="0 0 2"/></worldbody></mujoco>"""
FIXED = """<tendon><fixed name="belt" {}><joint joint="left" coef="0.7"/>
  <joint joint="right" coef="-0.4"/><joint joint="cart" coef="1.5"/></fixed></tendon>"""
CORD = """<tendon><spatial name="cord" {}><site site="wall"/><site site="left"/><site site="top"/>
  <site site="right"/><site site="hook"/></spatial></tendon>"""


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def arms(rest: str = "", joint: str = "") -> str:
    return ARMS.format(rest=rest, joint=joint)


def assert_like_mujoco(xml: str, *, constraints: bool = False, control: bool = False) -> Floats:
    """Our accelerations (5, nv) are MuJoCo's."""
    model, compiled = load_mjcf(xml), compile_mjcf(xml)
    q, qd = random_states(model, 5, seed=3)
    draw = np.random.default_rng(4)
    push = draw.uniform(-2, 2, (5, compiled.nu)) if control else None
    expected = mujoco_acceleration(compiled, q, qd, push, constraints=constraints)
    ours = our_acceleration(model if constraints else without_constraints(model), q, qd, push)
    assert relative_error(ours, expected) < 1e-6
    return ours


@functools.cache
def slack_acceleration(kind: str) -> Floats:
    """With a tendon that does nothing, in the same states."""
    model = load_mjcf(arms(kind.format("")))
    return our_acceleration(model, *random_states(model, 5, seed=3))


@pytest.mark.parametrize("kind", [FIXED, CORD])
@pytest.mark.parametrize(
    "figures",
    ['stiffness="300" springlength="0.1"', 'stiffness="300" springlength="0.1 3.2"', 'damping="9"'],
)
def test_springs_and_dampers_are_mujocos(kind: str, figures: str) -> None:
    xml = arms(kind.format(figures))
    model = load_mjcf(xml)
    assert len(model.tendons.names) + len(model.cords.names) == 1
    assert relative_error(slack_acceleration(kind), assert_like_mujoco(xml)) > 1e-3


def test_a_tendon_that_does_nothing_is_not_simulated() -> None:
    """Drawn, measured by a sensor, or pulled by a motor only."""
    drawn = CORD.format('width="0.1"') + '<sensor><tendonpos tendon="cord"/></sensor>'
    model = load_mjcf(arms(drawn))
    assert not model.tendons.names and not model.cords.names
    motor = FIXED.format("") + '<actuator><motor name="pull" tendon="belt" gear="3"/></actuator>'
    model = load_mjcf(arms(motor))
    assert not model.tendons.names and model.actuators.names == ("pull",)


def test_motors_and_servos_are_mujocos() -> None:
    actuators = """<actuator>
      <motor name="left" joint="left" gear="20" ctrlrange="-1 1" forcerange="-0.6 0.6"/>
      <motor name="belt" tendon="belt" gear="3"/>
      <position name="right" joint="right" kp="30" kv="2" ctrlrange="-1 1"/>
      <position name="all" tendon="belt" kp="15" gear="2"/>
      <velocity name="cart" joint="cart" kv="4"/>
      <general name="odd" joint="cart" biastype="affine" gainprm="2" biasprm="1 -3 -0.5"/>
    </actuator>"""
    xml = arms(FIXED.format("") + actuators)
    model = load_mjcf(xml)
    assert model.actuators.servo.tolist() == [False, False, True, True, True, True]
    assert model.tendons.names == ("right", "all", "cart", "odd")
    assert_like_mujoco(xml, control=True)


def test_the_force_on_a_joint_is_limited_as_in_mujoco() -> None:
    limited = 'actuatorfrcrange="-5 3"'
    actuators = '<actuator><motor joint="left" gear="9"/><motor joint="left" gear="3"/></actuator>'
    assert_like_mujoco(arms(actuators, limited), control=True)


def test_the_force_of_a_servo_is_limited_as_in_mujoco() -> None:
    """By its own range, by the joint's, by both; with a gear that turns the range round."""
    actuators = """<actuator>
      <position name="left" joint="left" kp="30" kv="2" gear="-2" forcerange="-2 1"/>
      <position name="right" joint="right" kp="30" forcerange="-4 9"/>
      <velocity name="cart" joint="cart" kv="40" forcerange="-3 3"/></actuator>"""
    xml = arms(actuators, 'actuatorfrcrange="-5 3"')
    read = load_mjcf(xml).actuators
    np.testing.assert_allclose(read.force_lower, [-1.5, -4, -3])
    np.testing.assert_allclose(read.force_upper, [1, 3, 3])
    ours = assert_like_mujoco(xml, control=True)
    free = assert_like_mujoco(arms(re.sub(' forcerange="[^"]*"', "", actuators)), control=True)
    assert relative_error(ours, free) > 0.1


def test_a_weaker_servo_saturates_earlier() -> None:
    """Half the strength is half the gain, stiffness, damping and limit."""
    servo = """<actuator><position name="m" joint="left" kp="{}" kv="{}"
      forcerange="-{} {}"/></actuator>"""
    whole, half = (load_mjcf(arms(servo.format(*x))) for x in ((30, 2, 4, 4), (15, 1, 2, 2)))
    settings = StepSettings(control_dt=1e-3, substeps=1, mass_matrix_interval=1)
    q, qd = (jnp.asarray(x).T for x in random_states(whole, 5, seed=3))
    control, strength = jnp.full((1, 5), 0.4), jnp.full((1, 5), 0.5)
    moved = []
    for model, factors in ((whole, Factors(strength=strength)), (half, NOMINAL), (whole, NOMINAL)):
        force = model.actuators.forces(control, factors.strength)
        step = eagerly(functools.partial(control_step, model, settings))
        moved.append(np.asarray(step(q, qd, force, factors)[1]))
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-12, atol=1e-12)
    assert np.abs(moved[0] - moved[2]).max() > 1e-4


def test_disabled_actuators_do_nothing() -> None:
    off = '<option><flag actuation="disable"/></option>'
    servo = '<actuator><position joint="left" kp="30"/></actuator>'
    model = load_mjcf(arms(off + servo))
    assert not model.actuators.names and not model.tendons.names


def test_dry_friction_is_mujocos_where_a_joint_slides() -> None:
    """MuJoCo's is exact Coulomb friction; ours has its full size from a few times the speed on."""
    numbers = '<custom><numeric name="frictionloss_speed" data="0.02"/></custom>'
    for what in (
        arms(numbers, 'frictionloss="2.5"'),
        arms(numbers + FIXED.format('frictionloss="4"')),
    ):
        model, compiled = load_mjcf(what), compile_mjcf(what)
        compiled.opt.iterations, compiled.opt.tolerance = 1000, 0.0
        q, qd = random_states(model, 5, seed=3)
        qd[:, 6:] = np.sign(qd[:, 6:]) * (10.0 + np.abs(qd[:, 6:]))  # nothing is about to stick
        qd[:, 8] = 3.0 * qd[:, 6]  # the belt slides, too
        expected = mujoco_acceleration(compiled, q, qd, constraints=True)
        assert relative_error(our_acceleration(model, q, qd), expected) < 1e-6
        free = our_acceleration(without_constraints(model), q, qd)
        assert relative_error(free, expected) > 1e-3


def test_dry_friction_is_smooth_at_rest() -> None:
    xml = """<mujoco><option gravity="0 0 0"/><worldbody><body>
      <joint axis="0 0 1" frictionloss="2" armature="0.5"/><geom size="0.1"/></body></worldbody>
      </mujoco>"""
    model = load_mjcf(xml)
    inertia = 0.5 + model.inertia[0, 2, 2]

    def acceleration(speed: float) -> float:
        return float(our_acceleration(model, np.zeros((1, 1)), np.array([[speed]]))[0, 0])

    assert acceleration(0.0) == 0.0
    assert acceleration(0.05) == pytest.approx(-2 * np.tanh(0.5) / inertia, rel=1e-5)
    assert acceleration(-3.0) == pytest.approx(2 / inertia, rel=1e-5)


@pytest.mark.parametrize("kind", ["fixed", "cord"])
def test_limits_are_springs_beyond_the_range(kind: str) -> None:
    """A ball on a string, or a slide whose tendon is limited, hangs where the limit's spring holds
    it; above it falls freely."""
    tendon = {
        "fixed": '<fixed limited="true" range="-0.3 9"><joint joint="down" coef="1"/></fixed>',
        "cord": '<spatial limited="true" range="0 0.3"><site site="a"/><site site="b"/></spatial>',
    }[kind]
    xml = f"""<mujoco><worldbody><site name="a" pos="0 0 1"/><body pos="0 0 1">
      <joint name="down" type="slide" axis="0 0 1"/><geom size="0.1" mass="2"/><site name="b"/>
      </body></worldbody><tendon>{tendon}</tendon></mujoco>"""
    model = load_mjcf(xml)
    still = np.zeros((1, 1))
    hanging = np.array([[-0.3 - 2 * 9.81 / 1000]])
    assert np.abs(our_acceleration(model, hanging, still)).max() < 1e-6
    assert our_acceleration(model, np.array([[-0.2]]), still)[0, 0] == pytest.approx(-9.81)
    braked = our_acceleration(model, hanging, np.array([[-0.5]]))
    assert braked[0, 0] == pytest.approx(10 * 0.5 / 2, rel=1e-5)
    compiled = compile_mjcf(xml)  # MuJoCo's constraint sets in at the same length
    for height, active in ((-0.299, 0), (-0.301, 1)):
        data = mujoco.MjData(compiled)
        data.qpos[:] = height
        mujoco.mj_forward(compiled, data)
        assert data.nefc == active


def test_derivatives_through_tendons_are_those_of_the_step() -> None:
    cords = CORD.format('stiffness="90" springlength="0.2 0.5" damping="2"')
    belts = FIXED.format('stiffness="50" damping="3" frictionloss="1"')
    xml = arms(belts + cords, 'frictionloss="0.3"')
    model = load_mjcf(xml)
    settings = StepSettings(control_dt=0.01, substeps=1, mass_matrix_interval=1)
    draw = np.random.default_rng(5)
    state = [jnp.asarray(x.T) for x in random_states(model, 5, seed=6)]
    weights = draw.normal(size=(model.nv, 1))

    @eagerly
    def value(q, qd):
        return (weights * control_step(model, settings, q, qd, 0 * qd)[1]).sum(axis=0)

    moves = [draw.normal(size=x.shape) for x in state]
    slopes = eagerly(jax.grad(lambda *s: value(*s).sum(), argnums=(0, 1)))(*state)
    predicted = sum((s * m).sum(axis=0) for s, m in zip(slopes, moves, strict=True))
    h = 1e-6
    ahead, back = (value(*(x + k * m for x, m in zip(state, moves, strict=True))) for k in (h, -h))
    np.testing.assert_allclose(predicted, (ahead - back) / (2 * h), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (FIXED.format('armature="1" stiffness="1"'), "tendon 'belt': armature is not supported"),
        (
            CORD.replace('<site site="top"/>', '<pulley divisor="2"/><site site="top"/>').format(
                'stiffness="1"'
            ),
            "tendon 'cord' is not supported: it must run straight",
        ),
        (
            CORD.format("") + '<actuator><motor name="m" tendon="cord"/></actuator>',
            "actuator 'm' is not supported: it pulls on a spatial tendon",
        ),
        (
            '<actuator><general name="m" joint="left" dyntype="filter"/></actuator>',
            "actuator 'm' is not supported: it has an activation of its own",
        ),
        (
            FIXED.format("")
            + '<actuator><position name="m" tendon="belt" kp="1" forcerange="-1 1"/></actuator>',
            "actuator 'm' is not supported: the force of a servo on a tendon cannot be limited",
        ),
        (
            '<actuator><position name="m" joint="left" kp="1" forcerange="-1 1"/>'
            '<motor joint="left"/></actuator>',
            "actuator 'm' is not supported: a servo of limited force must be alone on its joint",
        ),
        (
            '<actuator><general name="m" joint="left" biastype="affine" biasprm="0 1"/></actuator>',
            "actuator 'm' is not supported: its position or velocity feedback is positive",
        ),
        (
            '<actuator><motor name="m" site="top"/></actuator>',
            "actuator 'm' is not supported: only motors and servos",
        ),
    ],
)
def test_what_is_not_simulated_is_refused_by_name(rest: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_mjcf(arms(rest))
