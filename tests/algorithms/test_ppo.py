"""PPO's own equations, on numbers worked out by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.algorithms import PPO, PPOConfig
from rpo.algorithms.base import Experience
from rpo.algorithms.ppo import (
    Networks,
    PPOBatch,
    PPOState,
    adapted_learning_rate,
    bound_loss,
)
from rpo.algorithms.surrogate import clipped_objective
from rpo.nets import Gaussian, Normalizer, new_normalizer
from tests.algorithms.probe_environments import OneStep, Wanderer
from tests.marks import nightly

SMALL = PPO(
    PPOConfig(
        num_envs=8, horizon=6, actor_hidden_sizes=(8,), critic_hidden_sizes=(8,), minibatches=2
    )
)


class Scaled(eqx.Module):
    """A policy whose mean is a multiple of the observation, with std 1."""

    slope: jax.Array

    def __call__(self, observation):
        mean = self.slope * observation
        return Gaussian(mean, jnp.zeros_like(mean))


class FirstFeature(eqx.Module):
    """A critic that returns a multiple of the first feature."""

    slope: jax.Array

    def __call__(self, observation):
        return self.slope * observation[None, ..., 0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (1.1, 2.0, 2.2, 2.0),  # inside: rho * A
        (1.5, 2.0, 2.4, 0.0),  # better than it was, far enough: no incentive to go on
        (0.5, 2.0, 1.0, 2.0),  # worse than it was: pulled back
        (0.5, -2.0, -1.6, 0.0),
        (1.5, -2.0, -3.0, -2.0),
    ],
)
def test_clipped_objective(ratio, advantage, value, slope):
    computed, derivative = jax.value_and_grad(clipped_objective)(ratio, jnp.float32(advantage), 0.2)
    np.testing.assert_allclose([computed, derivative], [value, slope], rtol=1e-6)


def test_bound_loss_is_the_squared_excess_summed_over_dimensions():
    mean = jnp.array([[0.9, -1.0, 1.1], [1.6, -2.1, 0.0]])
    np.testing.assert_allclose(bound_loss(mean, 1.1), [0.0, 0.25 + 1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("rate", "kl", "expected"),
    [
        (3e-4, 0.0161, 2e-4),  # above twice the threshold
        (3e-4, 0.0159, 3e-4),
        (3e-4, 0.0041, 3e-4),
        (3e-4, 0.0039, 4.5e-4),  # below half of it
        (1.2e-6, 1.0, 1e-6),
        (9e-3, 0.0, 1e-2),
        (3e-4, np.nan, 3e-4),
    ],
)
def test_learning_rate_follows_the_divergence(rate, kl, expected):
    limits = {"lowest": 1e-6, "highest": 1e-2}
    adapted = adapted_learning_rate(jnp.asarray(rate), jnp.asarray(kl), threshold=0.008, **limits)
    np.testing.assert_allclose(adapted, expected, rtol=1e-6)
    kept = adapted_learning_rate(jnp.asarray(rate), jnp.asarray(kl), threshold=0.0, **limits)
    np.testing.assert_allclose(kept, rate, rtol=1e-6)


def hand_made_batch():
    """Three samples of two actions: log ratios 0.095, -0.4, 0 for a slope of 0.1 after 0."""
    with jax.enable_x64(True):
        observation = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
        # log ratio = mean * action - mean^2 / 2, mean = 0.1 * observation
        action = jnp.array([[1.0, 0.0], [0.0, -1.9], [0.15, 5.0]])
        return PPOBatch(
            observation=observation,
            action=action,
            old=Gaussian(jnp.zeros((3, 2)), jnp.zeros((3, 2))),
            advantage=jnp.array([1.0, -1.0, 2.0]),
            target=jnp.array([1.0, 2.0, 3.0]),
        )


def test_loss_on_a_batch_by_hand():
    with jax.enable_x64(True):
        config = PPOConfig(entropy_coefficient=0.01, bound_coefficient=0.5, bound_limit=0.25)
        networks = Networks(Scaled(jnp.array(0.1)), FirstFeature(jnp.array(0.5)))
        loss, metrics = PPO(config).loss(networks, hand_made_batch())

        ratio = np.exp([0.095, -0.4, 0.0])
        # the second sample's ratio 0.67 is clipped at 0.8: its advantage is negative
        objective = (ratio[0] * 1.0 - 0.8 + 1.0 * 2.0) / 3
        value = ((0.5 - 1) ** 2 + (0.0 - 2) ** 2 + (1.5 - 3) ** 2) / 3
        entropy = 2 * 0.5 * (1 + np.log(2 * np.pi))
        bound = (0.3 - 0.25) ** 2 / 3
        expected = -objective + 4 * 0.5 * value - 0.01 * entropy + 0.5 * bound
        np.testing.assert_allclose(loss, expected, rtol=1e-12)
        np.testing.assert_allclose(metrics["value_loss"], value, rtol=1e-12)
        np.testing.assert_allclose(metrics["ratio_max"], ratio[0], rtol=1e-12)
        np.testing.assert_allclose(metrics["clip_fraction"], 1 / 3, rtol=1e-6)
        np.testing.assert_allclose(metrics["kl"], 0.5 * (0.01 + 0.04 + 0.09) / 3, rtol=1e-12)


def test_gradient_of_the_loss_by_hand():
    with jax.enable_x64(True):
        networks = Networks(Scaled(jnp.array(0.1)), FirstFeature(jnp.array(0.5)))
        gradient = jax.jit(jax.grad(PPO(PPOConfig()).loss, has_aux=True))
        gradient, _ = gradient(networks, hand_made_batch())
        # d log ratio / d slope = observation . (action - mean): 0.9, clipped, 3 * (0.15 - 0.3)
        by_slope = (np.exp(0.095) * 0.9 * 1.0 + 0.0 + 1.0 * (3 * -0.15) * 2.0) / 3
        np.testing.assert_allclose(gradient.policy.slope, -by_slope, rtol=1e-10)
        by_value = 4 * (1.0 * (0.5 - 1) + 0.0 + 3.0 * (1.5 - 3)) / 3
        np.testing.assert_allclose(gradient.critics.slope, by_value, rtol=1e-10)


def hand_made_experience():
    """One environment: a time limit at step 1, a termination at step 2, then it goes on."""
    column = lambda *values: jnp.asarray(values)[:, None]  # noqa: E731
    return Experience(
        observation=column(1.0, 2.0, 5.0, 7.0)[..., None],
        action=jnp.zeros((4, 1, 1)),
        reward=column(1.0, 2.0, 3.0, 4.0),
        terminated=column(False, False, True, False),
        truncated=column(False, True, False, False),
        final_observation=column(2.0, 3.0, 6.0, 8.0)[..., None],
        non_finite=column(False, False, False, False),
        episode_return=column(1.0, 3.0, 3.0, 4.0),
        episode_length=column(1, 2, 1, 1),
        report={},
    )


def test_advantages_and_normalised_targets_by_hand():
    with jax.enable_x64(True):
        algorithm = PPO(PPOConfig(num_envs=1, horizon=4, discount=0.5, gae_lambda=0.8))
        statistics = Normalizer(jnp.array([10.0]), jnp.array([4.0 - 1e-5]), jnp.array(4.0))
        state = jax.eval_shape(lambda: SMALL.init(OneStep(), jax.random.PRNGKey(0)))
        state = eqx.tree_at(
            lambda x: (x.normalizer, x.policy, x.critics, x.method),
            state,
            (
                new_normalizer(1),
                Scaled(jnp.array(0.1)),
                FirstFeature(jnp.array(1.0)),
                PPOState(statistics, jnp.array(1e-3)),
            ),
        )
        batch, updated, metrics = algorithm.make_batch(state, hand_made_experience())

        # V(o) = 10 + 2 o, up to the observation normaliser's epsilon
        last = 4 + 0.5 * 26 - 24
        terminated = 3 - 20  # nothing beyond
        truncated = 2 + 0.5 * 16 - 14  # bootstrap from 3, before the reset, not from 5
        first = 1 + 0.5 * 14 - 12 + 0.5 * 0.8 * truncated
        advantage = np.array([first, truncated, terminated, last])
        standard = (advantage - advantage.mean()) / advantage.std()
        np.testing.assert_allclose(batch.advantage[:, 0], standard, rtol=1e-4)

        target = advantage + np.array([12, 14, 20, 24])
        mean = (4 * 10 + target.sum()) / 8
        variance = (4 * (4 + 10**2) + np.sum(target**2)) / 8 - mean**2
        np.testing.assert_allclose(updated.mean, [mean], rtol=1e-4)
        np.testing.assert_allclose(updated.variance, [variance], rtol=1e-4)
        np.testing.assert_allclose(
            batch.target[:, 0], (target - mean) / np.sqrt(variance), rtol=1e-3, atol=1e-4
        )
        np.testing.assert_allclose(metrics["value"], 17.5, rtol=1e-4)


def test_actions_are_clipped_at_the_environment_only():
    env = OneStep()

    @jax.jit
    def acting():
        state = SMALL.init(env, jax.random.PRNGKey(0))
        _, experience = SMALL.collect(env, state, jax.random.PRNGKey(1))
        batch, _, _ = SMALL.make_batch(state, experience)
        return experience, SMALL.loss(Networks(state.policy, state.critics), batch)[1]

    experience, metrics = acting()
    assert np.any(np.abs(experience.action) > 1)
    clipped = np.clip(experience.action[..., 0], -1, 1)
    np.testing.assert_allclose(experience.reward, -((clipped - 0.3) ** 2), rtol=1e-5)
    # the recorded action is what the density is taken of, so the ratio starts at one
    np.testing.assert_allclose(metrics["ratio_max"], 1.0, rtol=1e-5)
    assert float(metrics["kl"]) < 1e-6


@nightly
def test_an_update_adapts_the_rate_after_every_epoch_and_renews_the_statistics():
    env = Wanderer()
    state = SMALL.init(env, jax.random.PRNGKey(0))
    update = jax.jit(lambda s: SMALL.update(env, s))
    before, (state, metrics) = state, update(state)
    np.testing.assert_allclose(metrics["learning_rate"], 5e-4, rtol=1e-6)
    rate = 5e-4
    for m in range(1, 6):
        kl = float(metrics[f"kl_epoch_{m}"])
        rate *= 1.5 if kl < 0.004 else 1 / 1.5 if kl > 0.016 else 1.0
    assert rate != 5e-4
    np.testing.assert_allclose(state.method.learning_rate, rate, rtol=1e-5)
    assert float(state.normalizer.count) == float(state.method.value_normalizer.count) == 48
    assert int(state.iteration) == 1
    assert int(state.episodes.count) >= 8
    weights = jax.tree.leaves((state.policy, state.critics))
    for after, start in zip(weights, jax.tree.leaves((before.policy, before.critics)), strict=True):
        assert not np.array_equal(after, start)

    state, metrics = update(state)
    np.testing.assert_allclose(metrics["learning_rate"], rate, rtol=1e-5)
    assert {"value", "std", "entropy", "reward", "value_loss", "clip_fraction"} < set(metrics)
    assert {"gradient_norm", "episode_return", "non_finite_states"} < set(metrics)
    assert all(np.shape(value) == () and np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minibatches": 5}, "minibatches is 5, must divide the horizon"),
        ({"clip": 0.0}, "clip is 0.0, must be positive"),
        ({"epochs": 0}, "epochs is 0, must be at least 1"),
        ({"gae_lambda": 1.1}, "gae_lambda is 1.1"),
        ({"kl_threshold": -1.0}, "kl_threshold is -1.0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"max_learning_rate": 1e-7}, "must be at least min_learning_rate"),
        ({"num_envs": 0}, "num_envs is 0"),
        ({"critic_hidden_sizes": (0,)}, "critic_hidden_sizes"),
        ({"betas": (0.9, 1.0)}, "betas"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        PPOConfig(**settings)
    assert "\n" not in str(error.value)
