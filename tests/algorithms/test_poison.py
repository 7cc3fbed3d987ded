"""One environment that gives absurd numbers, for as long as the run lasts: the run goes on."""

import functools

import jax
import numpy as np
import pytest

from rpo import algorithms
from tests.algorithms.probe_environments import Poisoned
from tests.marks import rest_nightly

FIRST_ORDER = ("shac", "rpo", "sapo", "gippo")
MODEL_FREE = ("ppo", "sac")
ENVS, ITERATIONS = 8, 6
SIZES = (1e6, 1e20, np.inf, np.nan)
FITTED = {"critic": "normalized", "critic_passes": 2, "critic_minibatches": 2}
OWN = {
    "ppo": {"epochs": 2, "minibatches": 2},
    "sac": {"warmup_steps": 6, "batch_size": 16, "gradient_steps": 2, "n_step": 3}
    | {"replay_capacity": 96},
    "gippo": FITTED | {"ppo_minibatches": 2, "alpha_steps": 4},
}


@functools.cache
def program(name):
    """A compiled training from its start, for any poison."""
    config = algorithms.config_class(name)(
        num_envs=ENVS,
        horizon=6,
        total_steps=10_000,
        actor_hidden_sizes=(8,),
        critic_hidden_sizes=(8,),
        **OWN.get(name, FITTED),
    )
    algorithm = algorithms.make(name, config)

    @jax.jit
    def run(env):
        state = algorithm.init(env, jax.random.PRNGKey(0))
        return jax.lax.scan(lambda s, _: algorithm.update(env, s), state, length=ITERATIONS)

    return run


def trained(name, **poison):
    """The state, and metrics by iteration, after checks that hold for every run that goes on."""
    state, metrics = program(name)(Poisoned(**poison))
    learned = (state.policy, state.critics, state.normalizer, state.actor_optimizer.adam)
    for leaf in jax.tree.leaves((learned, state.critic_optimizer.adam)):
        assert np.isfinite(leaf).all()
    assert float(metrics["actor_updates_skipped"][-1]) == 0
    assert float(metrics["critic_updates_skipped"][-1]) == 0
    return state, {key: np.asarray(value) for key, value in metrics.items()}


def assert_equal(one, other):
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", rest_nightly(FIRST_ORDER))
def test_an_action_gradient_that_is_not_finite_is_as_none_at_all(name):
    silent, _ = trained(name, slope=0.0)
    for size in (np.inf, np.nan):
        state, metrics = trained(name, slope=size)
        assert_equal(state, silent)
        np.testing.assert_array_equal(metrics["non_finite_gradients"], 1)


@pytest.mark.parametrize("name", rest_nightly(FIRST_ORDER))
@pytest.mark.parametrize("size", [1e6, 1e20])
def test_a_huge_action_gradient_is_clipped(name, size):
    _, metrics = trained(name, slope=size)
    np.testing.assert_allclose(metrics["action_gradient_clip_fraction"], 1 / ENVS)
    assert np.all(metrics["action_gradient_ratio_max"] > 1e-4 * size)
    assert np.all(metrics["action_gradient_norm"] < 100)
    assert np.all(metrics["non_finite_gradients"] == 0)


@pytest.mark.parametrize("name", rest_nightly(FIRST_ORDER + MODEL_FREE))
def test_a_state_beyond_the_bound_ends_an_episode_and_no_more(name):
    worst, metrics = trained(name, state=np.nan)
    assert np.all(metrics["non_finite_states"] == 6)
    for size in (1e20, np.inf):
        assert_equal(trained(name, state=size)[0], worst)
    trained(name, state=-1e6)  # within the bound, and no end of an episode


@pytest.mark.parametrize("name", rest_nightly(FIRST_ORDER + MODEL_FREE))
@pytest.mark.parametrize("place", ["seen", "paid"])
def test_an_observation_or_reward_of_any_size_does_no_harm(name, place):
    for size in SIZES:
        state, metrics = trained(name, **{place: size})
        assert np.all(np.asarray(state.normalizer.variance) < 100)
        # the reward of that environment is learned, but no more of it than is bounded
        assert np.all(np.abs(metrics["value"][-3:]) < 1e8)
