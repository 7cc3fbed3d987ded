"""Finished episodes, optimiser and its guard, schedules, settings, registry."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rpo import algorithms
from rpo.algorithms.base import EPISODE_WINDOW, Experience, no_episodes, start_environments
from rpo.algorithms.critic_training import shuffled_rows
from rpo.algorithms.optimizer import Optimizer, learning_rate_at
from tests.algorithms.probe_environments import ConstantReward


class Goals(ConstantReward):
    """Reports how many steps an episode has taken."""

    report_names = ("goals",)

    def __init__(self, episode_length):
        super().__init__(episode_length)

    def report(self, state):
        return {"goals": jax.tree.leaves(state)[0].reshape(-1)}


def seen(ended, returns, lengths, report) -> Experience:
    """Experience of which only the episodes count."""
    blank = jnp.zeros((*ended.shape, 1))
    return Experience(
        observation=blank,
        action=blank,
        reward=blank[..., 0],
        terminated=jnp.asarray(ended),
        truncated=jnp.zeros(ended.shape, bool),
        final_observation=blank,
        non_finite=jnp.zeros(ended.shape, bool),
        episode_return=jnp.asarray(returns),
        episode_length=jnp.asarray(lengths),
        report=report,
    )


def test_finished_episodes_are_kept_in_order_and_the_oldest_are_overwritten():
    rng = np.random.default_rng(0)
    env = Goals(episode_length=10)
    episodes, expected = no_episodes(env), []
    add = jax.jit(lambda e, *new: e.add(seen(*new, {"goals": new[2].astype(float)}), None))
    for probability in (0.0, 0.2, 1.0, 0.5, 0.05):
        ended = rng.random((8, 30)) < probability
        returns = rng.normal(size=(8, 30)).astype(np.float32)
        lengths = rng.integers(1, 50, size=(8, 30)).astype(np.int32)
        episodes = add(episodes, ended, returns, lengths)
        expected += list(zip(returns[ended], lengths[ended], strict=True))
        assert int(episodes.count) == len(expected)
        metrics = episodes.metrics()
        if not expected:
            assert np.isnan(metrics["episode_return"])
            continue
        latest = np.array(expected[-EPISODE_WINDOW:])
        np.testing.assert_allclose(metrics["episode_return"], latest[:, 0].mean(), rtol=1e-4)
        np.testing.assert_allclose(metrics["episode_length"], latest[:, 1].mean(), rtol=1e-5)
        np.testing.assert_allclose(metrics["goals"], latest[:, 1].mean(), rtol=1e-5)
    for age in range(EPISODE_WINDOW):
        slot = (len(expected) - 1 - age) % EPISODE_WINDOW
        assert float(episodes.returns[slot]) == expected[-1 - age][0]


def test_a_task_reports_figures_of_its_episodes():
    env = Goals(episode_length=4)
    environments = start_environments(env, jax.random.key(0), 3)
    action = jnp.zeros((3, env.spec.action_size))
    for _ in range(4):
        environments, record = environments.step(env, action)
    np.testing.assert_array_equal(record["report"]["goals"], [4.0, 4.0, 4.0])


def test_fewer_samples_than_the_window():
    ended = jnp.array([[True, False], [True, True]])
    returns = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    env = ConstantReward(10)
    episodes = no_episodes(env).add(seen(ended, returns, jnp.ones((2, 2), jnp.int32), {}), None)
    np.testing.assert_array_equal(episodes.returns[:4], [1.0, 3.0, 4.0, 0.0])


def test_staggered_episodes_end_one_after_the_other_and_cut_ones_are_not_reported():
    env = ConstantReward(10)
    length = env.spec.episode_length
    num_envs = 2 * length
    environments = start_environments(env, jax.random.key(0), num_envs, stagger=True)
    episodes, step = no_episodes(env), jax.jit(lambda e, a: e.step(env, a))
    action = jnp.zeros((num_envs, env.spec.action_size))
    for _ in range(length):
        environments, record = step(environments, action)
        ended = record["truncated"]
        assert int(ended.sum()) == 2
        reports = (record["episode_return"][None], record["episode_length"][None])
        episodes = episodes.add(seen(ended[None], *reports, {}), None)
    assert int(episodes.count) == 2  # the two that started at age 0
    assert float(episodes.metrics()["episode_length"]) == length
    environments, record = step(environments, action)
    assert np.isfinite(record["episode_return"][record["truncated"]]).all()


@pytest.mark.parametrize("stagger", [False, True])
def test_short_episodes_end_early_again_and_again_and_are_not_reported(stagger):
    env = ConstantReward(10)
    short = np.array([False, True] * 4)
    environments = start_environments(
        env, jax.random.key(0), 8, stagger=stagger, short_share=0.5, short_steps=4
    )
    step, action = jax.jit(lambda e, a: e.step(env, a)), jnp.zeros((8, env.spec.action_size))
    ends, returns = [], []
    for _ in range(40):
        environments, record = step(environments, action)
        assert not record["terminated"].any()
        ends.append(record["truncated"])
        returns.append(record["episode_return"])
    ends, returns = np.array(ends), np.array(returns)
    times = [np.flatnonzero(column) for column in ends.T]
    for own, cut in zip(times, short, strict=True):
        assert set(np.diff(own)) == {4 if cut else 10}
    assert len({own[0] for own in times}) > (4 if stagger else 1)
    assert np.isnan(returns[ends & short]).all()
    reported = returns[ends & ~short]
    assert np.isfinite(reported[4 if stagger else 0 :]).all() and len(reported) == 16


def test_no_short_episodes_leave_the_state_as_it_was():
    environments = start_environments(ConstantReward(10), jax.random.key(0), 4)
    assert environments.first_count is None


def test_optimizer_is_adamw_on_the_clipped_gradient():
    optimizer = Optimizer(betas=(0.7, 0.95), weight_decay=0.01, max_gradient_norm=0.5)
    reference = optax.chain(
        optax.clip_by_global_norm(0.5), optax.adamw(0.1, 0.7, 0.95, weight_decay=0.01)
    )
    ours = theirs = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
    state, reference_state = optimizer.init(ours), reference.init(theirs)
    for scale in (10.0, 0.01, 1.0):
        gradient = jax.tree.map(lambda x, s=scale: s * x, ours)
        ours, state, norm = optimizer.step(ours, state, gradient, 0.1)
        updates, reference_state = reference.update(gradient, reference_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        np.testing.assert_allclose(norm, optax.tree.norm(gradient), rtol=1e-6)
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_non_finite_updates_are_skipped_and_counted():
    optimizer = Optimizer()
    start = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
    parameters, state = start, optimizer.init(start)
    bad = {"a": jnp.array([jnp.nan, 0.0]), "b": jnp.array(1.0)}
    for count in (1, 2, 3):
        parameters, state, norm = optimizer.step(parameters, state, bad, 0.1)
        assert not np.isfinite(norm)
        assert int(state.skipped) == int(state.skipped_in_a_row) == count
    assert jax.tree.all(jax.tree.map(np.array_equal, parameters, start))

    good = {"a": jnp.array([1.0, 0.0]), "b": jnp.array(1.0)}
    parameters, state, _ = optimizer.step(parameters, state, good, 0.1)
    assert (int(state.skipped), int(state.skipped_in_a_row)) == (3, 0)
    # as if the bad ones had never come: the moments were not touched either
    fresh, _, _ = optimizer.step(start, optimizer.init(start), good, 0.1)
    assert jax.tree.all(jax.tree.map(np.array_equal, parameters, fresh))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1e-3, 1e-3, 1e-3, 1e-3]),
        ("linear", [1e-3, 1e-3 - 0.3 * 9.9e-4, 1e-5, 1e-5]),
        ("exponential", [1e-3, 1e-3 * 10 ** (-2 * 0.3), 1e-5, 1e-5]),
    ],
)
def test_learning_rate_schedules(schedule, expected):
    rates = [
        learning_rate_at(
            jnp.asarray(i), schedule=schedule, initial=1e-3, final=1e-5, total_iterations=10
        )
        for i in (0, 3, 10, 15)
    ]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_a_rate_that_is_held_falls_later_and_as_far():
    rates = [
        learning_rate_at(
            jnp.asarray(i),
            schedule="linear",
            initial=1.0,
            final=0.2,
            total_iterations=10,
            hold=0.5,
        )
        for i in (0, 5, 6, 10, 15)
    ]
    np.testing.assert_allclose(rates, [1.0, 1.0, 0.84, 0.2, 0.2], rtol=1e-5)
    with pytest.raises(ValueError, match="actor_learning_rate_hold is 1"):
        algorithms.config_class("rpo")(actor_learning_rate_hold=1.0)
    with pytest.raises(ValueError, match=r"initial_std is 0\.001"):
        algorithms.config_class("shac")(initial_std=0.001)


def test_minibatches_hold_every_sample_once_a_pass_and_differ_between_passes():
    rows = np.asarray(shuffled_rows(jax.random.PRNGKey(0), jnp.arange(6), 8, 3))
    for one in rows:
        np.testing.assert_array_equal(np.sort(one.ravel()), np.arange(48))
        assert np.all(one % 6 == np.arange(6))  # environment i keeps its column
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0, :, 0] // 6, rows[0, :, 1] // 6)


def test_minibatches_do_not_depend_on_how_environments_are_split():
    key = jax.random.PRNGKey(0)
    whole = np.asarray(shuffled_rows(key, jnp.arange(6), 8, 2)) // 6
    right = np.asarray(shuffled_rows(key, jnp.arange(3, 6), 8, 2)) // 3
    np.testing.assert_array_equal(whole[:, :, 3:], right)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rpo", {"num_envs": 0}, "num_envs is 0, must be at least 1"),
        ("rpo", {"critic_minibatches": 5}, "must divide the horizon"),
        ("rpo", {"kl_coefficient": -1.0}, "kl_coefficient is -1.0"),
        ("rpo", {"actor_epochs": 0}, "actor_epochs is 0"),
        ("rpo", {"discount": 1.5}, "discount is 1.5, must lie in"),
        ("rpo", {"actor_hidden_sizes": ()}, "actor_hidden_sizes"),
        ("rpo", {"actor_learning_rate_schedule": "cosine"}, "constant, linear, exponential"),
        ("sapo", {"initial_temperature": 0.0}, "initial_temperature is 0.0"),
        ("shac", {"critic_learning_rate": -1e-3}, "critic_learning_rate is -0.001"),
        ("shac", {"target_value": "max"}, "target_value is 'max'"),
        ("shac", {"betas": (0.9, 1.0)}, "betas"),
    ],
)
def test_settings_out_of_range_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        algorithms.config_class(name)(**settings)
    assert "\n" not in str(error.value)


def test_registry():
    assert {"rpo", "sapo", "shac"} <= set(algorithms.names())
    for name in algorithms.names():
        algorithm = algorithms.make(name, algorithms.config_class(name)())
        assert algorithm.steps_per_iteration == 128 * 32
    with pytest.raises(ValueError, match=r"unknown algorithm 'dqn'; known: .*rpo"):
        algorithms.config_class("dqn")
    with pytest.raises(TypeError, match="rpo needs a RPOConfig"):
        algorithms.make("rpo", algorithms.SHACConfig())


def test_defaults_are_the_papers():
    rpo, sapo, shac = (algorithms.config_class(name)() for name in ("rpo", "sapo", "shac"))
    assert (rpo.actor_learning_rate, rpo.actor_epochs) == (5e-4, 5)
    assert (rpo.clip_low, rpo.clip_high) == (0.8, 1.0)
    assert (rpo.kl_coefficient, rpo.entropy_coefficient) == (0.25, 0.2)
    assert (rpo.target_value, sapo.target_value) == ("mean", "min")
    for config in (rpo, sapo, shac):
        assert (config.horizon, config.critic_passes) == (32, 16)
        assert config.critic_hidden_sizes == config.actor_hidden_sizes == (400, 200, 100)
        assert (config.betas, config.max_gradient_norm) == ((0.7, 0.95), 0.5)
    for config in (sapo, shac):
        assert (config.actor_learning_rate, config.actor_learning_rate_final) == (2e-3, 1e-5)
