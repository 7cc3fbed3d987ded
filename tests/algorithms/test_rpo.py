"""RPO's own equations: importance weights, clipping, KL, Proposition 1."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.algorithms import RPO, RPOConfig
from rpo.algorithms.chunks import CHUNK_ROWS
from rpo.algorithms.rpo import clipped_weight
from rpo.algorithms.surrogate import ActorBatch, actor_gradient, divergence, surrogate
from rpo.nets import Gaussian


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


class StateIndependent(eqx.Module):
    """A policy whose distribution does not depend on the observation."""

    mean: jax.Array | np.ndarray
    log_std: jax.Array | np.ndarray

    def __call__(self, observation):
        shape = (*observation.shape[:-1], self.mean.shape[-1])
        return Gaussian(jnp.broadcast_to(self.mean, shape), jnp.broadcast_to(self.log_std, shape))


OLD = StateIndependent(np.array([0.2]), np.array([-0.1]))
NEW = StateIndependent(np.array([0.5]), np.array([-0.3]))


def cubic_batch(key, samples, old=OLD):
    """One-step problem Q(u) = u^3, whose action gradient is 3 u^2."""
    observation = jnp.zeros((1, samples, 1))
    distribution = old(observation)
    action = distribution.sample(jax.random.normal(key, (1, samples, 1)))
    return ActorBatch(
        observation=observation,
        action=action,
        old=distribution,
        action_gradient=3 * action**2,
        entropy_noise=jnp.zeros_like(action),
        entropy_weight=jnp.ones((1, samples)),
    )


def true_gradient(policy):
    """Of E[u^3] = mean^3 + 3 mean std^2 with respect to (mean, log_std)."""
    mean, std = float(policy.mean[0]), float(jnp.exp(policy.log_std[0]))
    return np.array([3 * mean**2 + 3 * std**2, 6 * mean * std**2])


@pytest.mark.parametrize("weighted", [True, False])
def test_proposition_1_importance_weights_make_the_off_policy_gradient_unbiased(weighted):
    unclipped = RPO(
        RPOConfig(clip_low=1.0, clip_high=1e30, kl_coefficient=0.0, entropy_coefficient=0.0)
    )

    def estimate(key):
        batch = cubic_batch(key, 10_000)
        if weighted:
            gradient = jax.tree.map(
                jnp.negative, jax.grad(unclipped.loss, has_aux=True)(NEW, batch)[0]
            )
        else:
            gradient = jax.grad(lambda p: surrogate(p(batch.observation), batch))(NEW)
        return jnp.concatenate([gradient.mean, gradient.log_std])

    estimates = jax.jit(lambda keys: jax.lax.map(estimate, keys))(
        jax.random.split(jax.random.key(0), 100)
    )
    error = estimates.mean(0) - true_gradient(NEW)
    standard_error = estimates.std(0) / np.sqrt(len(estimates))
    assert np.all(standard_error < 0.02 * np.abs(true_gradient(NEW)))
    if weighted:
        assert np.all(np.abs(error) < 4 * standard_error)
    else:
        assert np.all(np.abs(error) > 20 * standard_error)


def test_clip_zeroes_exactly_what_equation_11_says():
    below, above = 0.2 - 1e-12, 2.0 + 1e-12
    ratio = jnp.array([0.0, below, 0.2 + 1e-12, 0.9, 1.0, 2.0, above, 1e20, jnp.inf])
    weight = clipped_weight(ratio, 0.8, 1.0)
    np.testing.assert_array_equal(weight, ratio.at[jnp.array([1, 6, 7, 8])].set(0))


def test_weight_is_a_constant_of_the_gradient():
    assert float(jax.grad(lambda r: clipped_weight(r, 0.8, 1.0))(1.3)) == 0.0


def test_clipped_samples_leave_the_surrogate_and_the_others_keep_their_ratio():
    algorithm = RPO(RPOConfig(kl_coefficient=0.0, entropy_coefficient=0.0))
    batch = cubic_batch(jax.random.key(1), 200)
    new = StateIndependent(jnp.array([1.2]), jnp.array([-0.6]))
    ratio = np.exp(new(batch.observation).log_prob(batch.action) - batch.old.log_prob(batch.action))
    inside = (ratio >= 1 - 0.8) & (ratio <= 2.0)
    assert 0 < inside.sum() < inside.size

    def kept_only(policy):
        distribution = policy(batch.observation)
        noise = jax.lax.stop_gradient(
            (batch.action - distribution.mean) / jnp.exp(distribution.log_std)
        )
        action = distribution.mean + jnp.exp(distribution.log_std) * noise
        terms = ratio * (batch.action_gradient * action)[..., 0]
        return -jnp.sum(jnp.where(inside, terms, 0)) / inside.size

    gradient, metrics = jax.jit(jax.grad(algorithm.loss, has_aux=True))(new, batch)
    expected = jax.jit(jax.grad(kept_only))(new)
    np.testing.assert_allclose(gradient.mean, expected.mean, rtol=1e-10)
    np.testing.assert_allclose(gradient.log_std, expected.log_std, rtol=1e-10)
    np.testing.assert_allclose(metrics["kept"], inside.mean())
    np.testing.assert_allclose(metrics["ratio_max"], ratio.max())


def test_ratio_is_joint_over_action_dimensions():
    algorithm = RPO(RPOConfig(kl_coefficient=0.0, entropy_coefficient=0.0))
    old = StateIndependent(jnp.zeros(2), jnp.zeros(2))
    new = StateIndependent(jnp.array([0.6, 0.6]), jnp.zeros(2))
    observation = jnp.zeros((1, 1, 1))
    action = jnp.full((1, 1, 2), 1.0)
    batch = ActorBatch(observation, action, old(observation), action, action, jnp.ones((1, 1)))
    # per dimension exp(0.6 - 0.18) = 1.52 is inside [0.2, 2]; the joint ratio 2.32 is not
    gradient, metrics = jax.jit(jax.grad(algorithm.loss, has_aux=True))(new, batch)
    np.testing.assert_allclose(metrics["ratio_max"], np.exp(2 * 0.42))
    np.testing.assert_array_equal(gradient.mean, 0)


def test_kl_and_its_gradient_vanish_in_the_first_epoch_and_push_back_later():
    only_kl = RPO(RPOConfig(kl_coefficient=1.0, entropy_coefficient=0.0))
    batch = cubic_batch(jax.random.key(2), 50)
    batch = dataclasses.replace(batch, action_gradient=jnp.zeros_like(batch.action))
    gradient, metrics = jax.grad(only_kl.loss, has_aux=True)(OLD, batch)
    assert float(metrics["kl"]) == 0.0
    assert float(metrics["ratio_max"]) == 1.0
    np.testing.assert_array_equal(gradient.mean, 0)
    np.testing.assert_array_equal(gradient.log_std, 0)

    gradient, metrics = jax.jit(jax.grad(only_kl.loss, has_aux=True))(NEW, batch)
    assert float(metrics["kl"]) > 0.01
    assert float(gradient.mean[0] * (NEW.mean - OLD.mean)[0]) > 0
    assert float(gradient.log_std[0] * (NEW.log_std - OLD.log_std)[0]) > 0


def test_coefficients_weigh_the_three_terms_of_equation_14():
    batch = cubic_batch(jax.random.key(3), 50)

    def loss(kl, entropy):
        algorithm = RPO(RPOConfig(kl_coefficient=kl, entropy_coefficient=entropy))
        return float(jax.jit(algorithm.loss)(NEW, batch)[0])

    plain = loss(0.0, 0.0)
    divergence = float(NEW(batch.observation).kl_from(batch.old).mean())
    np.testing.assert_allclose(loss(0.7, 0.0) - plain, 0.7 * divergence)
    entropy = NEW(batch.observation).squashed_entropy_sample(batch.entropy_noise).mean()
    normalized = float((entropy + 0.5) / (2 * 0.5))  # one action dimension: target -1/2
    np.testing.assert_allclose(loss(0.0, 0.4) - plain, -0.4 * normalized)


def test_chunks_do_not_change_the_gradient():
    algorithm = RPO(RPOConfig())
    batch = cubic_batch(jax.random.key(4), 3 * CHUNK_ROWS)
    expected, metrics = jax.jit(jax.grad(algorithm.loss, has_aux=True))(NEW, batch)
    chunked = jax.jit(lambda policy, batch: actor_gradient(algorithm.loss, policy, batch, None))
    gradient, found = chunked(NEW, batch)
    np.testing.assert_allclose(gradient.mean, expected.mean, rtol=1e-10)
    np.testing.assert_allclose(gradient.log_std, expected.log_std, rtol=1e-10)
    np.testing.assert_allclose(found["kept"], metrics["kept"], rtol=1e-12)
    np.testing.assert_allclose(found["ratio_max"], metrics["ratio_max"], rtol=1e-12)


def test_divergence_is_the_mean_kl_from_the_policy_that_acted():
    batch = cubic_batch(jax.random.key(3), 2 * CHUNK_ROWS)
    step, old, new = NEW.mean - OLD.mean, jnp.exp(OLD.log_std), jnp.exp(NEW.log_std)
    expected = (jnp.log(new / old) + (old**2 + step**2) / (2 * new**2) - 0.5).item()
    np.testing.assert_allclose(divergence(NEW, batch), expected, rtol=1e-12)
    np.testing.assert_allclose(divergence(OLD, batch), 0.0, atol=1e-12)
