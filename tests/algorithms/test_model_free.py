"""PPO and SAC on probe environments, one of which refuses to be differentiated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo import algorithms
from rpo.algorithms.sac import action_values
from rpo.nets import Actor
from tests.algorithms.probe_environments import (
    CHAIN,
    EVERY_SECOND_STEP_ENDS,
    ONE_STEP,
    ConstantReward,
    ForwardOnly,
    Known,
)
from tests.marks import nightly, rest_nightly

SMALL = {
    "num_envs": 16,
    "horizon": 16,
    "total_steps": 100_000,
    "actor_hidden_sizes": (32,),
    "critic_hidden_sizes": (32,),
}
OWN = {
    "ppo": {"learning_rate": 1e-3},
    "sac": {
        "batch_size": 256,
        "gradient_steps": 16,
        "n_step": 1,
        "target_smoothing": 0.1,
        "replay_capacity": 20_000,
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 3e-3,
    },
}


@functools.cache
def program(name, iterations, settings=()):
    """The algorithm, and a compiled training of so many iterations in any environment of a kind."""
    config = algorithms.config_class(name)(**(SMALL | OWN[name] | dict(settings)))
    algorithm = algorithms.make(name, config)

    @jax.jit
    def run(env):
        state = algorithm.init(env, jax.random.PRNGKey(0))
        return jax.lax.scan(lambda s, _: algorithm.update(env, s), state, length=iterations)

    return algorithm, run


def trained(name, env, iterations, **settings):
    """Algorithm, state and metrics after some iterations."""
    algorithm, run = program(name, iterations, tuple(settings.items()))
    state, metrics = run(env)
    return algorithm, state, {name: np.asarray(value) for name, value in metrics.items()}


def act(state, observation, size=1):
    at = jnp.full((1, size), observation)
    return np.asarray(Actor(state.policy, state.normalizer)(at))


def test_the_forward_only_environment_raises_when_differentiated():
    env = ForwardOnly()
    state = env.reset(jax.random.PRNGKey(0), 2)
    with pytest.raises(TypeError, match="environment was differentiated"):
        jax.grad(lambda a: env.step(state, a)[1].observation.sum())(jnp.zeros((2, 1)))
    with pytest.raises(TypeError, match="environment was differentiated"):
        trained_by_derivatives = algorithms.make("shac", algorithms.SHACConfig(num_envs=2))
        jax.eval_shape(
            lambda key: trained_by_derivatives.update(env, trained_by_derivatives.init(env, key)),
            jax.random.PRNGKey(0),
        )


@nightly
@pytest.mark.parametrize(("name", "iterations"), rest_nightly([("sac", 120), ("ppo", 120)]))
def test_learns_in_an_environment_that_cannot_be_differentiated(name, iterations):
    """What pays does so only through the dynamics; the best possible return is -0.375."""
    _, state, metrics = trained(name, ForwardOnly(), iterations, discount=0.9)
    returns = metrics["episode_return"]
    assert returns[0] < -3.0
    assert returns[-1] > -0.6
    assert act(state, 1.0) < -0.7
    assert act(state, -1.0) > 0.7


SHORT_SIGHTED = {"discount": 0.5, "gae_lambda": 0.0}


@pytest.mark.parametrize(("name", "settings"), rest_nightly([("ppo", SHORT_SIGHTED), ("sac", {})]))
def test_one_step_reward_is_maximised(name, settings):
    """Reward -(a - 0.3)^2."""
    _, state, _ = trained(name, Known(problem=ONE_STEP), 100, **settings)
    np.testing.assert_allclose(act(state, 0.0, size=3), 0.3, atol=0.05)


def values_of_ppo(algorithm, state, observations):
    observation = state.normalizer(jnp.asarray(observations, jnp.float32))
    return np.asarray(algorithm.value(state, observation))


def test_ppo_bootstraps_from_the_observation_after_the_step():
    """With lambda = 0, a bootstrap from V(o_t), not V(o_{t+1}), would give 0 before the end."""
    algorithm, state, _ = trained("ppo", Known(problem=CHAIN), 100, **SHORT_SIGHTED)
    np.testing.assert_allclose(
        values_of_ppo(algorithm, state, np.eye(3)), [0.25, 0.5, 1.0], atol=0.03
    )


BOTH_ENDS = [(Known(problem=EVERY_SECOND_STEP_ENDS), 4 / 3), (ConstantReward(2), 2.0)]


@pytest.mark.parametrize(("env", "expected"), rest_nightly(BOTH_ENDS))
def test_ppo_bootstraps_at_time_limits_only(env, expected):
    """As in `test_probes`: V = 1 + V / 2 without terminations, V = 1 + V / 4 with them."""
    algorithm, state, metrics = trained("ppo", env, 100, **SHORT_SIGHTED)
    at = np.zeros((1, env.spec.observation_size))
    np.testing.assert_allclose(values_of_ppo(algorithm, state, at), expected, atol=0.06)
    np.testing.assert_allclose(metrics["episode_return"][-1], 2.0)


def values_of_sac(state, observations):
    observation = state.normalizer(jnp.asarray(observations, jnp.float32))
    action = jnp.zeros((len(observations), 1))
    return np.asarray(action_values(state.critics, observation, action))


WITHOUT_ENTROPY = {
    "batch_size": 64,  # a quarter of the work for the same values
    "discount": 0.5,
    "initial_temperature": 1e-4,
    "temperature_learning_rate": 0.0,
}


@nightly
@pytest.mark.parametrize("n_step", rest_nightly([2, 1]))
def test_sac_bootstraps_from_the_observation_after_the_window(n_step):
    _, state, _ = trained("sac", Known(problem=CHAIN), 100, n_step=n_step, **WITHOUT_ENTROPY)
    expected = np.broadcast_to([0.25, 0.5, 1.0], (2, 3))
    np.testing.assert_allclose(values_of_sac(state, np.eye(3)), expected, atol=0.03)


@pytest.mark.parametrize(("env", "expected"), rest_nightly(BOTH_ENDS))
def test_sac_bootstraps_at_time_limits_only(env, expected):
    """All states look alike and windows have one step: as for PPO."""
    _, state, _ = trained("sac", env, 100, n_step=1, **WITHOUT_ENTROPY)
    at = np.zeros((1, env.spec.observation_size))
    np.testing.assert_allclose(values_of_sac(state, at), expected, atol=0.06)
