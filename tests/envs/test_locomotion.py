"""Figures of the four tasks: each setting acts, quirks are as published, far away is as here."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rpo.envs
from rpo.envs.locomotion import LocomotionEnv, RobotState, steep_height_term
from rpo.envs.randomization import FIELDS
from rpo.physics.step import control_step

TASKS = ("hopper", "ant", "anymal", "humanoid")
FREE = ("ant", "anymal", "humanoid")


def make(task: str, **settings) -> LocomotionEnv:
    env = rpo.envs.make(task, **settings)
    assert isinstance(env, LocomotionEnv)
    return env


def lying(env: LocomotionEnv, count: int = 4) -> RobotState:
    """Random states from the start's height down to the termination's, feet in the ground."""
    state = env.reset(jax.random.key(5), count).physics
    height = 2 if env.model.nq > 6 else 1
    depth = env.settings.start_height - env.settings.termination_height
    offset = jnp.linspace(0.0, depth, count)
    return RobotState(
        state.q.at[:, height].add(-offset), state.qd, jnp.full_like(state.last_action, 0.5)
    )


@functools.cache
def lying_default(task: str) -> RobotState:
    return lying(make(task))


def fingerprint(env: LocomotionEnv) -> list[np.ndarray]:
    """Everything that a setting can change, short of integrating."""
    state, action = lying_default(env.spec.name), jnp.full((4, env.spec.action_size), 0.3)
    shown = env.initial_state(jax.random.key(0))  # not compiled: there are many environments
    model = [getattr(env.model, f.name) for f in dataclasses.fields(env.model)]
    arrays = [x for x in model if isinstance(x, np.ndarray)]
    figures = [
        dataclasses.astuple(env.spec)[1:5],
        dataclasses.astuple(env.settings.step_settings),
    ]
    results = [env.observe(state), env.reward(state, action, state), env.is_terminal(state)]
    return [
        np.asarray(x)
        for x in (*arrays, *figures, env.settings.strengths, *jax.tree.leaves(shown), *results)
    ]


CHANGED = {
    "inertia": "physical",
    "kernel": "interpret",
    "substeps": 96,
    "mass_matrix_interval": 2,
    "episode_length": 10,
    "target_distance": 1.0,
    "termination_height": 0.1,
    "height_margin": 0.04,
    "height_bound": 0.02,
}
ACTS_IN_A_STEP = ("observe_last_action", *FIELDS)  # tested on their own


@pytest.mark.parametrize("task", TASKS)
def test_every_setting_acts(task):
    before = fingerprint(make(task))
    for field in dataclasses.fields(rpo.envs.settings_class(task)):
        if field.name in ACTS_IN_A_STEP:
            continue
        default = field.default
        value = CHANGED.get(field.name)
        if value is None and isinstance(default, tuple):
            value = tuple(x + 0.1 for x in default)
        elif value is None:
            value = default + 0.05
        after = fingerprint(make(task, **{field.name: value}))
        same = [np.array_equal(x, y) for x, y in zip(before, after, strict=True)]
        assert not all(same), field.name


def test_the_step_uses_strength_model_and_integration_settings():
    env = make("hopper", strength=150.0, substeps=8, mass_matrix_interval=2, control_frequency=50.0)
    state = lying(env)
    action = jnp.array([[0.5, -0.2, 0.1]] * 4)
    force = jnp.concatenate([jnp.zeros((3, 4)), 150 * action.T])
    step = functools.partial(control_step, env.model, env.settings.step_settings)
    expected = jax.jit(step)(state.q.T, state.qd.T, force)
    following = jax.jit(env.dynamics)(state, action)
    np.testing.assert_allclose(following.q.T, expected[0], atol=1e-6)
    np.testing.assert_allclose(following.qd.T, expected[1], atol=1e-4)
    assert dataclasses.astuple(env.settings.step_settings) == (1 / 50, 8, 2, "xla")


def test_equal_settings_share_one_robot():
    assert make("ant").model is make("ant", action_penalty=0.01).model
    assert make("ant").model is not make("ant", inertia="physical").model


def test_contact_and_limit_settings_reach_the_robot():
    model = make("ant", contact_stiffness=123.0, limit_damping=7.0).model
    assert set(model.contact_stiffness) == {123.0}
    assert model.limit_damping.tolist() == [0.0] * 6 + [7.0] * 8  # not on the free base


@pytest.mark.parametrize("task", TASKS)
def test_sizes(task):
    sizes = {"hopper": (11, 3), "ant": (37, 8), "anymal": (49, 12), "humanoid": (76, 21)}
    env = make(task)
    assert (env.spec.observation_size, env.spec.action_size) == sizes[task]
    assert env.reset(jax.random.key(0), 2).observation.shape == (2, sizes[task][0])
    assert (env.spec.episode_length, env.spec.control_dt) == (1000, 1 / 60)


@pytest.mark.parametrize("task", FREE)
def test_last_action_is_observed_only_on_request_and_without_gradient(task):
    for shown in (False, True):
        env = make(task, observe_last_action=shown)
        model_free = jax.tree.map(lambda x: x, lying(env))
        count = env.spec.action_size

        def observe(action, env=env, state=model_free):
            following = env.remember(state, action)
            return env.observe(RobotState(state.q, state.qd, following))

        action = jnp.full((4, count), 0.25)
        last = observe(action)[:, -count:]
        assert (last == (0.25 if shown else 0.5)).all()  # 0.5 is what the state held before
        assert (jax.jit(jax.grad(lambda a: observe(a).sum()))(action) == 0).all()


def test_last_action_starts_at_zero_and_is_clipped():
    env = make("ant", observe_last_action=True)
    state = env.reset(jax.random.key(0), 1)
    assert (state.observation[:, -8:] == 0).all()
    state, _ = jax.jit(env.step)(state, jnp.full((1, 8), 3.0))
    assert (state.observation[:, -8:] == 1).all()


def test_hopper_has_no_last_action():
    with pytest.raises(ValueError, match="hopper has no last action"):
        make("hopper", observe_last_action=True)


@pytest.mark.parametrize("task", FREE)
def test_random_start_of_a_free_base(task):
    env = make(task)
    state = jax.jit(jax.vmap(env.initial_state))(jax.random.split(jax.random.key(0), 4096))
    q, qd = np.asarray(state.q, float), np.asarray(state.qd, float)

    def uniform(values, bound):
        assert np.abs(values).max() <= bound * (1 + 1e-5)
        assert (np.abs(values).max(axis=0) > 0.99 * bound).all()
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.05 * bound)

    uniform(q[:, :3] - [0, 0, env.settings.start_height], 0.1)
    np.testing.assert_allclose(np.linalg.norm(q[:, 3:7], axis=1), 1, atol=1e-6)
    angle = 2 * np.arcsin(np.linalg.norm(q[:, 4:7], axis=1))
    assert angle.max() <= math.pi / 24 + 1e-5
    np.testing.assert_allclose(
        np.quantile(angle, [0.25, 0.5, 0.75]) * 24 / math.pi, [0.25, 0.5, 0.75], atol=0.05
    )
    uniform(q[:, 7:] - np.array(env.settings.start_joints), 0.2)
    uniform(qd[:, 3:], 0.25)
    # The published start draws the velocity of the point at the world's origin.
    uniform(qd[:, :3] - np.cross(qd[:, 3:6], q[:, :3]), 0.25)


def test_the_random_axis_is_drawn_from_a_cube():
    """Directions towards the corners are likelier than along the axes: not isotropic."""
    env = make("ant")
    state = jax.jit(jax.vmap(env.initial_state))(jax.random.split(jax.random.key(1), 8192))
    axis = np.asarray(state.q[:, 4:7], float)
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    fourth = (axis**4).sum(axis=1).mean()
    draws = np.random.default_rng(0).uniform(-1, 1, (100_000, 3))
    draws /= np.linalg.norm(draws, axis=1, keepdims=True)
    assert fourth == pytest.approx((draws**4).sum(axis=1).mean(), abs=0.01)
    assert fourth < 0.59  # isotropic: 0.6


def test_random_start_of_the_hopper():
    env = make("hopper")
    state = jax.jit(jax.vmap(env.initial_state))(jax.random.split(jax.random.key(0), 4096))
    for values in (state.q, state.qd):
        assert np.abs(values).max() <= 0.05
        assert (np.abs(values).max(axis=0) > 0.049).all()


def test_height_term_is_steep_below_and_bounded_above():
    height = jnp.array([-3.0, -1.0, -0.1, 0.0, 0.05, 0.1, 5.0])
    term = steep_height_term(height, upper=0.1, weight=10.0)
    np.testing.assert_allclose(term, [-200, -200, -2, 0, 0.5, 1.0, 1.0], rtol=1e-6)


def rewards(env, height=0.0, action=0.0, pitch=0.0, turn=0.0, x=0.0, forward=0.0):
    """Reward of an upright robot that stands still but for what is asked."""
    q, qd = jnp.zeros((1, env.model.nq)), jnp.zeros((1, env.model.nv))
    if env.model.nq == env.model.nv:
        q = q.at[0, 0].set(x).at[0, 1].set(height).at[0, 2].set(pitch)
    else:
        q = q.at[0, 0].set(x).at[0, 2].set(height)
        q = q.at[0, 3].set(math.cos(turn / 2)).at[0, 6].set(math.sin(turn / 2))
    qd = qd.at[0, 0].set(forward)
    actions = jnp.full((1, env.spec.action_size), action)
    return float(env.reward(RobotState(q, qd, actions), actions, None)[0])


@pytest.mark.parametrize(
    ("task", "settings", "situation", "expected"),
    [
        ("ant", {}, {"height": 0.77, "action": 1.0}, 0.1 + 1 + 0.5),
        ("ant", {"action_penalty": 0.01}, {"height": 0.27, "action": 1.0}, 1.1 - 0.08),
        ("ant", {}, {"height": 0.27, "forward": 3.0}, 1.1 + 3),
        ("ant", {}, {"height": 0.27, "turn": math.pi / 3}, 0.1 + 0.5),
        ("ant", {}, {"height": 0.27, "x": 9999.0}, 0.1 + 1),
        ("ant", {}, {"height": 0.27, "x": 10001.0}, 0.1 - 1),
        ("anymal", {}, {"height": 0.55, "action": 1.0}, 1.1 + 0.3 - 0.06),
        ("humanoid", {}, {"height": 0.9, "action": 1.0}, 1.1 + 0.6 - 0.042),
        ("humanoid", {}, {"height": 1.5}, 1.1 + 1.0),
        ("humanoid", {}, {"height": 0.74}, 1.1 - 2.0),
        ("humanoid", {}, {"height": 0.84, "x": 201.0}, 0.1 - 1),
        ("hopper", {}, {"forward": 2.0, "action": 1.0}, 2 + 0.3 + 1 - 0.3),
        ("hopper", {}, {"height": -0.4}, -200 * 0.01 + 1),
        ("hopper", {}, {"height": -0.3, "pitch": math.pi / 6}, 0.0),
    ],
)
def test_rewards(task, settings, situation, expected):
    assert rewards(make(task, **settings), **situation) == pytest.approx(expected, abs=2e-5)


def test_quaternion_in_the_observation_is_y_up():
    """At the start the published orientation is a turn of -90 degrees about x."""
    env = make("ant", start_rotation_range=0.0)
    observation = env.reset(jax.random.key(0), 1).observation[0]
    half = math.sqrt(0.5)
    np.testing.assert_allclose(observation[1:5], [-half, 0, 0, half], atol=1e-6)
    np.testing.assert_allclose(observation[27 : 27 + 2], [1, 1], atol=1e-6)


def test_far_away_is_as_precise_as_here():
    env = make("ant")
    step = jax.jit(env.dynamics)
    state = lying(env, 32)
    action = jax.random.uniform(jax.random.key(1), (32, 8), minval=-1.0, maxval=1.0)
    # Both starts are the same numbers: the offset is rounded away before it is added.
    shift = jnp.array([150.0, -80.0])
    q = state.q.at[:, :2].set(jnp.round(state.q[:, :2] * 1024) / 1024)
    here = step(RobotState(q, state.qd, state.last_action), action)
    there = step(RobotState(q.at[:, :2].add(shift), state.qd, state.last_action), action)
    assert np.abs(here.qd).max() > 1
    np.testing.assert_array_equal(there.qd, here.qd)
    np.testing.assert_array_equal(there.q[:, 2:], here.q[:, 2:])
    rounding = np.spacing(np.float32(150))
    np.testing.assert_allclose(there.q[:, :2] - shift, here.q[:, :2], rtol=0, atol=rounding)


def test_heading_is_precise_far_away():
    env = make("ant")
    state = lying(env, 32)
    q = state.q.at[:, 0].add(150.0).at[:, 1].add(-80.0)
    heading = env.observe(RobotState(q, state.qd, state.last_action))[:, 28]
    with jax.enable_x64(True):
        wide = RobotState(*(x.astype(jnp.float64) for x in (q, state.qd, state.last_action)))
        expected = env.observe(wide)[:, 28]
    np.testing.assert_allclose(heading, expected, atol=3e-7)


@pytest.mark.parametrize("task", TASKS)
def test_tasks_describe_themselves(task):
    figures = rpo.envs.describe(task)
    env = make(task)
    assert figures["task"] == task
    assert figures["observation"].startswith(f"{env.spec.observation_size} numbers: ")
    assert figures["actions"].startswith(f"{env.spec.action_size}: ")
    assert figures["robot"] == f"{env.model.nq} coordinates, {env.model.nv} velocities"
    for field in dataclasses.fields(env.settings):
        assert figures[field.name]
    assert figures["contact_stiffness"] == f"{env.settings.contact_stiffness:g}"
    assert figures["reward"].startswith("forward velocity, ")


@pytest.mark.parametrize("task", rpo.envs.names())
def test_what_a_setting_says_no_robot_file_says_too(task):
    text = (Path(rpo.envs.__path__[0]) / "assets" / f"{task}.xml").read_text()
    numbers = re.findall(r'<numeric name="(\w+)"', text)
    fields = {field.name for field in dataclasses.fields(rpo.envs.settings_class(task))}
    assert not fields & {name.replace("pair_", "contact_") for name in numbers}


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (
            "ants",
            {},
            r"unknown task 'ants' \(did you mean ant\?\); known: hopper, ant, anymal, hum",
        ),
        ("ant", {"substep": 8}, r"unknown setting of ant 'substep' \(did you mean substeps\?\)"),
        ("ant", {"pitch_scale": 1.0}, "unknown setting of ant 'pitch_scale'; known: mass_range"),
        ("ant", {"strength": -1.0}, "strength is -1.0, must be positive"),
        ("ant", {"strength": math.nan}, "strength is nan, must be a finite number"),
        ("ant", {"substeps": 1.5}, "substeps is 1.5, must be a whole number"),
        ("ant", {"substeps": 8}, "mass_matrix_interval is 16, must divide substeps = 8"),
        ("ant", {"inertia": "other"}, "inertia is 'other', must be 'reference' or 'physical'"),
        ("ant", {"kernel": "cuda"}, "kernel is 'cuda', must be one of xla, pallas, interpret"),
        ("ant", {"start_joints": (0.0,)}, "ant: start_joints and strengths must have 8 entries"),
        ("ant", {"contact_damping": -1}, "contact_damping is -1, must be at least 0"),
        ("hopper", {"pitch_scale": 0.0}, "pitch_scale is 0.0, must be positive"),
    ],
)
def test_bad_settings_are_refused_in_one_line(task, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        make(task, **settings)
    assert "\n" not in str(caught.value)
