"""The Gaussian over pre-squash actions against closed forms and numerical integration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.nets import Gaussian, log_tanh_slope


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def random_gaussian(seed: int, shape=(7, 3)) -> Gaussian:
    mean, log_std = jax.random.normal(jax.random.key(seed), (2, *shape))
    return Gaussian(mean, log_std)


def test_log_prob_is_the_joint_normal_density():
    gaussian = random_gaussian(0)
    sample = jax.random.normal(jax.random.key(9), gaussian.mean.shape)
    expected = jax.scipy.stats.norm.logpdf(sample, gaussian.mean, gaussian.std).sum(-1)
    np.testing.assert_allclose(gaussian.log_prob(sample), expected, rtol=1e-12)


def test_noise_of_inverts_sample():
    old, new = random_gaussian(1), random_gaussian(2)
    noise = jax.random.normal(jax.random.key(3), old.mean.shape)
    np.testing.assert_allclose(old.noise_of(old.sample(noise)), noise, rtol=1e-10)
    action = old.sample(noise)
    np.testing.assert_allclose(new.sample(new.noise_of(action)), action, rtol=1e-10)


def test_kl_agrees_with_numerical_integration_and_keeps_its_direction():
    old, new = (
        Gaussian(jnp.array([0.3]), jnp.array([-0.2])),
        Gaussian(jnp.array([-0.4]), jnp.array([0.5])),
    )
    x = np.linspace(-12, 12, 200_001)[:, None]
    p, q = old.log_prob(x), new.log_prob(x)
    expected = np.trapezoid(np.exp(p) * (p - q), x[:, 0])
    reverse = np.trapezoid(np.exp(q) * (q - p), x[:, 0])
    np.testing.assert_allclose(new.kl_from(old), expected, rtol=1e-9)
    assert abs(float(new.kl_from(old)) - reverse) > 0.1


def test_kl_and_its_gradient_vanish_at_equality():
    gaussian = random_gaussian(4)

    def kl(new: Gaussian):
        return jnp.sum(new.kl_from(gaussian))

    assert float(kl(gaussian)) == 0.0
    for leaf in jax.tree.leaves(jax.grad(kl)(gaussian)):
        assert float(jnp.abs(leaf).max()) == 0.0


def test_entropy_sample_averages_to_the_entropy_of_the_squashed_policy():
    gaussian = Gaussian(jnp.array([0.7]), jnp.array([-0.3]))
    action = np.tanh(np.linspace(-9, 9, 400_001))
    u = np.arctanh(action)
    log_density = np.asarray(gaussian.log_prob(u[:, None])) - np.log(1 - action**2)
    entropy = -np.trapezoid(np.exp(log_density) * log_density, action)

    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    samples = jax.jit(jax.vmap(gaussian.squashed_entropy_sample))(nodes[:, None])
    average = np.sum(weights * samples) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(average, entropy, rtol=1e-6)


def test_entropy_sample_gradient_is_the_entropy_gradient():
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)

    @jax.jit
    def entropy(mean, log_std):
        gaussian = Gaussian(mean[None], log_std[None])
        samples = jax.vmap(gaussian.squashed_entropy_sample)(nodes[:, None])
        return jnp.sum(weights * samples) / np.sqrt(2 * np.pi)

    point = jnp.array([0.4, -0.1])
    gradient = jax.grad(lambda x: entropy(x[0], x[1]))(point)
    step = 1e-5
    for i in range(2):
        shift = jnp.zeros(2).at[i].set(step)
        difference = entropy(*(point + shift)) - entropy(*(point - shift))
        np.testing.assert_allclose(gradient[i], difference / (2 * step), rtol=1e-6)


def test_log_tanh_slope_is_finite_far_out_and_exact_near_zero():
    x = jnp.linspace(-3, 3, 101)
    np.testing.assert_allclose(log_tanh_slope(x), jnp.log1p(-(jnp.tanh(x) ** 2)), atol=1e-12)
    far = jnp.array([-80.0, 80.0], jnp.float32)
    np.testing.assert_allclose(log_tanh_slope(far), 2 * np.log(2) - 160.0, rtol=1e-6)
    slope = jax.jit(jax.vmap(jax.grad(log_tanh_slope)))(far)
    np.testing.assert_allclose(slope, [2.0, -2.0], rtol=1e-6)
