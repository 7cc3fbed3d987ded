"""Planes anywhere, and cylinders and ellipsoids on them, against MuJoCo's geometry and the ground.

The force is the ground's, which other tests check: here it is compared with a turned world.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from rpo.physics import joints, kinematics
from rpo.physics.mjcf import load_mjcf
from rpo.physics.model import Model
from rpo.physics.plane_contact import deepest_point, plane_sets
from rpo.physics.step import StepSettings, control_step
from rpo.physics.topology import groups_of
from tests.eager import eagerly
from tests.marks import nightly, rest_nightly

SHAPES = {
    "sphere": 'type="sphere" size="0.1"',
    "capsule": 'type="capsule" size="0.05 0.1"',
    "box": 'type="box" size="0.1 0.05 0.08"',
    "ellipsoid": 'type="ellipsoid" size="0.1 0.05 0.08"',
    "cylinder": 'type="cylinder" size="0.1 0.07"',
}
STEP = StepSettings(control_dt=0.01, substeps=20, mass_matrix_interval=20)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def body_on_plane(
    shape: str, plane: str = 'zaxis="1 2 3" pos="0.3 -0.2 0.1"', rest: str = ""
) -> str:
    return f"""<mujoco>{rest}<worldbody><geom type="plane" size="1 1 1" {plane}/>
      <body pos="0 0 1"><freejoint/><geom {shape} mass="1" pos="0.02 0.03 -0.01"
        euler="30 20 10"/></body></worldbody></mujoco>"""


def random_poses(count: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    turn = draw.normal(size=(4, count))
    place = draw.uniform(-0.5, 0.5, (3, count)) + np.array([[0.0], [0.0], [0.2]])
    return np.concatenate([place, turn / np.linalg.norm(turn, axis=0)])


def stepped(model: Model, q: np.ndarray, qd: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Coordinates and velocities a control step later, without forces."""
    step = jax.jit(lambda q, qd: control_step(model, STEP, q, qd, 0 * qd))
    return step(jnp.asarray(q), jnp.asarray(qd))


def smallest_distances(model: Model, q: np.ndarray) -> np.ndarray:
    """Of the places of a single free body from its planes (batch,)."""
    groups = groups_of(model)
    start = joints.split(jnp.asarray(q), [group.coordinates for group in groups])
    (origin,) = kinematics.origins(groups, start)
    (pose,) = kinematics.link_poses(groups, [joints.about_origin(groups[0], start[0])])
    sets = plane_sets(model)
    assert sets is not None
    distances = []
    for places in sets[0]:
        point = deepest_point(places, pose)
        world = [p + o for p, o in zip(point, origin, strict=True)]
        distances.append(sum(n * w for n, w in zip(places.normal, world, strict=True)))
        distances[-1] = distances[-1] - places.offset
    return np.asarray(jnp.concatenate(distances).min(axis=0))


@pytest.mark.parametrize("kind", SHAPES)
def test_the_deepest_point_is_mujocos(kind: str) -> None:
    xml = body_on_plane(SHAPES[kind])
    model, compiled = load_mjcf(xml), mujoco.MjModel.from_xml_string(xml)
    compiled.geom_margin[:] = 2.0  # it reports what is not yet touching, too
    q = random_poses(40)
    expected = []
    for column in q.T:
        data = mujoco.MjData(compiled)
        data.qpos = column
        mujoco.mj_forward(compiled, data)
        expected.append(min(data.contact.dist))
    # A disc's edge is rounded where it lies flat: 0.01^2 / 2 of the radius over the sine of the
    # tilt, which is below 0.1 for few of these poses.
    tolerance = 2e-4 if kind == "cylinder" else 1e-9
    np.testing.assert_allclose(smallest_distances(model, q), expected, atol=tolerance)


@pytest.mark.parametrize("kind", rest_nightly(reversed(SHAPES), first=2))
def test_a_tilted_world_is_the_level_one_turned(kind: str) -> None:
    """Plane, gravity and start turned together: the step's result is turned and nothing else."""
    turn = np.array([0.8, 0.4, -0.4, 0.2])
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, turn)
    matrix = matrix.reshape(3, 3)
    gravity = matrix @ [0, 0, -9.81]
    text = " ".join(map(str, turn))
    tilted = load_mjcf(
        body_on_plane(
            SHAPES[kind],
            f'quat="{text}"',
            f'<option gravity="{" ".join(f"{g:.17g}" for g in gravity)}"/>',
        )
    )
    level = load_mjcf(body_on_plane(SHAPES[kind], "", '<option gravity="0 0 -9.81"/>'))
    assert not len(tilted.contact_link)
    assert bool(len(level.contact_link)) == (kind != "ellipsoid")
    q = random_poses(30, seed=1)
    q[2] = np.random.default_rng(2).uniform(-0.02, 0.1, 30)
    qd = np.random.default_rng(3).normal(size=(6, 30))
    after, speed = stepped(level, q, qd)
    fallen = qd[2] - 9.81 * 0.01
    assert (np.abs(speed[2] - fallen) > 0.1).sum() > 10  # contact counts
    turned = q.copy()
    turned[:3] = matrix @ q[:3]
    turned[3:] = np.stack([_product(turn, quaternion) for quaternion in q[3:].T], axis=1)
    start = np.concatenate([matrix @ qd[:3], matrix @ qd[3:]])
    result = stepped(tilted, turned, start)
    np.testing.assert_allclose(result[0][:3], matrix @ np.asarray(after[:3]), atol=1e-10)
    np.testing.assert_allclose(result[1][:3], matrix @ np.asarray(speed[:3]), atol=1e-8)
    np.testing.assert_allclose(result[1][3:], matrix @ np.asarray(speed[3:]), atol=1e-7)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    result = np.zeros(4)
    mujoco.mju_mulQuat(result, a, b)
    return result


def test_a_cylinder_stands_upright_and_gradients_are_finite() -> None:
    """Its ends have no single deepest point there."""
    xml = """<mujoco><worldbody><geom type="plane" size="1 1 1"/><body pos="0 0 0.1"><freejoint/>
      <geom type="cylinder" size="0.05 0.1" density="1000"/></body></worldbody></mujoco>"""
    model = load_mjcf(xml)
    q = jnp.array([0, 0, 0.0999, 1, 0.01, 0, 0])[:, None]
    qd = jnp.zeros((6, 1))

    @jax.jit
    def run(q, qd):
        def one(state, _):
            return control_step(model, STEP, *state, 0 * qd), None

        return jax.lax.scan(one, (q, qd), length=200)[0]

    end, speed = run(q, qd)
    assert abs(end[2, 0] - 0.1) < 1e-3 and abs(end[4, 0]) < 5e-3  # it rocks for a while
    assert np.abs(speed).max() < 0.2
    still = q.at[4].set(0.0)
    few = dataclasses.replace(STEP, substeps=2, mass_matrix_interval=2)
    slope = jax.grad(lambda q: sum(x.sum() for x in control_step(model, few, q, qd, qd)))
    assert np.isfinite(eagerly(slope)(still)).all()


@nightly
def test_derivatives_on_a_tilted_plane_are_those_of_the_step() -> None:
    for kind in ("ellipsoid", "cylinder"):
        model = load_mjcf(body_on_plane(SHAPES[kind], 'zaxis="1 2 3"'))
        q = random_poses(8, seed=4)
        q[:3] = 0.05 * np.array([[1.0], [2.0], [3.0]]) / 14**0.5
        qd = np.random.default_rng(5).normal(size=(6, 8))
        weights = np.random.default_rng(6).normal(size=(6, 1))

        @jax.jit
        def both(q, qd, model=model, weights=weights):
            def value(q, qd):
                return (weights * control_step(model, STEP, q, qd, 0 * qd)[1]).sum(axis=0)

            found, transpose = jax.vjp(value, q, qd)
            return found, transpose(jnp.ones_like(found))

        slopes = both(jnp.asarray(q), jnp.asarray(qd))[1]
        moves = [np.random.default_rng(7).normal(size=x.shape) for x in (q, qd)]
        predicted = sum((s * m).sum(axis=0) for s, m in zip(slopes, moves, strict=True))
        differences = [
            (
                both(q + h * moves[0], qd + h * moves[1])[0]
                - both(q - h * moves[0], qd - h * moves[1])[0]
            )
            / (2 * h)
            for h in (1e-6, 5e-7)
        ]
        smooth = np.abs(differences[0] - differences[1]) < 1e-4 * (1 + np.abs(differences[1]))
        assert smooth.sum() >= 4
        np.testing.assert_allclose(predicted[smooth], differences[1][smooth], rtol=1e-4, atol=1e-4)


def test_one_link_may_touch_several_planes() -> None:
    """A ball in a gutter of two planes is held by both: it rests where their forces balance."""
    xml = """<mujoco><custom><numeric name="contact_stiffness" data="5000"/></custom><worldbody>
      <geom type="plane" size="1 1 1" zaxis="1 0 1"/>
      <geom type="plane" size="1 1 1" zaxis="-1 0 1"/>
      <body pos="0 0 0.2"><freejoint/><geom size="0.1" mass="2"/></body></worldbody></mujoco>"""
    model = load_mjcf(xml)
    depth = 2 * 9.81 / (2 * 5000 * 0.5**0.5)  # along each normal
    q = np.array([0, 0, (0.1 - depth) * 2**0.5, 1, 0, 0, 0])[:, None]
    _, qd = stepped(model, q, np.zeros((6, 1)))
    assert np.abs(qd).max() < 1e-9


@pytest.mark.parametrize("condim", [1, 3])
def test_contact_of_dimension_one_has_no_friction(condim: int) -> None:
    xml = body_on_plane('type="sphere" size="0.1"', f'condim="{condim}"')
    xml = xml.replace('euler="30 20 10"', f'condim="{condim}"')
    model = load_mjcf(xml)
    assert model.friction_coefficient.tolist() == [1.0 if condim == 3 else 0.0]
    compiled = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(compiled)
    data.qpos[2] = 0.05
    mujoco.mj_forward(compiled, data)
    assert data.contact.dim[0] == condim
