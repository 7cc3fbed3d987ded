"""Running statistics of observations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.nets import new_normalizer


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def test_statistics_of_many_batches_are_those_of_all_samples():
    samples = 100.0 + np.random.default_rng(0).normal(size=(60, 2)) * [1.0, 20.0]
    normalizer = new_normalizer(2)
    for batch in np.split(samples, [10, 11, 35]):
        normalizer = normalizer.update(jnp.asarray(batch))
    np.testing.assert_allclose(normalizer.mean, samples.mean(0), rtol=1e-12)
    np.testing.assert_allclose(normalizer.variance, samples.var(0), rtol=1e-10)
    assert float(normalizer.count) == 60


def test_batch_axes_are_flattened():
    samples = np.random.default_rng(0).normal(size=(4, 5, 3))
    nested = new_normalizer(3).update(jnp.asarray(samples))
    flat = new_normalizer(3).update(jnp.asarray(samples.reshape(20, 3)))
    np.testing.assert_array_equal(nested.mean, flat.mean)
    np.testing.assert_array_equal(nested.variance, flat.variance)


def test_formula_epsilon_and_inverse():
    normalizer = new_normalizer(2).update(jnp.asarray([[1.0, 5.0], [3.0, 5.0]]))
    x = jnp.asarray([4.0, 5.5])
    expected = [(4.0 - 2.0) / np.sqrt(1.0 + 1e-5), 0.5 / np.sqrt(1e-5)]
    np.testing.assert_allclose(normalizer(x), expected, rtol=1e-12)
    np.testing.assert_allclose(normalizer.denormalize(normalizer(x)), x, rtol=1e-12)


def test_no_samples_seen_is_the_identity_up_to_epsilon():
    x = jnp.asarray([3.0, -7.0])
    np.testing.assert_allclose(new_normalizer(2)(x), x, rtol=1e-5)


def test_gradient_reaches_the_observation_but_not_the_statistics():
    normalizer = new_normalizer(2).update(jnp.asarray([[1.0, 5.0], [3.0, 9.0]]))
    to_statistics = jax.grad(lambda n: jnp.sum(n(jnp.ones(2))))(normalizer)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(to_statistics))
    to_observation = jax.grad(lambda x: jnp.sum(normalizer(x)))(jnp.ones(2))
    np.testing.assert_allclose(to_observation, [1.0, 0.5], rtol=1e-4)


def test_single_precision_survives_a_large_offset_and_many_samples():
    with jax.enable_x64(False):
        rng = np.random.default_rng(0)
        normalizer = new_normalizer(1)
        for _ in range(200):
            batch = 1000 + 0.1 * rng.normal(size=(500, 1))
            normalizer = normalizer.update(jnp.asarray(batch, jnp.float32))
        np.testing.assert_allclose(normalizer.variance, 0.01, rtol=0.02)
