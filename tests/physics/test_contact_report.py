"""The contact forces that are shown are those that move the bodies and carry them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.physics.contact_report import contact_forces, contact_links, contact_names
from rpo.physics.factors import Factors
from rpo.physics.mjcf import load_mjcf
from rpo.physics.step import StepSettings, control_step
from rpo.physics.topology import quaternion_matrix

# A box on the ground; one on a slope of 15 degrees; one on a block that is fixed to the world, and
# one more on top of that.
BODIES = """<mujoco>
  <custom>
    <numeric name="contact_stiffness" data="1000"/>
    <numeric name="contact_damping" data="5000"/>
    <numeric name="friction_stiffness" data="50"/>
    <numeric name="pair_damping" data="20"/>
    <numeric name="pair_friction_stiffness" data="20"/>
  </custom>
  <default><geom mass="1" friction="0.5"/></default>
  <worldbody>
    <geom type="plane" size="1 1 1" contype="1" conaffinity="1"/>
    <geom type="plane" size="1 1 1" euler="0 15 0" pos="0 0 0.3" contype="2" conaffinity="2"/>
    <geom name="block" type="box" size="0.3 0.3 0.1" pos="3 0 1" contype="4" conaffinity="4"/>
    <body name="low" pos="-3 0 0.1"><freejoint/>
      <geom type="box" size="0.1 0.2 0.1" contype="1" conaffinity="1"/></body>
    <body name="slope" pos="0 0 0.41" euler="0 15 0"><freejoint/>
      <geom type="box" size="0.1 0.2 0.1" contype="2" conaffinity="2"/></body>
    <body name="tray" pos="3 0 1.13"><freejoint/>
      <geom type="box" size="0.2 0.2 0.03" contype="12" conaffinity="12"/></body>
    <body name="load" pos="3 0 1.21"><freejoint/>
      <geom type="box" size="0.1 0.1 0.05" contype="8" conaffinity="8"/></body>
  </worldbody>
</mujoco>"""
MASS = np.array([[1.0, 2.0, 0.5], [1.0, 1.0, 1.0], [1.0, 0.7, 1.0], [1.0, 1.5, 3.0]])
GRAVITY = np.array([1.0, 1.5, 0.6])
FRICTION = np.array([1.0, 0.8, 0.1])
MODEL = load_mjcf(BODIES)
START = np.array(
    [
        *(-3, 0, 0.1, 1, 0, 0, 0),
        *(0, 0, 0.41, np.cos(np.pi / 24), 0, np.sin(np.pi / 24), 0),
        *(3, 0, 1.13, 1, 0, 0, 0),
        *(3, 0, 1.21, 1, 0, 0, 0),
    ]
)


FACTORS = Factors(
    mass=jnp.asarray(MASS, jnp.float32),
    friction=jnp.asarray(FRICTION, jnp.float32),
    gravity=jnp.asarray(GRAVITY, jnp.float32),
)
DT = 5e-4


@jax.jit
def moved(q: jax.Array, qd: jax.Array, steps: int) -> tuple[jax.Array, ...]:
    """The state after some substeps, and the points and forces in it."""
    settings = StepSettings(control_dt=DT, substeps=1, mass_matrix_interval=1)

    def step(_, state):
        return control_step(MODEL, settings, *state, 0 * qd, FACTORS)

    q, qd = jax.lax.fori_loop(0, steps, step, (q, qd))
    return q, qd, *contact_forces(MODEL, q, qd, FACTORS)


def by_link(force: np.ndarray) -> np.ndarray:
    """Sum of all forces on each body (links, 3, batch), the opposite ones included."""
    total = np.zeros((MODEL.num_links, 3, force.shape[-1]))
    np.add.at(total, list(contact_links(MODEL)), force)
    total[2] -= force[contact_names(MODEL).index("load on tray")]
    return total


def test_they_are_named() -> None:
    names = contact_names(MODEL)
    assert names[:2] == ("low 1", "low 2")
    assert names[8:10] == ("slope 1", "slope 2")
    assert set(names[16:]) == {"tray on block", "load on tray"}
    assert contact_names(MODEL, [3, 9, 12]) == ("low", "slope 1", "slope 2")
    links = [MODEL.link_names[link] for link in contact_links(MODEL)]
    assert all(name.startswith(link) for name, link in zip(names, links, strict=True))


def test_they_are_what_moves_the_bodies() -> None:
    """m (a - g) of each body is the sum of its forces, and the rate of its spin their moment."""
    draws = np.random.default_rng(2)
    q = START[:, None] + 0.01 * draws.normal(size=(28, 3))
    q[[2, 9, 16, 23]] -= [[0.03], [0.04], [0.02], [0.03]]
    for row in range(3, 28, 7):
        q[row : row + 4] /= np.linalg.norm(q[row : row + 4], axis=0)
    qd = 0.1 * draws.normal(size=(24, 3))
    q, qd = q.astype(np.float32), qd.astype(np.float32)
    place, force = jax.device_get(moved(q, qd, 0)[2:])
    q_after, after = (np.array(x) for x in moved(q, qd, 1)[:2])
    for body in range(4):  # the step integrates the twist about where it began: a - w x v
        way = (q_after - q)[7 * body : 7 * body + 3]
        rows = slice(6 * body, 6 * body + 3), slice(6 * body + 3, 6 * body + 6)
        after[rows[0]] -= np.cross(after[rows[1]], way, axis=0)
        after[rows[0]] += DT * np.cross(qd[rows[1]], qd[rows[0]], axis=0)
    rate = ((after - qd) / DT).reshape(4, 6, 3)
    expected = MASS[:, None] * (rate[:, :3] - GRAVITY * np.array([0, 0, -9.81])[:, None])
    assert (np.abs(expected).max(axis=(1, 2)) > 50).all()
    np.testing.assert_allclose(by_link(force), expected, rtol=2e-3, atol=0.1)
    for body in (0, 1):  # boxes on planes; between boxes a point alone does not tell the moment
        on = np.array(contact_links(MODEL)) == body
        arm = place[on] - q[7 * body : 7 * body + 3]
        moment = np.cross(arm, force[on], axis=1).sum(axis=0)
        turn = np.stack([quaternion_matrix(x) for x in q[7 * body + 3 : 7 * body + 7].T])
        inertia = np.einsum("bij,jk,blk->bil", turn, MODEL.inertia[body], turn)
        inertia *= MASS[body][:, None, None]
        turning = np.einsum("bij,jb->bi", inertia, rate[body, 3:])
        np.testing.assert_allclose(moment.T, turning, rtol=2e-3, atol=0.02)


@pytest.fixture(scope="module")
def settled() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates, points and forces after two seconds."""
    q = np.repeat(START[:, None], 3, axis=1).astype(np.float32)
    q, _, place, force = jax.device_get(moved(q, np.zeros((24, 3), np.float32), 4000))
    return q, place, force


def test_they_carry_what_rests(settled: tuple[np.ndarray, ...]) -> None:
    """On the ground, on a fixed block, and on a body that rests on it."""
    weight = MASS * 9.81 * GRAVITY
    q, place, force = settled
    up = np.array([0, 0, 1.0])[:, None]
    on_links = np.zeros((4, 3, 3))
    np.add.at(on_links, list(contact_links(MODEL)), force)
    np.testing.assert_allclose(on_links[0], up * weight[0], rtol=2e-3, atol=0.02)
    carried = weight[2:] + np.stack([weight[3], 0 * weight[3]])
    np.testing.assert_allclose(on_links[2:, 2], carried, rtol=5e-3)
    assert (np.abs(on_links[2:, :2]) < 0.03 * carried[:, None]).all()  # they rock a little
    place = place[contact_names(MODEL).index("tray on block")]
    np.testing.assert_allclose(place[:2], q[14:16], atol=0.1)  # somewhere under the tray
    np.testing.assert_allclose(place[2], 1.1, atol=0.002)


def test_another_friction_shows_on_a_slope(settled: tuple[np.ndarray, ...]) -> None:
    """Where it holds, the slope carries the weight; with a tenth of the friction the box slides."""
    on = np.array(contact_links(MODEL)) == 1
    force = settled[2][on].sum(axis=0)
    angle = np.deg2rad(15)
    normal = np.array([np.sin(angle), 0, np.cos(angle)])
    along = np.array([np.cos(angle), 0, -np.sin(angle)])
    weight = MASS[1] * 9.81 * GRAVITY
    np.testing.assert_allclose(normal @ force, weight * np.cos(angle), rtol=5e-3)
    np.testing.assert_allclose(-along @ force[:, :2], weight[:2] * np.sin(angle), rtol=5e-3)
    np.testing.assert_allclose(-along @ force[:, 2], 0.5 * 0.1 * (normal @ force)[2], rtol=5e-3)


# Its two points differ along the axis that it turns about, which no force depends on.
WHEEL = """<mujoco>
  <custom>
    <numeric name="contact_stiffness" data="1000"/>
    <numeric name="contact_damping" data="5000"/>
  </custom>
  <worldbody>
    <geom type="plane" size="1 1 1"/>
    <body pos="0 0 0.1">
      <joint type="slide" axis="1 0 0"/>
      <joint type="slide" axis="0 0 1"/>
      <joint type="hinge" axis="0 1 0"/>
      <geom type="capsule" size="0.1 0.2" euler="90 0 0" mass="2"/>
    </body>
  </worldbody>
</mujoco>"""


def test_all_points_carry_a_planar_wheel() -> None:
    """Equal forces of several points are not one force."""
    model = load_mjcf(WHEEL)
    settings = StepSettings(control_dt=DT, substeps=1, mass_matrix_interval=1)
    still = jnp.zeros((3, 1))

    @jax.jit
    def settled() -> jax.Array:
        def step(_, state):
            return control_step(model, settings, *state, still)

        return contact_forces(model, *jax.lax.fori_loop(0, 4000, step, (still, still)))[1]

    np.testing.assert_allclose(settled()[..., 0], [[0, 0, 9.81]] * 2, rtol=1e-3, atol=1e-3)
