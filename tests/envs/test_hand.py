"""The hand does what the recording of the published task says, and what its settings say."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.recordings import hand as hand_parity
from rpo.envs.hand import HandState
from rpo.envs.registry import make
from rpo.physics.contact_report import contact_forces, contact_links
from rpo.physics.diagnostics import mass_matrix
from tests.marks import nightly
from tests.reference import hand_path


@pytest.fixture(scope="module")
def recording() -> hand_parity.Recording:
    return hand_parity.Recording(hand_path())


@pytest.mark.parametrize("comparison", ["constants", "observations", "rewards"])
def test_everything_but_the_dynamics(recording, comparison):
    measured = list(hand_parity.compare(recording, [comparison]))
    assert measured
    assert not [m for m in measured if not m.within]


@nightly
def test_control_steps_and_their_gradients(recording):
    """From one compiled program: one step from recorded states, and gradients in float64."""
    measured = list(hand_parity.compare(recording, ["step", "gradients"]))
    assert {m.comparison for m in measured} == {"step", "gradients"}
    assert not [m for m in measured if not m.within]


# Thousandths of the mass matrix's diagonal in the middle of the published random starts, as the
# published simulator had it: rows are thumb, ring, middle, index finger.
SHIPPED_DIAGONAL = [
    *(1.31, 4.11, 3.63, 2.94),
    *(1.51, 1.70, 1.19, 1.05),
    *(1.52, 1.68, 1.18, 1.04),
    *(2.01, 1.91, 3.08, 3.06),
]
RIGHT_DIAGONAL = [2.48, 1.10, 1.45, 1.10, 1.15, 1.72, 1.19, 1.05]  # with every link's own inertia


def test_mass_matrix_has_the_published_mistake():
    model = make("hand").model
    joints = 0.1 * (model.limit_lower[:16] + model.limit_upper[:16])
    q = jnp.asarray(np.concatenate([joints, [0, -0.1, 0.6, 1, 0, 0, 0]])[:, None], jnp.float32)
    shipped = 1e3 * np.diagonal(mass_matrix(model, q)[..., 0])[:16]
    np.testing.assert_allclose(shipped, SHIPPED_DIAGONAL, atol=0.006)
    right = dataclasses.replace(model, inertia_link=None)
    right = 1e3 * np.diagonal(mass_matrix(right, q)[..., 0])[:8]
    np.testing.assert_allclose(right, RIGHT_DIAGONAL, atol=0.006)


def test_entries_of_the_observation_are_where_their_names_say():
    env = make("hand")
    start = state(env)
    entry = dict(zip(env.spec.observation_names, np.asarray(env.observe(start))[0], strict=True))
    assert entry["cube_z"] == pytest.approx(float(start.q[0, 18]))
    assert entry["cube_quaternion_w"] == pytest.approx(float(start.q[0, 19]))
    assert entry["goal_z"] == pytest.approx(0.56)
    assert entry["goal_quaternion_x"] == pytest.approx(float(start.goal[0, 1]))
    lower, upper = env.model.limit_lower[3], env.model.limit_upper[3]
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    assert entry["thumb_3"] == pytest.approx((float(start.q[0, 3]) - middle) / half, abs=1e-5)
    assert env.spec.action_names[12] == "index_0"


def test_a_wrong_friction_is_noticed(recording):
    slippery = hand_parity.Recording(hand_path(), friction_coefficient=0.2)
    beyond = {m.quantity for m in hand_parity.compare(slippery, ["constants"]) if not m.within}
    assert beyond == {"contact materials"}


def state(env, **changes) -> HandState:
    start = env.reset(jax.random.key(0), 4).physics
    return dataclasses.replace(start, **changes)


def test_starts_lie_in_the_published_ranges():
    env = make("hand")
    start = env.reset(jax.random.key(1), 512).physics
    q = np.asarray(start.q)
    lower, upper = env.model.limit_lower[:16], env.model.limit_upper[:16]
    assert (q[:, :16] >= 0.2 * lower - 1e-6).all() and (q[:, :16] <= 0.2 * upper + 1e-6).all()
    spread = q[:, :16].std(axis=0) / (0.2 * (upper - lower) / 12**0.5)
    np.testing.assert_allclose(spread, 1.0, atol=0.15)
    offset = q[:, 16:19] - [0.0, -0.1, 0.6]
    assert np.abs(offset).max() <= 0.01 + 1e-6
    assert np.abs(offset).max(axis=0).min() > 0.009
    for turn in (q[:, 19:], np.asarray(start.goal)):
        np.testing.assert_allclose(np.linalg.norm(turn, axis=1), 1.0, atol=1e-6)
        # A turn about x, then about y: x y = w z in the product, and all of the circle is drawn.
        np.testing.assert_allclose(turn[:, 1] * turn[:, 2], turn[:, 0] * turn[:, 3], atol=1e-6)
        assert np.abs(turn[:, 0]).min() < 0.05
    assert not np.asarray(start.qd).any()
    assert len(np.unique(np.asarray(start.goal)[:, 0])) > 500


@pytest.fixture(scope="module")
def quick():
    """A hand with one substep per action, and its compiled step."""
    env = make("hand", substeps=1, mass_matrix_interval=1)
    return env, jax.jit(env.step)


def test_a_reached_goal_pays_and_is_replaced_after_the_observation(quick):
    env, step = quick
    reset = env.reset(jax.random.key(0), 4)
    start = reset.physics
    start = dataclasses.replace(start, goal=start.q[:, 19:].at[2:].set(start.goal[2:]))
    action = jnp.zeros((4, 16))
    following, transition = step(dataclasses.replace(reset, physics=start), action)
    after = following.physics
    assert after.reached.tolist() == [True, True, False, False]
    assert after.goals_reached.tolist() == [1, 1, 0, 0]
    assert transition.info["goals_reached"].tolist() == [1, 1, 0, 0]
    reward = np.asarray(transition.reward)
    assert (reward[:2] > 125).all() and (reward[2:] < 20).all()
    np.testing.assert_allclose(following.observation[:, 48:51], after.goal[:, 1:])  # the old goal
    np.testing.assert_array_equal(after.goal, start.goal)
    later = step(following, action)[0].physics
    changed = (np.asarray(later.goal) != np.asarray(after.goal)).any(axis=1)
    assert changed.tolist() == [True, True, False, False]
    assert later.goals_reached.tolist() == [1, 1, 0, 0]
    np.testing.assert_array_equal(later.key[2:], after.key[2:])


def test_bonus_is_that_of_the_smooth_switches():
    """125 below about 0.093 rad, nothing at 0.1 rad."""
    env = make("hand")
    start = state(env)
    angle = np.array([0.05, 0.085, 0.0995, 0.2])
    turned = np.stack([np.cos(angle / 2), np.sin(angle / 2), 0 * angle, 0 * angle], axis=1)
    held = start.q.at[:, 16:19].set(env.goal_position).at[:, 19:].set(turned)
    goal = jnp.tile(jnp.array([1.0, 0, 0, 0]), (4, 1))
    there = dataclasses.replace(start, q=held, goal=goal)
    reward = np.asarray(env.reward(there, jnp.zeros((4, 16)), there))
    bonus = reward - 1 / (angle + 0.1)
    np.testing.assert_allclose(bonus, [125, 125, 0, 0], atol=1.5)


def test_an_episode_ends_where_the_cube_is_lost_and_nan_stays_alone(quick):
    env, step = quick
    start = env.reset(jax.random.key(0), 4)
    q = start.physics.q.at[1, 18].add(-0.3).at[2, 0].set(jnp.nan)
    lost = dataclasses.replace(start, physics=dataclasses.replace(start.physics, q=q))
    after, transition = step(lost, jnp.zeros((4, 16)))
    assert transition.terminated.tolist() == [False, True, True, False]
    assert transition.info["non_finite"].tolist() == [False, False, True, False]
    assert np.isfinite(np.asarray(after.physics.q)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fall_distance": 0.0}, "fall_distance is 0.0, must be positive"),
        ({"start_cube_position": (0.0, 1.0)}, "start_cube_position has 2 entries, must have 3"),
        ({"goal_bonus": float("nan")}, "goal_bonus is nan, must be a finite number"),
        ({"mass_matrix_interval": 48}, "mass_matrix_interval is 48, must divide substeps = 64"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make("hand", **settings)


def test_differences_from_the_published_task_are_settings():
    published, honest = make("hand"), make("hand", inertia="physical", published_pairs=False)
    assert published.model.inertia_link is not None and honest.model.inertia_link is None
    assert honest.model.mass[3] == pytest.approx(0.0388 + 0.0168)  # the fingertip once
    names = honest.model.geoms.names

    def touching(env):
        return {frozenset(env.model.geoms.names[k] for k in pair) for pair in env.model.geoms.pairs}

    assert touching(honest) - touching(published) == {frozenset({"cube", "index_0"})}
    assert len(touching(published) - touching(honest)) == 4
    assert "palm" in names
    inside = make("hand", limit_damping_inside=True).model
    assert (inside.limit_damping[:16] == 10).all() and not inside.limit_damping_beyond.any()
    assert not make("hand", attract_inside=False).model.geoms.attract_inside


def test_the_forces_that_are_shown_move_the_cube(quick):
    """Of all contacts on it: m (a - g), here between the fingers in four kinds of motion."""
    env, step = quick
    model, dt = env.model, env.spec.control_dt
    draws = np.random.default_rng(0)
    start = env.reset(jax.random.key(0), 4)
    q, qd = np.zeros((4, 23), np.float32), 0.3 * draws.normal(size=(4, 22)).astype(np.float32)
    q[:, 16:20] = [[0, -0.1, z, 1] for z in (0.526, 0.525, 0.522, 0.52)]
    physics = dataclasses.replace(start.physics, q=jnp.asarray(q), qd=jnp.asarray(qd))
    state = dataclasses.replace(start, physics=physics)
    following, transition = jax.device_get(step(state, jnp.zeros((4, 16))))
    goes_on, after = ~transition.terminated, following.physics
    forces = jax.jit(contact_forces, static_argnums=0)(model, q.T, qd.T)[1]
    cube = model.link_names.index("cube")
    total = np.asarray(forces)[np.array(contact_links(model)) == cube].sum(axis=0).T
    assert goes_on.sum() >= 3
    assert (np.linalg.norm(total, axis=1) > 5).all()
    # The step integrates the twist about where it began: its rate is a - w x v.
    turned = np.cross(after.qd[:, 19:], (after.q - q)[:, 16:19])
    rate = (after.qd[:, 16:19] - turned - qd[:, 16:19]) / dt
    rate += np.cross(qd[:, 19:], qd[:, 16:19])
    expected = model.mass[cube] * (rate - model.gravity)
    np.testing.assert_allclose(total[goes_on], expected[goes_on], rtol=1e-3, atol=0.02)


@nightly
def test_the_fingers_carry_the_cubes_weight():
    """While it rests on them, a little curled: on average, for its contacts never stand still."""
    env = make("hand", start_position_range=0.0)
    model = env.model
    action = np.zeros((2, 16), np.float32)
    for finger in range(4):
        action[:, 4 * finger + 1 : 4 * finger + 4] = np.array([[0.03], [0.05]])
    start = env.reset(jax.random.key(0), 2).physics
    q = start.q.at[:, 19:].set(jnp.array([1.0, 0, 0, 0])).at[:, :16].set(0)

    @jax.jit
    def play(physics):
        def step(physics, _):
            physics = env.dynamics(physics, action)
            return physics, (physics.q[1], physics.qd[1])

        return jax.lax.scan(step, physics, length=48)[1]

    q, qd = play(dataclasses.replace(start, q=q))
    forces = jax.jit(contact_forces, static_argnums=0)(model, q[22:].T, qd[22:].T)[1]
    cube = model.link_names.index("cube")
    carried = np.asarray(forces)[np.array(contact_links(model)) == cube].sum(axis=0).mean(axis=1)
    np.testing.assert_allclose(carried, [0, 0, 9.81 * model.mass[cube]], atol=0.7)
