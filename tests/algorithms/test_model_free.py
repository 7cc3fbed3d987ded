"""PPO and SAC on probe environments, one of which refuses to be differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo import algorithms
from rpo.algorithms.sac import action_values
from rpo.nets import Actor
from tests.algorithms.probe_environments import (
    Chain,
    ConstantReward,
    ForwardOnly,
    OneStep,
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


def trained(name, env, iterations, **settings):
    """State and metrics after some iterations, run as one compiled loop."""
    config = algorithms.config_class(name)(**(SMALL | OWN[name] | settings))
    algorithm = algorithms.make(name, config)

    @jax.jit
    def run(key):
        state = algorithm.init(env, key)
        return jax.lax.scan(lambda s, _: algorithm.update(env, s), state, length=iterations)

    state, metrics = run(jax.random.PRNGKey(0))
    return algorithm, state, {name: np.asarray(value) for name, value in metrics.items()}


def act(state, observation):
    return np.asarray(Actor(state.policy, state.normalizer)(jnp.full((1, 1), observation)))


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


@pytest.mark.parametrize(("name", "iterations"), rest_nightly([("ppo", 80), ("sac", 80)]))
def test_one_step_reward_is_maximised(name, iterations):
    """Reward -(a - 0.3)^2."""
    _, state, _ = trained(name, OneStep(), iterations)
    np.testing.assert_allclose(act(state, 0.0), 0.3, atol=0.05)


def values_of_ppo(algorithm, state, observations):
    observation = state.normalizer(jnp.asarray(observations, jnp.float32))
    return np.asarray(algorithm.value(state, observation))


def test_ppo_bootstraps_from_the_observation_after_the_step():
    """With lambda = 0, a bootstrap from V(o_t), not V(o_{t+1}), would give 0 before the end."""
    algorithm, state, _ = trained("ppo", Chain(), 100, discount=0.5, gae_lambda=0.0)
    np.testing.assert_allclose(
        values_of_ppo(algorithm, state, np.eye(3)), [0.25, 0.5, 1.0], atol=0.03
    )


@pytest.mark.parametrize(("terminates", "expected"), rest_nightly([(True, 4 / 3), (False, 2.0)]))
def test_ppo_bootstraps_at_time_limits_only(terminates, expected):
    """As in `test_probes`: V = 1 + V / 2 without terminations, V = 1 + V / 4 with them."""
    env = ConstantReward(2, terminates=terminates)
    algorithm, state, metrics = trained("ppo", env, 100, discount=0.5, gae_lambda=0.0)
    np.testing.assert_allclose(
        values_of_ppo(algorithm, state, np.zeros((1, 1))), expected, atol=0.06
    )
    np.testing.assert_allclose(metrics["episode_return"][-1], 2.0)


def values_of_sac(state, observations):
    observation = state.normalizer(jnp.asarray(observations, jnp.float32))
    action = jnp.zeros((len(observations), 1))
    return np.asarray(action_values(state.critics, observation, action))


WITHOUT_ENTROPY = {"discount": 0.5, "initial_temperature": 1e-4, "temperature_learning_rate": 0.0}


@nightly
@pytest.mark.parametrize("n_step", rest_nightly([2, 1]))
def test_sac_bootstraps_from_the_observation_after_the_window(n_step):
    _, state, _ = trained("sac", Chain(), 100, n_step=n_step, **WITHOUT_ENTROPY)
    expected = np.broadcast_to([0.25, 0.5, 1.0], (2, 3))
    np.testing.assert_allclose(values_of_sac(state, np.eye(3)), expected, atol=0.03)


@pytest.mark.parametrize(("terminates", "expected"), rest_nightly([(True, 4 / 3), (False, 2.0)]))
def test_sac_bootstraps_at_time_limits_only(terminates, expected):
    """All states look alike and windows have one step: as for PPO."""
    env = ConstantReward(2, terminates=terminates)
    _, state, _ = trained("sac", env, 60, n_step=1, **WITHOUT_ENTROPY)
    np.testing.assert_allclose(values_of_sac(state, np.zeros((1, 1))), expected, atol=0.06)
