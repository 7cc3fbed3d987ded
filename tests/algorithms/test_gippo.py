"""GI-PPO's own equations: advantage gradients, alpha policy, the two tests, the ratio of PPO."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.algorithms import GIPPO, GIPPOConfig
from rpo.algorithms.alpha_policy import AdvantageBatch, fit_alpha_policy
from rpo.algorithms.devices import environment_keys, environment_noise
from rpo.algorithms.gippo import AlphaState, volume_ratio
from rpo.nets import Gaussian, Normalizer
from tests.algorithms.probe_environments import Wanderer
from tests.marks import nightly

ENVS, HORIZON, DISCOUNT, DECAY = 12, 6, 0.9, 0.7
ENV = Wanderer()
SMALL = GIPPO(
    GIPPOConfig(
        num_envs=ENVS,
        horizon=HORIZON,
        discount=DISCOUNT,
        td_lambda=DECAY,
        actor_hidden_sizes=(8, 8),
        critic_hidden_sizes=(8,),
        block_size=4,
        critic_minibatches=1,
        ppo_minibatches=2,
    )
)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


@functools.cache
def prepared():
    """A state with observation statistics unlike the identity, its batch and its rollout."""
    state = jax.jit(lambda key: SMALL.init(ENV, key))(jax.random.PRNGKey(3))
    data = 1 + 2 * jax.random.normal(jax.random.PRNGKey(4), (50, 3))
    state = dataclasses.replace(state, normalizer=state.normalizer.update(data))
    rollout = jax.jit(lambda s: SMALL.rollout(ENV, s, jax.random.PRNGKey(5)))(state)
    observation = state.normalizer(rollout.segment.observation)
    return state, SMALL.make_batch(state, rollout, observation), rollout.segment


def plain_advantages(state, perturbation):
    """GAE of every step, by its definition as a sum, from a loop over time; and what was seen."""
    keys = environment_keys(jax.random.PRNGKey(5), jnp.arange(ENVS))
    noise = environment_noise(keys, (2, HORIZON, 2))[0]
    env_state = state.environments.state

    def value(observation):
        normalized = state.normalizer(observation)
        return sum(member(normalized)[:, 0] for member in state.critics.networks.members) / 2

    errors, continues, seen = [], [], []
    for t in range(HORIZON):
        observation = env_state.observation
        distribution = state.policy(state.normalizer(observation))
        u = distribution.mean + jnp.exp(distribution.log_std) * noise[t] + perturbation[t]
        env_state, transition = ENV.step(env_state, jnp.tanh(u))
        beyond = jnp.where(transition.terminated, 0, value(transition.final_observation))
        errors.append(transition.reward + DISCOUNT * beyond - value(observation))
        continues.append(~(transition.terminated | transition.truncated))
        seen.append((state.normalizer(observation), u))

    advantages = []
    for t in range(HORIZON):
        total, weight = 0.0, jnp.ones(ENVS)
        for k in range(t, HORIZON):
            total += weight * errors[k]
            weight = weight * DISCOUNT * DECAY * continues[k]
        advantages.append(total)
    return jnp.stack(advantages), seen


@nightly
def test_one_backward_pass_gives_the_advantage_gradient_of_every_step():
    state, batch, segment = prepared()
    # the case must hold every kind of episode end, and whole segments between two of them
    assert bool(segment.terminated[:-1].any())
    assert bool(segment.truncated[:-1].any())
    assert int(jnp.max(jnp.sum(segment.terminated | segment.truncated, axis=0))) >= 2

    def each_step(perturbation):
        advantages, seen = plain_advantages(state, perturbation)
        return advantages.sum(axis=1), (advantages, seen)

    zero = jnp.zeros((HORIZON, ENVS, 2))
    jacobian, (advantages, seen) = jax.jit(jax.jacrev(each_step, has_aux=True))(zero)
    for t in range(HORIZON):
        np.testing.assert_allclose(batch.gradient[t], jacobian[t, t], rtol=1e-9, atol=1e-12)
        assert float(jnp.abs(jacobian[t, t]).max()) > 0.1
        np.testing.assert_allclose(batch.advantage[t], advantages[t], rtol=1e-9, atol=1e-12)
        observation, action = seen[t]
        np.testing.assert_allclose(batch.observation[t], observation, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(batch.action[t], action, rtol=1e-9, atol=1e-12)


def test_volume_ratio_is_the_product_over_dimensions():
    old = Gaussian(np.zeros((1, 3)), np.log([[1.0, 2.0, 0.5]]))
    new = Gaussian(np.ones((1, 3)), np.log([[1.5, 1.6, 0.25]]))
    np.testing.assert_allclose(jax.jit(volume_ratio)(new, old), [1.5 * 0.8 * 0.5])


def constructed(ratios, advantages=None, volumes=None):
    """Samples with the given density ratios (of means 1 and 0, std 1) and, second, volumes.

    A second action dimension at its mean holds the volume; its density ratio 1 / volume is undone
    by the first dimension. In NumPy, which compiles nothing.
    """
    ratios = np.asarray(ratios)[None]
    volumes = np.ones_like(ratios) if volumes is None else np.asarray(volumes)[None]
    zero, one = np.zeros_like(ratios), np.ones_like(ratios)
    pairs = np.zeros((*ratios.shape, 2))
    first = np.log(ratios * volumes) + 0.5  # log ratio of the first dimension: u - 1/2
    batch = AdvantageBatch(
        observation=pairs,
        action=np.stack([first, zero], axis=-1),
        old=Gaussian(pairs, pairs),
        advantage=one if advantages is None else np.asarray(advantages)[None],
        gradient=pairs,
    )
    return batch, Gaussian(np.stack([one, zero], -1), np.stack([zero, np.log(volumes)], -1))


UNKNOWN = Normalizer(np.zeros(1), np.ones(1), np.array(0.0))
"""What is known of the gains before the first."""

adapt = jax.jit(lambda algorithm, *given: algorithm.adapt(*given))
"""One program for all cases of equally many samples."""


def adapted(batch, new, *, alpha=0.5, gains=UNKNOWN, failed=False, scale=1.0, **settings):
    settings = {"max_out_of_range": 0.5, "clip": 0.2, "alpha_interval": 0.4} | settings
    before = AlphaState(np.array(alpha), gains, np.array(scale), None)
    algorithm = GIPPO(GIPPOConfig(**settings))
    state, metrics = jax.device_get(adapt(algorithm, before, batch, new, np.array(failed)))
    return float(state.alpha), state, metrics


LONGER, SHORTER = 0.5 * 1.02, 0.5 / 1.02


@pytest.mark.parametrize(
    ("volumes", "expected"),
    [
        ([1.0, 1.0, 1.0], LONGER),
        ([1.399, 0.601, 1.0], LONGER),
        ([1.0, 1.401, 1.0], SHORTER),  # one sample is enough
        ([0.599, 1.0, 1.0], SHORTER),
    ],
)
def test_variance_test(volumes, expected):
    batch, new = constructed([1.0, 1.0, 1.0], volumes=volumes)
    alpha, _, metrics = adapted(batch, new)
    np.testing.assert_allclose(alpha, expected, rtol=1e-12)
    assert float(metrics["alpha"]) == 0.5
    np.testing.assert_allclose(
        metrics["alpha_volume_deviation"], np.abs(np.array(volumes) - 1).max(), rtol=1e-9
    )
    np.testing.assert_allclose(metrics["alpha_out_of_range"], 0.0)


def test_alpha_never_exceeds_one():
    alpha, _, _ = adapted(*constructed([1.0]), alpha=0.99)
    assert alpha == 1.0


@pytest.mark.parametrize(
    ("ratios", "share", "expected"),
    [
        ([1.19, 0.81, 1.0, 1.0], 0.0, LONGER),
        ([1.21, 0.79, 1.0, 1.0], 0.5, LONGER),
        ([1.21, 0.79, 1.3, 1.0], 0.75, SHORTER),
        ([4e-9, 1e30, 1.3, 1.0], 0.75, SHORTER),
    ],
)
def test_bias_test_by_the_share_of_ratios_out_of_range(ratios, share, expected):
    alpha, _, metrics = adapted(*constructed(ratios))
    np.testing.assert_allclose(metrics["alpha_out_of_range"], share)
    np.testing.assert_allclose(alpha, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("advantages", "earlier", "expected"),
    [
        # gain = 0.1 * A_1 - 0.1 * A_2
        ([60.0, 40.0], (0.0, 1.0, 99), LONGER),  # +2
        ([40.0, 60.0], (0.0, 1.0, 99), SHORTER),  # -2, twice the standard deviation
        ([40.0, 60.0], (0.0, 9.0, 99), LONGER),  # -2 is usual
        ([40.0, 60.0], (-2.5, 1.0, 99), LONGER),  # and better than that
        ([60.0, 40.0], (9.0, 1.0, 99), LONGER),  # +2: worse than ever, but a gain
        ([48.0, 52.0], (0.0, 1.0, 0), LONGER),  # -0.4: nothing is known, mean 0 and variance 1 hold
        ([40.0, 60.0], (0.0, 1.0, 0), SHORTER),  # -2
        ([40.0, 60.0], (0.0, 1.0, 1), SHORTER),  # with itself among two it would be at -1
    ],
)
def test_bias_test_by_the_predicted_gain(advantages, earlier, expected):
    """`earlier` holds mean, variance and number of the gains so far.

    They take this one in, but it is judged by those before it.
    """
    mean, variance, count = earlier
    gains = Normalizer(np.array([mean]), np.array([variance]), np.array(float(count)))
    alpha, state, metrics = adapted(*constructed([1.1, 0.9], advantages), gains=gains)
    np.testing.assert_allclose(alpha, expected, rtol=1e-12)
    gain = 0.1 * (advantages[0] - advantages[1])
    np.testing.assert_allclose(
        metrics["alpha_gain"], (gain - mean) / np.sqrt(variance + 1e-5), rtol=1e-5, atol=1e-6
    )
    square = (count * (variance + mean**2) + gain**2) / (count + 1)
    mean = (count * mean + gain) / (count + 1)
    variance = square - mean**2
    np.testing.assert_allclose(state.gains.mean, [mean], rtol=1e-9)
    np.testing.assert_allclose(state.gains.variance, [variance], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("volume", [1.0, 2.0])
def test_a_failed_regression_lowers_its_rate_for_good_and_leaves_alpha(volume):
    batch, new = constructed([1.0, 1.0], volumes=[volume, 1.0])
    alpha, state, _ = adapted(batch, new, failed=True)
    assert alpha == 0.5
    np.testing.assert_allclose(state.rate_scale, 1 / 1.5)
    alpha, state, _ = adapted(batch, new, failed=False, scale=0.3)
    np.testing.assert_allclose(alpha, LONGER if volume == 1.0 else SHORTER)
    np.testing.assert_allclose(state.rate_scale, 0.3)


@pytest.mark.parametrize(("rate", "lowest"), [(1e-3, 1e-5), (4e-6, 4e-6)])
def test_the_regressions_rate_has_a_floor(rate, lowest):
    """It does not raise a rate that begins below it."""
    batch, new = constructed([1.0])
    settings = {"failed": True, "actor_learning_rate": rate, "alpha_min_learning_rate": 1e-5}
    _, state, _ = adapted(batch, new, scale=1.2 * lowest / rate, **settings)
    np.testing.assert_allclose(rate * state.rate_scale, lowest, rtol=1e-6)


class Table(eqx.Module):
    """A policy with one mean per observation, which is one-hot; std 1."""

    mean: jax.Array

    def __call__(self, observation):
        mean = observation @ self.mean
        return Gaussian(mean, jnp.zeros_like(mean))


@nightly
def test_every_sample_meets_its_own_advantage_in_the_ppo_phase():
    """With a mean per sample, each must move to or from its own action by its own advantage."""
    config = dataclasses.replace(SMALL.config, weight_decay=0.0, ppo_epochs=1)
    algorithm = GIPPO(config)
    keys = jax.random.split(jax.random.PRNGKey(1), 3)
    count = HORIZON * ENVS
    policy = Table(jax.random.normal(keys[0], (count, 1)))
    observation = jnp.eye(count).reshape(HORIZON, ENVS, count)
    old = policy(observation)
    action = old.mean + jax.random.normal(keys[1], old.mean.shape)
    advantage = jax.random.normal(keys[2], (HORIZON, ENVS)) + 3.0
    batch = AdvantageBatch(observation, action, old, advantage, jnp.zeros_like(action))
    state = dataclasses.replace(
        prepared()[0], policy=policy, actor_optimizer=algorithm.optimizer.init(policy)
    )
    moments = algorithm.ppo_optimizer.init(policy).adam
    state = dataclasses.replace(
        state, method=dataclasses.replace(state.method, ppo_moments=moments)
    )
    after, _ = jax.jit(lambda s: algorithm.update_actor(s, batch, 1e-3))(state)

    moved = (after.policy.mean - policy.mean).reshape(HORIZON, ENVS)
    direction = (action - old.mean)[..., 0] * (advantage - advantage.mean())
    np.testing.assert_array_equal(np.sign(moved), np.sign(direction))


def leaves_equal(one, other, **tolerance):
    for x, y in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


@nightly
def test_regression_and_ppo_keep_moments_of_their_own():
    state, batch, _ = prepared()
    scaled = dataclasses.replace(state.method, rate_scale=jnp.array(0.5))
    state = dataclasses.replace(state, method=scaled)
    after, metrics = jax.jit(lambda s: SMALL.update_actor(s, batch, 1e-3))(state)
    np.testing.assert_allclose(metrics["alpha_learning_rate"], 5e-4)
    fit = fit_alpha_policy(
        (state.policy, state.actor_optimizer),
        batch,
        state.method.alpha,
        optimizer=SMALL.optimizer,
        learning_rate=5e-4,
        steps=SMALL.config.alpha_steps,
        attempts=1,
        axis=None,
    )
    leaves_equal(after.actor_optimizer.adam, fit.actor[1].adam, rtol=1e-8, atol=1e-12)
    # the share of the rate that failures have taken is the regression's alone
    expected = SMALL.run_ppo(
        state,
        fit.actor,
        batch,
        fit.actor[0](batch.observation),
        jnp.array(1e-3),
    )
    leaves_equal(after.policy, expected.actor[0], rtol=1e-8, atol=1e-12)
    leaves_equal(after.method.ppo_moments, expected.actor[1].adam, rtol=1e-8, atol=1e-12)
    steps = SMALL.config.ppo_epochs * SMALL.config.ppo_minibatches
    assert int(after.method.ppo_moments[1].count) == steps
    assert SMALL.ppo_optimizer.betas == (0.9, 0.999)


@nightly
def test_skipped_steps_of_both_phases_are_counted_together():
    state, batch, _ = prepared()
    phases = SMALL.config.alpha_steps, SMALL.config.ppo_epochs * SMALL.config.ppo_minibatches
    nan = dataclasses.replace(batch, gradient=batch.gradient * jnp.nan)
    update = jax.jit(lambda batch: SMALL.update_actor(state, batch, 1e-3)[0])
    after = update(nan)
    assert int(after.actor_optimizer.skipped) == phases[0]
    assert int(after.actor_optimizer.skipped_in_a_row) == 0  # PPO's steps were taken
    after = update(dataclasses.replace(nan, advantage=batch.advantage * jnp.nan))
    assert int(after.actor_optimizer.skipped_in_a_row) == sum(phases)


def test_an_update_keeps_its_alpha_and_reports():
    state = jax.jit(lambda: SMALL.init(ENV, jax.random.PRNGKey(0)))()
    update = jax.jit(lambda s: SMALL.update(ENV, s))
    after, metrics = update(state)
    passed = (
        metrics["alpha_volume_deviation"] <= 0.4
        and metrics["alpha_out_of_range"] <= 0.8
        and metrics["alpha_gain"] >= -1
    )
    expected = 0.5 * 1.02 if passed else 0.5 / 1.02
    np.testing.assert_allclose(after.method.alpha, expected, rtol=1e-9)
    assert float(after.method.gains.count) == 1
    assert float(metrics["alpha_loss_last"]) < float(metrics["alpha_loss_first"])
    np.testing.assert_allclose(metrics["learning_rate"], 5e-4)
    expected = {f"{name}_epoch_{m}" for name in ("kl", "ratio_max") for m in range(1, 6)}
    expected |= {"alpha_attempts", "alpha_gradient_norm", "actor_gradient_norm", "clip_fraction"}
    expected |= {"alpha_learning_rate", "ppo_attempts", "ppo_undone"}
    assert expected < set(metrics)

    after, metrics = update(after)
    np.testing.assert_allclose(metrics["alpha"], 0.5 * 1.02 if passed else 0.5 / 1.02, rtol=1e-9)
    assert all(np.shape(value) == () and np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"initial_alpha": 0.0}, "initial_alpha is 0.0, must be positive"),
        ({"initial_alpha": 2.0}, "initial_alpha is 2.0, must lie in"),
        ({"max_out_of_range": 1.1}, "max_out_of_range is 1.1"),
        ({"alpha_interval": -0.4}, "alpha_interval is -0.4"),
        ({"alpha_factor": 0.9}, "alpha_factor is 0.9, must be at least 1"),
        ({"alpha_steps": 0}, "alpha_steps is 0"),
        ({"alpha_attempts": 0}, "alpha_attempts is 0"),
        ({"alpha_min_learning_rate": -1e-5}, "alpha_min_learning_rate is -1e-05"),
        ({"ppo_epochs": 0}, "ppo_epochs is 0"),
        ({"ppo_attempts": 0}, "ppo_attempts is 0"),
        ({"ppo_learning_rate": 0.0}, "ppo_learning_rate is 0.0"),
        ({"ppo_betas": (0.9, 1.0)}, "ppo_betas is"),
        ({"ppo_minibatches": 5}, "ppo_minibatches is 5, must divide the horizon"),
        ({"td_lambda": 0.0}, "td_lambda is 0.0, must be larger"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"num_envs": 0}, "num_envs is 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        GIPPOConfig(**settings)
    assert "\n" not in str(error.value)
