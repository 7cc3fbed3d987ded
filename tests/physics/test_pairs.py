"""Contact between links against an implementation in plain loops, and against MuJoCo's geometry."""

from __future__ import annotations

import itertools
import re
import warnings

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from rpo.physics import joints, kinematics, pairs
from rpo.physics.geoms import MATERIAL, Geoms
from rpo.physics.mjcf import load_mjcf
from rpo.physics.model import Model
from rpo.physics.step import StepSettings, control_step
from rpo.physics.topology import groups_of
from tests.marks import rest_nightly

ENVS = 12
NUMBERS = """<custom><numeric name="pair_stiffness" data="700"/>
  <numeric name="pair_damping" data="30"/>
  <numeric name="pair_friction_stiffness" data="20"/></custom>"""
BODIES = f"""<mujoco>{NUMBERS}<worldbody>
  <geom name="shelf" type="box" size="0.3 0.2 0.05" pos="0 0 0.9" euler="10 20 30"/>
  <body name="crate" pos="0 0 2"><freejoint/>
    <geom name="crate" type="box" size="0.1 0.15 0.2" pos="0.02 0 0" euler="0 40 0"/>
    <geom name="knob" type="sphere" size="0.08" pos="0.2 0 0" friction="0.4"/></body>
  <body name="brick" pos="1 0 2"><freejoint/>
    <geom name="brick" type="box" size="0.12 0.07 0.05"/></body>
  <body name="pill" pos="0 1 2"><freejoint/>
    <geom name="pill" type="capsule" size="0.06 0.15" friction="0.7"/></body>
  <body name="ball" pos="0 -1 2"><freejoint/><geom name="ball" type="sphere" size="0.1"/></body>
</worldbody></mujoco>"""


@pytest.fixture(scope="module")
def model() -> Model:
    return load_mjcf(BODIES)


def random_state(model: Model, envs: int = ENVS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Crowded: every body overlaps with several others."""
    rng = np.random.default_rng(seed)
    q = np.zeros((model.nq, envs))
    for body in range(4):
        rows = slice(7 * body, 7 * body + 7)
        turn = rng.normal(size=(4, envs))
        place = rng.uniform(-0.22, 0.22, (3, envs)) + np.array([[0.0], [0.0], [0.9]])
        q[rows] = np.concatenate([place, turn / np.linalg.norm(turn, axis=0)])
    return q, rng.normal(size=(model.nv, envs))


def wrenches(model: Model, q: jax.Array, qd: jax.Array) -> jax.Array:
    """Moment about its own centre and force on each of the four free bodies (4, 6, envs)."""
    groups = groups_of(model)
    start = joints.split(q, [group.coordinates for group in groups])
    velocities = joints.split(qd, [group.velocities for group in groups])
    origins = kinematics.origins(groups, start)
    moved = [joints.about_origin(g, c) for g, c in zip(groups, start, strict=True)]
    poses = kinematics.link_poses(groups, moved)
    subspaces = kinematics.motion_subspaces(groups, poses)
    moving = kinematics.link_velocities(groups, subspaces, velocities)
    result = pairs.pair_wrenches(model, groups, poses, moving, origins)
    order = [model.link_names[link] for group in groups for link in group.links]
    rows = jnp.concatenate([jnp.stack([*w.angular, *w.linear], axis=1) for w in result])
    return rows[np.array([order.index(name) for name in ("crate", "brick", "pill", "ball")])]


# The same in plain loops, one environment, one pair, one edge at a time.


def distance_to_box(point: np.ndarray, half: np.ndarray) -> float:
    q = np.abs(point) - half
    return float(np.linalg.norm(np.maximum(q, 0)) + min(q.max(), 0.0))


def edge_coordinate(start: np.ndarray, end: np.ndarray, half: np.ndarray) -> float:
    low, high, golden = 0.0, 1.0, 0.61803398875

    def height(u: float) -> float:
        return distance_to_box(start + u * (end - start), half)

    left, right = high - golden, golden
    for _ in range(10):
        if height(left) < height(right):
            high, right = right, left
            left = low + (1 - golden) * (high - low)
        else:
            low, left = left, right
            right = low + golden * (high - low)
    return 0.5 * (low + right) if height(left) < height(right) else 0.5 * (left + high)


def surface_point(point: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Closest point of the surface and the outward normal there."""
    clipped = np.clip(point, -half, half)
    away = point - clipped
    if away.any():
        return clipped, away / np.linalg.norm(away)
    face = int(np.argmax(np.abs(point) - half))
    normal = np.zeros(3)
    normal[face] = np.sign(point[face])
    clipped[face] = normal[face] * half[face]
    return clipped, normal


def box_edges(half: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    edges = []
    for axis in range(3):
        for signs in itertools.product((-1.0, 1.0), repeat=2):
            corner = np.insert(np.array(signs), axis, -1.0) * half
            end = corner.copy()
            end[axis] *= -1
            edges.append((corner, end))
    return edges


class Shape:
    """A shape of one environment: pose, velocity of its body, and figures."""

    def __init__(self, geoms: Geoms, k: int, pose: tuple, twist: tuple) -> None:
        self.rotation, self.center = pose
        self.origin, self.linear, self.angular = twist
        self.half, self.radius = geoms.half_extents[k], geoms.radius[k]
        self.material = np.array([getattr(geoms, field)[k] for field in MATERIAL])

    def velocity_at(self, point: np.ndarray) -> np.ndarray:
        return self.linear + np.cross(self.angular, point - self.origin)


def directed_forces(a: Shape, b: Shape) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Point on A, point on B and force on A, in the world, of every edge that touches."""

    def local(point: np.ndarray) -> np.ndarray:
        return b.rotation.T @ (point - b.center)

    corners = a.half > 0
    round_a = not corners.all()
    share = {0: 1 / 12, 1: 1 / 4, 3: 1.0}[int(corners.sum())]
    ke, kd, kf, mu = (a.material + b.material) / 2
    found = []
    for ends in box_edges(a.half):
        start, end = (local(a.center + a.rotation @ e) for e in ends)
        point = start + edge_coordinate(start, end, b.half) * (end - start)
        closest, normal = surface_point(point, b.half)
        if not round_a:
            _, normal = surface_point(local(a.center), b.half)
        distance = normal @ (point - closest) - a.radius - b.radius
        if distance >= 0:
            continue
        on_a = b.center + b.rotation @ (point - a.radius * normal)
        on_b = b.center + b.rotation @ (closest + b.radius * normal)
        normal = b.rotation @ normal
        velocity = a.velocity_at(on_a) - b.velocity_at(on_b)
        closing = normal @ velocity
        sliding = velocity - closing * normal
        press = ke * distance + kd * min(closing, 0.0)
        speed = np.linalg.norm(sliding)
        brake = sliding / speed * min(kf * speed, -mu * press)
        found.append((on_a, on_b, -share * (normal * press + brake)))
    return found


def expected_wrenches(model: Model, q: np.ndarray, qd: np.ndarray) -> np.ndarray:
    """As `wrenches`, for one environment (4, 6)."""
    spec = mujoco.MjModel.from_xml_string(BODIES)
    data = mujoco.MjData(spec)
    data.qpos[:] = q
    mujoco.mj_kinematics(spec, data)
    geoms, shapes = model.geoms, []
    for k, name in enumerate(geoms.names):
        geom = data.geom(name)
        link = int(geoms.link[k])
        twist = (np.zeros(3),) * 3
        if link >= 0:
            velocity = qd[6 * link : 6 * link + 6]
            twist = (q[7 * link : 7 * link + 3], velocity[:3], velocity[3:])
        shapes.append(Shape(geoms, k, (geom.xmat.reshape(3, 3), geom.xpos.copy()), twist))
    result = np.zeros((4, 6))
    for pair in geoms.pairs:
        a, b = sorted(map(int, pair), key=lambda k: np.count_nonzero(geoms.half_extents[k]))
        both = geoms.is_box[a] and geoms.is_box[b]
        for one, other in ((a, b), (b, a))[: 2 if both else 1]:
            for on_a, on_b, force in directed_forces(shapes[one], shapes[other]):
                for geom, point, f in ((one, on_a, force), (other, on_b, -force)):
                    if (link := int(geoms.link[geom])) >= 0:
                        arm = point - q[7 * link : 7 * link + 3]
                        result[link] += np.concatenate([np.cross(arm, f), f])
    return result


@pytest.mark.parametrize("slots", rest_nightly([1, 8]))
def test_wrenches_are_those_of_plain_loops(model, slots, monkeypatch):
    """However few slots a round has, no contact is left out."""
    monkeypatch.setattr(pairs, "SLOTS", slots)
    q, qd = random_state(model)
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(lambda *s: wrenches(model, *s))(jnp.asarray(q), jnp.asarray(qd)))
    expected = np.stack([expected_wrenches(model, q[:, k], qd[:, k]) for k in range(ENVS)], -1)
    assert (np.abs(expected).max(axis=(0, 1)) > 1).sum() > ENVS // 2
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())


def test_gradients_are_those_of_finite_differences(model, monkeypatch):
    """Where no edge's bracket changes within the difference: nearly everywhere; in many rounds."""
    monkeypatch.setattr(pairs, "BACKWARD_SLOTS", 1)
    q, qd = random_state(model, envs=40, seed=1)
    rng = np.random.default_rng(2)
    weights, dq, dqd = (
        rng.normal(size=(4, 6, 1)),
        rng.normal(size=q.shape),
        rng.normal(size=(24, 1)),
    )
    with jax.enable_x64(True):

        @jax.jit
        def both(q, qd):
            value, transpose = jax.vjp(
                lambda q, qd: (weights * wrenches(model, q, qd)).sum(axis=(0, 1)), q, qd
            )
            return value, transpose(jnp.ones_like(value))

        gradients = both(q, qd)[1]
        slope = (gradients[0] * dq).sum(axis=0) + (gradients[1] * dqd).sum(axis=0)
        ahead, behind = (both(q + h * dq, qd + h * dqd)[0] for h in (1e-7, -1e-7))
    difference = np.asarray(ahead - behind) / 2e-7
    error = np.abs(np.asarray(slope) - difference) / np.abs(difference).max()
    assert np.quantile(error, 0.8) < 1e-6


def test_an_environment_does_not_notice_the_others(model):
    q, qd = (x.astype(np.float32) for x in random_state(model))
    step = jax.jit(lambda q, qd: wrenches(model, q, qd))
    together = np.asarray(step(q, qd))
    poisoned = q.copy()
    poisoned[:, 3] = np.nan
    others = np.arange(ENVS) != 3
    np.testing.assert_array_equal(
        np.asarray(step(poisoned, qd))[..., others], together[..., others]
    )
    alone = np.concatenate([step(q[:, k : k + 1], qd[:, k : k + 1]) for k in range(3)], -1)
    np.testing.assert_allclose(alone, together[..., :3], rtol=1e-4, atol=1e-3)


def test_what_lies_on_a_shelf_comes_to_rest():
    """A box of 1 kg sinks in until its four lower edges and the shelf's points carry it."""
    xml = f"""<mujoco>{NUMBERS}<worldbody>
      <geom type="box" size="0.5 0.5 0.05" pos="0 0 1" contype="2" conaffinity="2"/>
      <body pos="0 0 1.2"><freejoint/>
        <geom type="box" size="0.1 0.1 0.1" mass="1" contype="2" conaffinity="2"/></body>
    </worldbody></mujoco>"""
    model = load_mjcf(xml)
    settings = StepSettings(control_dt=0.02, substeps=20, mass_matrix_interval=20)
    force = jnp.zeros((6, 1))

    @jax.jit
    def fall(q, qd):
        return jax.lax.fori_loop(
            0, 100, lambda _, s: control_step(model, settings, *s, force), (q, qd)
        )

    q, qd = fall(jnp.array([0, 0, 1.2, 1, 0, 0, 0.0])[:, None], jnp.zeros((6, 1)))
    assert float(q[2, 0]) == pytest.approx(1.15, abs=3e-3)
    np.testing.assert_allclose(q[3:, 0], [1, 0, 0, 0], atol=1e-3)  # level
    assert float(jnp.abs(qd).max()) < 0.1  # points that barely touch come and go


TOUCHING = {
    "sphere": '<geom name="b" type="sphere" size="0.2"/>',
    "box": '<geom name="b" type="box" size="0.2 0.3 0.1"/>',
    "capsule": '<geom name="b" type="capsule" size="0.1 0.3"/>',
    "cylinder": '<geom name="b" type="cylinder" size="0.2 0.3"/>',
}


@pytest.mark.parametrize("kind", TOUCHING)
def test_depth_and_normal_of_a_sphere_are_mujocos(kind):
    xml = f"""<mujoco>{NUMBERS}<worldbody>
      <body name="a"><freejoint/><geom name="a" type="sphere" size="0.15"/></body>
      <body name="b"><freejoint/>{TOUCHING[kind]}</body></worldbody></mujoco>"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both start at the origin
        model = load_mjcf(xml)
    spec = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(spec)
    rng, checked = np.random.default_rng(0), 0
    place = jax.jit(lambda q: two_wrenches(model, q))
    for _ in range(60):
        turn = rng.normal(size=4)
        q = np.array(
            [*rng.uniform(-0.4, 0.4, 3), 1, 0, 0, 0, 0, 0, 0, *turn / np.linalg.norm(turn)]
        )
        data.qpos[:] = q
        mujoco.mj_kinematics(spec, data)
        segment = np.zeros(6)
        depth = -mujoco.mj_geomDistance(spec, data, 0, 1, 1.0, segment)
        if depth > 0.12:
            continue  # the centre may be inside: there MuJoCo's direction is another
        force = np.asarray(place(jnp.asarray(q, jnp.float32)[:, None]))[:, 0]
        assert np.linalg.norm(force) == pytest.approx(700 * max(depth, 0.0), rel=1e-3, abs=0.05)
        if depth > 0.01:
            direction = (segment[:3] - segment[3:]) / depth
            cosine = direction @ force / np.linalg.norm(force)
            assert abs(cosine) == pytest.approx(1.0, abs=1e-3)
            checked += 1
    assert checked > 5


def two_wrenches(model: Model, q: jax.Array) -> jax.Array:
    """Force on the first of two free bodies at rest (3, envs)."""
    groups = groups_of(model)
    start = joints.split(q, [group.coordinates for group in groups])
    origins = kinematics.origins(groups, start)
    moved = [joints.about_origin(g, c) for g, c in zip(groups, start, strict=True)]
    poses = kinematics.link_poses(groups, moved)
    still = tuple(jnp.zeros((group.size, 1)) for group in groups for _ in range(6))[:6]
    moving = [kinematics.Motion(still[:3], still[3:]) for _ in groups]
    first = pairs.pair_wrenches(model, groups, poses, moving, origins)[0]
    return jnp.concatenate([x[:1] for x in first.linear])


def test_pairs_are_those_of_mujoco():
    """All shapes overlap, so that MuJoCo reports every pair that its filters let through."""
    ball = '<geom type="sphere" size="0.5" contype="{}" conaffinity="{}"/>'
    hinge = '<joint axis="0 1 0"/>'
    xml = f"""<mujoco><worldbody>{ball.format(1, 1)}
      <body name="a">{hinge}{ball.format(1, 1)}
        <body name="b">{hinge}{ball.format(3, 1)}
          <body name="fixed">{ball.format(1, 2)}</body>
          <body name="c">{hinge}{ball.format(0, 2)}</body></body></body>
      <body name="d">{hinge}{ball.format(2, 4)}{ball.format(1, 0)}</body>
      <body name="e"><freejoint/>{ball.format(1, 1)}</body></worldbody>
      <contact><exclude body1="a" body2="e"/></contact></mujoco>"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        geoms = load_mjcf(xml).geoms
    spec = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(spec)
    mujoco.mj_forward(spec, data)
    expected = {tuple(sorted(map(int, contact.geom))) for contact in data.contact}
    index = [int(name.removeprefix("geom_")) for name in geoms.names]
    assert {tuple(sorted(index[k] for k in pair)) for pair in geoms.pairs} == expected
    assert len(expected) > 8


BOX = '<geom name="{}" type="box" size="0.1 0.1 0.1"/>'


def two_bodies(first: str, second: str, rest: str = "", apart: float = 1.0) -> str:
    return f"""<mujoco><worldbody><body name="one">{FREE}{first}</body>
      <body name="two" pos="{apart} 0 0">{FREE}{second}</body></worldbody>{rest}</mujoco>"""


FREE = "<freejoint/>"


def test_what_cannot_touch_a_link_is_refused_by_name():
    cylinder = '<geom name="can" type="cylinder" size="0.1 0.1" contype="2" conaffinity="2"/>'
    other = '<geom type="sphere" size="0.1" contype="2" conaffinity="2"/>'
    other = other.replace("sphere", "box").replace('size="0.1"', 'name="brick" size="1 1 1"')
    message = "geom 'can' of body 'one': a cylinder cannot touch geom 'brick' of body 'two', a box"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_mjcf(two_bodies(cylinder, other))
    egg = cylinder.replace("cylinder", "ellipsoid").replace('"0.1 0.1"', '"0.1 0.1 0.2"')
    with pytest.raises(ValueError, match="an ellipsoid cannot touch geom 'brick'"):
        load_mjcf(two_bodies(egg, other))


def test_deep_overlaps_and_empty_exclusions_are_said():
    with pytest.warns(UserWarning, match="geom 'a' of body 'one' has its centre inside geom 'b'"):
        load_mjcf(two_bodies(BOX.format("a"), BOX.format("b"), apart=0.05))
    exclude = '<contact><exclude body1="one" body2="two"/></contact>'
    with pytest.warns(UserWarning, match="excludes every pair of shapes"):
        model = load_mjcf(two_bodies(BOX.format("a"), BOX.format("b"), exclude))
    assert not len(model.geoms.pairs)
