"""Episodes: counting, ends, restarts, guards, and what gradients may cross."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rpo.envs import EnvSpec, EnvState, EpisodicEnv
from rpo.envs.base import STATE_BOUND, clip_action

LENGTH = 5


class Root(EpisodicEnv):
    """x' = sqrt(x + a): not a number below zero, the end of the episode above 1.4."""

    spec: EnvSpec = eqx.field(
        static=True,
        default=EnvSpec(
            "root", observation_size=2, action_size=1, episode_length=LENGTH, control_dt=0.1
        ),
    )
    factor: float = 1.0

    def initial_state(self, key):
        return {"x": jax.random.uniform(key, minval=0.5, maxval=1.0)}

    def dynamics(self, state, action):
        return {"x": jnp.sqrt(self.factor * state["x"] + action[:, 0])}

    def observe(self, state):
        return jnp.stack([state["x"], state["x"] ** 2], axis=1)

    def reward(self, state, action, next_state):
        return next_state["x"] - action[:, 0] ** 2

    def is_terminal(self, state):
        return state["x"] > 1.4


ENV = Root()
STEP = jax.jit(ENV.step)


def start(values, step_count=0) -> EnvState:
    """A state whose environments are at the given x."""
    x = jnp.asarray(values, jnp.float32)
    state = ENV.reset(jax.random.key(0), len(x))
    counts = jnp.full(len(x), step_count, jnp.int32)
    physics = {"x": x}
    return EnvState(physics, ENV.observe(physics), counts, state.key)


def zeros(count):
    return jnp.zeros((count, 1))


def leaves_equal(first, second) -> bool:
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_every_state_leaf_leads_with_the_number_of_environments():
    state, _ = STEP(ENV.reset(jax.random.key(1), 7), zeros(7))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(state)} == {7}
    assert state.key.dtype == jnp.uint32
    assert state.step_count.dtype == jnp.int32


def test_typed_and_raw_keys_start_the_same_episodes():
    key = jax.random.key(3)
    assert leaves_equal(ENV.reset(key, 3), ENV.reset(jax.random.key_data(key), 3))


def test_environments_start_differently_and_restart_differently():
    state = ENV.reset(jax.random.key(0), 16)
    assert len(np.unique(state.physics["x"])) == 16
    first = np.asarray(state.physics["x"])
    for _ in range(LENGTH):
        state, _ = STEP(state, zeros(16))
    assert len(np.unique(np.concatenate([first, state.physics["x"]]))) == 32


def test_an_environment_does_not_depend_on_its_neighbours():
    """The first half alone does what it does in the whole batch, resets and failures included."""
    whole, half = ENV.reset(jax.random.key(2), 8), ENV.reset(jax.random.key(2), 4)
    draws = jax.random.uniform(jax.random.key(9), (30, 8, 1), minval=-1.0, maxval=1.0)
    ends = 0
    for action in draws:
        whole, of_whole = STEP(whole, action)
        half, of_half = STEP(half, action[:4])
        assert leaves_equal(jax.tree.map(lambda x: x[:4], (whole, of_whole)), (half, of_half))
        ends += int((of_half.terminated | of_half.truncated).sum())
    assert ends > 10


def test_time_limit_truncates_and_restarts():
    state = start([0.9, 0.9])
    for step in range(1, LENGTH + 1):
        state, transition = STEP(state, zeros(2))
        assert transition.truncated.tolist() == [step == LENGTH] * 2
        assert not transition.terminated.any()
    assert state.step_count.tolist() == [0, 0]
    assert leaves_equal(transition.observation, state.observation)
    assert leaves_equal(state.observation, ENV.observe(state.physics))
    expected = 0.9 ** (0.5**LENGTH)
    np.testing.assert_allclose(transition.final_observation[:, 0], expected, rtol=1e-6)
    assert (np.abs(state.observation[:, 0] - expected) > 1e-4).all()


def test_only_the_environment_that_ended_restarts():
    before = start([0.9, 1.0], step_count=2)
    state, transition = STEP(before, jnp.array([[0.0], [1.0]]))
    assert transition.terminated.tolist() == [False, True]
    assert not transition.truncated.any()
    assert state.step_count.tolist() == [3, 0]
    np.testing.assert_allclose(state.physics["x"][0], np.sqrt(0.9), rtol=1e-6)
    assert 0.5 <= state.physics["x"][1] <= 1.0
    np.testing.assert_allclose(transition.final_observation[1, 0], np.sqrt(2.0), rtol=1e-6)
    np.testing.assert_allclose(transition.reward[1], np.sqrt(2.0) - 1, rtol=1e-5)
    assert leaves_equal(state.key[0], before.key[0])
    assert not leaves_equal(state.key[1], before.key[1])


def test_termination_at_the_time_limit_is_termination():
    _, transition = STEP(start([1.0], step_count=LENGTH - 1), jnp.ones((1, 1)))
    assert transition.terminated.tolist() == [True]
    assert transition.truncated.tolist() == [False]


@pytest.mark.parametrize(
    ("x", "action"),
    [(0.2, -0.9), (0.9, np.nan), (np.inf, 0.0), (2 * STATE_BOUND**2, 0.0)],
    ids=["not a number", "action not a number", "infinite", "beyond the bound"],
)
def test_a_diverged_environment_restarts_and_harms_nobody(x, action):
    healthy, of_healthy = STEP(start([0.9, 0.9]), zeros(2))
    state, transition = STEP(start([0.9, x]), jnp.array([[0.0], [action]]))
    assert transition.info["non_finite"].tolist() == [False, True]
    assert transition.terminated.tolist() == [False, True]
    assert transition.reward[1] == 0
    assert (transition.final_observation[1] == 0).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, transition)))
    assert 0.5 <= state.physics["x"][1] <= 1.0
    first = jax.tree.map(lambda leaf: leaf[0], (state, transition))
    assert leaves_equal(first, jax.tree.map(lambda leaf: leaf[0], (healthy, of_healthy)))


def test_a_reward_or_observation_that_is_not_finite_is_caught_too():
    class Bad(Root):
        def reward(self, state, action, next_state):
            return 1 / (next_state["x"] - 1)

    _, transition = Bad().step(start([1.0, 0.9]), zeros(2))
    assert transition.info["non_finite"].tolist() == [True, False]
    assert transition.reward[0] == 0


def outcome(action, state, use):
    following, transition = ENV.step(state, action)
    return use(following, transition).sum()


def test_gradient_of_an_environment_does_not_change_when_a_neighbour_ends():
    alive, ended = start([0.9, 0.9]), start([0.9, 1.0])
    broken = start([0.9, -5.0])
    gradient = jax.jit(
        jax.grad(lambda a, s: outcome(a, s, lambda f, t: t.reward + f.observation[:, 1]))
    )
    reference = gradient(jnp.array([[0.1], [0.1]]), alive)
    for state in (ended, broken):
        assert gradient(jnp.array([[0.1], [1.0]]), state)[0] == reference[0]
    x = np.sqrt(1.0)
    np.testing.assert_allclose(reference[0], 1 / (2 * x) - 0.2 + 1, rtol=1e-6)


def test_no_gradient_crosses_a_reset():
    state = start([1.0])
    by_action = jax.grad(lambda a: outcome(a, state, lambda f, t: f.observation))
    by_physics = jax.grad(lambda a: outcome(a, state, lambda f, t: f.physics["x"]))
    transition = jax.grad(lambda a: outcome(a, state, lambda f, t: t.observation))
    all_three = jax.jit(lambda a: (by_action(a), by_physics(a), transition(a)))
    for gradient in all_three(jnp.ones((1, 1))):
        assert gradient == 0


@pytest.mark.parametrize("step_count", [0, LENGTH - 1], ids=["terminated", "truncated"])
def test_the_observation_before_a_reset_can_be_differentiated(step_count):
    """A value function bootstraps there at a time limit."""
    x, action = (1.0, 1.0) if step_count == 0 else (0.9, 0.0)
    state = start([x], step_count)
    assert (STEP(state, jnp.full((1, 1), action))[1].final_observation[0, 0] ** 2) > 0
    final = jax.grad(lambda a: outcome(a, state, lambda f, t: t.final_observation[:, 0]))
    gradient = jax.jit(final)
    expected = 1 / (2 * np.sqrt(x + action))
    np.testing.assert_allclose(gradient(jnp.full((1, 1), action)), expected, rtol=1e-6)


def test_gradient_by_parameters_of_the_environment_does_not_cross_a_reset():
    state = start([1.0])
    gradient = jax.grad(lambda env: env.step(state, jnp.ones((1, 1)))[0].observation.sum())
    assert jax.jit(gradient)(Root(factor=jnp.float32(1.0))).factor == 0


@pytest.mark.parametrize(
    ("action", "clipped", "slope"),
    [(0.3, 0.3, 1), (1.0, 1, 1), (-1.0, -1, 1), (1.5, 1, 0), (-7.0, -1, 0), (np.inf, 1, 0)],
)
def test_actions_are_clipped_with_their_gradient(action, clipped, slope):
    value, derivative = jax.value_and_grad(clip_action)(jnp.float32(action))
    assert float(value) == pytest.approx(clipped)
    assert float(derivative) == slope


def test_steps_can_be_mapped_over_seeds():
    keys = jax.random.split(jax.random.key(0), 3)
    mapped, _ = jax.jit(jax.vmap(lambda key: ENV.step(ENV.reset(key, 4), zeros(4))))(keys)
    alone, _ = STEP(ENV.reset(keys[1], 4), zeros(4))
    np.testing.assert_allclose(mapped.physics["x"][1], alone.physics["x"], rtol=1e-6)
    assert leaves_equal(mapped.key[1], alone.key)


def test_steps_can_be_mapped_over_devices():
    mesh = jax.make_mesh((1,), ("device",), axis_types=(AxisType.Auto,))
    state = start([0.9, 1.0, 0.3, 0.9], step_count=LENGTH - 1)
    batch = PartitionSpec("device")
    mapped = jax.shard_map(ENV.step, mesh=mesh, in_specs=(batch, batch), out_specs=batch)
    action = jnp.array([[0.0], [1.0], [-0.9], [0.1]])
    assert leaves_equal(jax.jit(mapped)(state, action), STEP(state, action))


def test_precision_is_that_of_the_state():
    state = start([1.0, 0.9])
    with jax.enable_x64(True):
        following, _ = ENV.step(state, jnp.ones((2, 1), jnp.float32))
        assert following.physics["x"].dtype == jnp.float32
        assert ENV.reset(jax.random.key(0), 2).physics["x"].dtype == jnp.float64


@pytest.mark.parametrize("field", ["observation_size", "action_size", "episode_length"])
def test_a_spec_needs_positive_sizes(field):
    sizes = {"observation_size": 1, "action_size": 1, "episode_length": 1, field: 0}
    with pytest.raises(ValueError, match=f"thing: {field} must be positive"):
        EnvSpec("thing", control_dt=0.1, **sizes)


def test_a_batch_needs_an_environment():
    with pytest.raises(ValueError, match="num_envs is 0, must be at least 1"):
        ENV.reset(jax.random.key(0), 0)
