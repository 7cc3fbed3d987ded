"""Probe environments: known values, known optima, and what must stay frozen during a rollout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo import algorithms
from rpo.nets import Actor
from tests.algorithms.probe_environments import (
    CHAIN,
    EVERY_SECOND_STEP_ENDS,
    ONE_STEP,
    ConstantReward,
    Known,
    ThroughDynamics,
    Wanderer,
)
from tests.marks import nightly, rest_nightly

SMALL = {
    "num_envs": 16,
    "horizon": 8,
    "total_steps": 16 * 8 * 100,
    "actor_hidden_sizes": (16,),
    "critic_hidden_sizes": (16,),
    "critic_learning_rate": 1e-2,
    "actor_learning_rate": 1e-2,
    "critic_passes": 4,
    "critic_minibatches": 2,
}


@functools.cache
def program(name, iterations, settings=()):
    """The algorithm, and a compiled training of so many iterations in any environment of a kind.

    It returns the state, the metrics of all iterations and the policies before them.
    """
    config = algorithms.config_class(name)(**(SMALL | dict(settings)))
    algorithm = algorithms.make(name, config)

    @jax.jit
    def run(env):
        def iterate(state, _):
            following, metrics = algorithm.update(env, state)
            return following, (metrics, state.policy)

        return jax.lax.scan(iterate, algorithm.init(env, jax.random.PRNGKey(0)), length=iterations)

    return algorithm, run


def trained(name, env, iterations, **settings):
    """State and metrics after some iterations."""
    _, run = program(name, iterations, tuple(settings.items()))
    state, (metrics, _) = run(env)
    return state, {name: np.asarray(value) for name, value in metrics.items()}


SHORT_SIGHTED = {"discount": 0.5, "td_lambda": 0.0}


def values(state, observations):
    return np.asarray(state.critics(state.normalizer(jnp.asarray(observations, jnp.float32))))


def test_value_uses_the_observation_after_the_step_and_stops_at_termination():
    """With lambda = 0, a bootstrap from V(o_t), not V(o_{t+1}), would give 0 before the end."""
    state, _ = trained("shac", Known(problem=CHAIN), 100, **SHORT_SIGHTED)
    expected = np.broadcast_to([0.25, 0.5, 1.0], (2, 3))
    np.testing.assert_allclose(values(state, np.eye(3)), expected, atol=0.03)


@pytest.mark.parametrize(
    ("env", "expected"),
    rest_nightly([(Known(problem=EVERY_SECOND_STEP_ENDS), 4 / 3), (ConstantReward(2), 2.0)]),
)
def test_time_limit_bootstraps_and_termination_does_not(env, expected):
    """Reward 1, discount 0.5, two steps an episode, all states look alike, lambda = 0.

    Without an end V = 1 + V/2 = 2. If every second step is terminal, V = 1 + V/4 = 4/3.
    """
    state, metrics = trained("shac", env, 100, **SHORT_SIGHTED)
    at = np.zeros((1, env.spec.observation_size))
    np.testing.assert_allclose(values(state, at), expected, atol=0.06)
    np.testing.assert_allclose(metrics["episode_return"][-1], 2.0)
    np.testing.assert_allclose(metrics["episode_length"][-1], 2.0)


@pytest.mark.parametrize("name", rest_nightly(["shac", "rpo", "sapo", "gippo"]))
def test_one_step_reward_is_maximised(name):
    """Reward -(a - 0.3)^2."""
    settings = {"entropy_coefficient": 0.0} if name == "rpo" else {}
    settings |= {"initial_temperature": 1e-3} if name == "sapo" else {}
    state, _ = trained(name, Known(problem=ONE_STEP), 100, **SHORT_SIGHTED, **settings)
    action = Actor(state.policy, state.normalizer)(jnp.zeros((1, 3)))
    np.testing.assert_allclose(action, 0.3, atol=0.05)


@pytest.mark.parametrize("name", rest_nightly(["shac", "sapo"]))
def test_divergence_of_an_update_is_that_of_the_policies_before_and_after(name):
    _, run = program(name, 100, tuple(SHORT_SIGHTED.items()))
    _, (metrics, policies) = run(Known(problem=ONE_STEP))
    observation = jnp.zeros(3)  # of every state, normalised or not
    before, after = (jax.tree.map(lambda x, k=k: x[k], policies) for k in (0, 1))
    expected = after(observation).kl_from(before(observation))
    assert expected > 1e-4
    np.testing.assert_allclose(metrics["kl_update"][0], expected, rtol=1e-3)


THROUGH_DYNAMICS = {"num_envs": 32, "horizon": 16, "total_steps": 32 * 16 * 120}
RPO = THROUGH_DYNAMICS | {"entropy_coefficient": 0.0}


@pytest.mark.parametrize(
    ("name", "settings"),
    rest_nightly([("rpo", RPO), ("gippo", THROUGH_DYNAMICS | {"actor_learning_rate": 1e-3})]),
)
def test_learns_what_pays_only_through_the_dynamics(name, settings):
    """Reward -x^2 *before* the step: its direct derivative by the action is zero.

    From x uniform in [-1, 1], moving at most 0.5 a step, the best possible return is
    -(1/3 + 1/24) = -0.375; the untrained policy reaches about -7.
    """
    state, metrics = trained(name, ThroughDynamics(), 120, **settings)
    returns = metrics["episode_return"]
    assert returns[0] < -3.0
    assert returns[-1] > -0.6
    action = Actor(state.policy, state.normalizer)
    assert float(action(jnp.full((1, 1), 1.0), None)[0, 0]) < -0.7
    assert float(action(jnp.full((1, 1), -1.0), None)[0, 0]) > 0.7


@nightly
def test_statistics_are_frozen_in_a_rollout_and_updated_after_it():
    env = Wanderer()
    algorithm, run = program("shac", 1)
    state, _ = run(env)
    rollout = jax.jit(functools.partial(algorithm.rollout, env))(state, jax.random.PRNGKey(1))
    distribution = state.policy(state.normalizer(rollout.segment.observation))
    np.testing.assert_allclose(
        rollout.segment.distribution.mean, distribution.mean, rtol=1e-4, atol=1e-5
    )
    values = state.critics(state.normalizer(rollout.segment.final_observation))
    np.testing.assert_allclose(np.moveaxis(rollout.auxiliary, -1, 0), values, rtol=1e-4, atol=1e-5)

    after, _ = jax.jit(functools.partial(algorithm.update, env))(state)
    assert float(state.normalizer.count) == 16 * 8
    assert float(after.normalizer.count) == 2 * 16 * 8
    assert not np.allclose(after.normalizer.mean, state.normalizer.mean)


def test_metrics_are_complete_and_scalar():
    _, metrics = trained("rpo", ThroughDynamics(), 120, **RPO)
    expected = {
        *(f"kl_epoch_{m}" for m in range(1, 6)),
        *(f"ratio_max_epoch_{m}" for m in range(1, 6)),
        "effective_sample_ratio",
        "explained_variance",
        "value_bias",
        "actor_gradient_norm",
        "critic_gradient_norm",
        "action_gradient_norm",
        "action_gradient_norm_max",
        "action_gradient_ratio_max",
        "action_gradient_clip_fraction",
        "value_target_clip_fraction",
        "entropy",
        "std",
        "value",
        "value_loss",
        "learning_rate",
        "reward",
        "episode_return",
        "episode_length",
        "episodes_finished",
        "non_finite_states",
        "non_finite_gradients",
        "actor_updates_skipped",
        "critic_updates_skipped",
        "updates_skipped_in_a_row",
    }
    assert set(metrics) == expected
    assert all(value.shape == (120,) for value in metrics.values())
    assert np.all(np.abs(metrics["kl_epoch_1"]) < 1e-6)
    assert np.all(np.abs(metrics["ratio_max_epoch_1"] - 1) < 1e-3)
    assert np.all(metrics["kl_epoch_3"][:20] > 1e-5)  # later the policy hardly moves
    assert np.all(
        (metrics["effective_sample_ratio"] > 0) & (metrics["effective_sample_ratio"] <= 1)
    )
