"""Contact forces, reward terms and action gradients are those of the simulation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo import envs
from rpo.envs.base import EnvState
from rpo.envs.randomization import Variation
from rpo.physics import joints, kinematics
from rpo.physics.contact import ground_wrench
from rpo.physics.contact_report import contact_forces
from rpo.physics.diagnostics import link_poses
from rpo.physics.factors import NOMINAL, Factors
from rpo.physics.topology import groups_of
from rpo.show import details as looking
from rpo.show.details import (
    DISCOUNT,
    HORIZON,
    Details,
    carried_weight,
    joint_pushes,
    look_into,
)
from rpo.show.episode import Episodes, Push, can_be_pushed, record_episodes
from rpo.training import Policy, load_policy
from tests.marks import rest_nightly


@pytest.fixture(scope="module")
def played(hopper_run: Path) -> tuple[Policy, Episodes, Details]:
    policy = load_policy(hopper_run)
    episodes = record_episodes(policy)
    return policy, episodes, look_into(policy, episodes)


def near_the_ground(task: str, batch: int = 3) -> tuple[jax.Array, jax.Array]:
    env = envs.make(task)
    draw = np.random.default_rng(1)
    states = env.reset(jax.random.key(0), batch).physics
    q = np.array(states.q.T)
    q[1 if task == "hopper" else 2] -= 0.35  # most feet are in the ground
    return jnp.asarray(q), jnp.asarray(draw.normal(size=(env.model.nv, batch)))


@pytest.mark.parametrize("task", rest_nightly(["ant", "anymal", "humanoid", "hopper"]))
def test_contact_forces_are_those_of_the_physics(task: str) -> None:
    model = envs.make(task).model
    groups = groups_of(model)

    @jax.jit
    def both(q, qd):
        coordinates = joints.split(q, [group.coordinates for group in groups])
        velocities = joints.split(qd, [group.velocities for group in groups])
        relative = [joints.about_origin(*pair) for pair in zip(groups, coordinates, strict=True)]
        origins = kinematics.origins(groups, coordinates)
        poses = kinematics.link_poses(groups, relative)
        subspaces = kinematics.motion_subspaces(groups, poses)
        # A free root's velocity is the twist about its own origin, where it is at first.
        moving = kinematics.link_velocities(groups, subspaces, velocities)
        total = jnp.zeros((3, q.shape[1]))
        for group, pose, motion, origin in zip(groups, poses, moving, origins, strict=True):
            wrench = ground_wrench(group, pose, motion, origin[2])
            force = [
                jnp.broadcast_to(jnp.asarray(one, q.dtype), (group.size, q.shape[1])).sum(axis=0)
                for one in wrench.linear
            ]
            total += jnp.stack(force)
        link = model.contact_link
        place, turn = link_poses(model, q)
        offset = jnp.asarray(model.contact_position, q.dtype)
        centre = place[link] + jnp.einsum("kijb,kj->kib", turn[link], offset)
        return total, centre, contact_forces(model, q, qd)

    expected, centre, (position, force) = jax.device_get(both(*near_the_ground(task)))
    assert (force[:, 2] > 0).any()
    assert ((position[:, 2] < 0) == (force[:, 2] != 0)).all()
    np.testing.assert_allclose(force.sum(axis=0), expected, rtol=2e-3, atol=0.5)
    down = np.stack([0, 0, 1])[:, None] * model.contact_radius[:, None, None]
    np.testing.assert_allclose(position, centre - down, atol=1e-5)


def test_forces_are_those_of_the_episodes_own_robot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one on a third of the friction, with another mass under another gravity."""
    monkeypatch.setattr(looking, "_gradients", lambda *_: np.zeros((2, 3)))
    env = envs.make("hopper")
    q = jnp.zeros((2, 6)).at[:, 1].set(-0.05)  # upright, the foot in the ground
    state = env.state(q, jnp.zeros((2, 6)).at[:, 0].set([2.0, -2.0]))
    factors = Factors(
        mass=jnp.full((2, 6), 1.5), friction=jnp.full(2, 1 / 3), gravity=jnp.full(2, 0.5)
    )
    shares = []
    for own in (NOMINAL, factors):
        keys = jnp.zeros((2, 2), jnp.uint32)
        states = EnvState(state, env.observe(state), jnp.zeros(2, int), keys, Variation(own))
        episodes = Episodes(
            states=jax.tree.map(lambda x: np.asarray(x)[:, None], states),
            action=np.zeros((2, 1, 3), np.float32),
            reward=np.zeros((2, 1), np.float32),
            length=np.array([2]),
            terminated=np.array([False]),
            control_dt=1.0,
            speed_column=None,
        )
        found = look_into(SimpleNamespace(env=env), episodes)
        assert set(found.contact_names) == {"foot 1", "foot 2"}
        force = found.contact_force.sum(axis=1)
        assert (np.sign(force[:, 0]) == [-1, 1]).all()
        shares.append(np.abs(force[:, 0]) / force[:, 2])
        mass = env.model.mass.sum()
        expected = mass * 9.81 if own is NOMINAL else 1.5 * mass * 0.5 * 9.81
        assert found.weight == pytest.approx(expected)
    np.testing.assert_allclose(shares[0], env.settings.friction_coefficient, rtol=1e-4)
    np.testing.assert_allclose(shares[1], shares[0] / 3, rtol=1e-4)


def test_contacts_carry_what_falls() -> None:
    """Of a hand on its arm, the cube."""
    model = envs.make("hand").model
    assert carried_weight(model) == pytest.approx(0.5 * 9.81)
    masses = np.r_[np.full(model.num_links - 1, 7.0), 2.0]
    assert carried_weight(model, Factors(mass=masses)) == pytest.approx(9.81)


def test_terms_are_what_the_reward_is_the_sum_of(
    played: tuple[Policy, Episodes, Details],
) -> None:
    _, episodes, details = played
    assert set(details.terms) == {"forward velocity", "height", "posture", "action"}
    length = int(episodes.length[0])
    total = np.sum(list(details.terms.values()), axis=0)
    expected = episodes.reward[: length - 1, 0]
    np.testing.assert_allclose(total[:-1], expected, rtol=1e-4, atol=1e-4)
    assert np.isnan(total[-1])  # where the last step led to is not on record


@pytest.mark.parametrize("step", [0, 7, 20])
def test_action_gradients_are_slopes_of_the_return(
    played: tuple[Policy, Episodes, Details], step: int
) -> None:
    policy, episodes, details = played
    steps = int(episodes.length[0]) - step
    assert steps <= 2 * HORIZON
    state = jax.tree.map(lambda x: jnp.asarray(x[step]), episodes.states)

    @jax.jit
    def discounted_return(change: jax.Array) -> jax.Array:
        def move(carry, number):
            state, total = carry
            action = policy(state.observation) + jnp.where(number == 0, change, 0)
            state, transition = policy.env.step(state, action)
            return (state, total + DISCOUNT**number * transition.reward[0]), None

        (_, total), _ = jax.lax.scan(move, (state, jnp.zeros(())), jnp.arange(steps))
        return total

    size = 2e-3
    slopes = [
        (discounted_return(size * unit) - discounted_return(-size * unit)) / (2 * size)
        for unit in jnp.eye(3)
    ]
    largest = np.abs(details.action_gradient).max()
    assert largest > 0.1
    np.testing.assert_allclose(details.action_gradient[step], slopes, atol=0.05 * largest)


def test_a_push_arrow_shows_where_the_limb_goes() -> None:
    model = envs.make("ant").model
    q, _ = near_the_ground("ant", 1)
    position, push = jax.jit(lambda q: joint_pushes(model, q))(q)
    assert position.shape == push.shape == (1, 8, 3)
    np.testing.assert_allclose(np.linalg.norm(push, axis=-1), 1, rtol=1e-5)
    ankle = model.joint_names.index("ankle_1")
    foot = model.contact_link == ankle
    places = jax.jit(lambda q: contact_forces(model, q, jnp.zeros((14, 1)))[0])
    moved = q.at[model.coordinate_start[ankle]].add(0.05)
    before, after = places(q), places(moved)
    way = np.asarray(after - before)[foot, :, 0].sum(axis=0)
    assert way @ np.asarray(push)[0, 1] > 0.95 * np.linalg.norm(way)


def test_a_push_changes_the_velocity_once(hopper_run: Path) -> None:
    policy = load_policy(hopper_run)
    calm = record_episodes(policy, steps=20)
    pushed = record_episodes(policy, steps=20, push=Push(forward=1.5, at=0.1))
    step = round(0.1 / policy.env.spec.control_dt)
    np.testing.assert_array_equal(calm.q[: step + 1], pushed.q[: step + 1])
    change = pushed.states.physics.qd[step, 0] - calm.states.physics.qd[step, 0]
    np.testing.assert_allclose(change, [1.5, 0, 0, 0, 0, 0], atol=1e-6)
    seen = pushed.states.observation[step, 0, pushed.speed_column]
    assert seen == pytest.approx(float(pushed.states.physics.qd[step, 0, 0]))
    assert pushed.q[-1, 0, 0] > calm.q[-1, 0, 0] + 0.1
    assert [can_be_pushed(envs.make(task)) for task in ("hopper", "ant")] == [1, 2]
