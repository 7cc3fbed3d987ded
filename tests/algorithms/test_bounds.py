"""What one environment can do to a batch: bounds on gradients, values and statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.algorithms import RPOConfig
from rpo.algorithms.bounds import (
    MAX_DEVIATION,
    bound_action_gradients,
    bound_values,
    update_normalizer,
)
from rpo.algorithms.devices import environment_median
from rpo.algorithms.rollout import Rollout
from rpo.nets import new_normalizer
from rpo.nets.normalizer import LARGEST

STEPS, ENVS, RATIO = 5, 9, 10.0
GRADIENT = np.random.default_rng(0).normal(size=(STEPS, ENVS, 2)).astype(np.float32)


def bounded(gradient, ratio=RATIO):
    rollout = Rollout(None, None, jnp.asarray(gradient), jnp.ones(ENVS, bool), None)
    rollout, metrics = jax.jit(lambda r: bound_action_gradients(r, ratio, None))(rollout)
    return np.asarray(rollout.action_gradient), {k: float(v) for k, v in metrics.items()}


def test_what_lies_within_the_bounds_passes_to_the_last_digit():
    gradient, metrics = bounded(GRADIENT)
    np.testing.assert_array_equal(gradient, GRADIENT)
    norm = np.linalg.norm(GRADIENT, axis=(0, 2))
    np.testing.assert_allclose(metrics["action_gradient_norm_max"], norm.max(), rtol=1e-6)
    np.testing.assert_allclose(
        metrics["action_gradient_ratio_max"], norm.max() / np.median(norm), rtol=1e-6
    )
    np.testing.assert_allclose(
        metrics["action_gradient_norm"], np.linalg.norm(GRADIENT, axis=-1).mean(), rtol=1e-6
    )
    assert metrics["action_gradient_clip_fraction"] == 0

    values = jnp.asarray(700 + 50 * GRADIENT[..., 0])
    same, share = bound_values(values, None)
    np.testing.assert_array_equal(same, values)
    assert float(share) == 0

    normalizer = new_normalizer(2).update(jnp.asarray(GRADIENT))
    for new in (GRADIENT, 7 * GRADIENT):
        plain, guarded = (
            normalizer.update(jnp.asarray(new)),
            update_normalizer(normalizer, new, None),
        )
        for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(guarded), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [1e6, 1e20, 1e37])
def test_a_huge_gradient_keeps_its_direction_and_gets_the_length_of_the_bound(size):
    huge = GRADIENT.copy()
    huge[:, 3] = size * np.clip(GRADIENT[:, 3], -1, 1)
    gradient, metrics = bounded(huge)
    others = np.arange(ENVS) != 3
    np.testing.assert_array_equal(gradient[:, others], GRADIENT[:, others])
    norm = np.linalg.norm(huge.astype(float), axis=(0, 2))
    np.testing.assert_allclose(
        np.linalg.norm(gradient[:, 3].astype(float)), RATIO * np.median(norm), rtol=1e-5
    )
    np.testing.assert_allclose(
        gradient[:, 3] / np.linalg.norm(gradient[:, 3].astype(float)),
        huge[:, 3] / norm[3],
        atol=1e-6,
    )
    assert metrics["action_gradient_clip_fraction"] == np.float32(1 / ENVS)
    np.testing.assert_allclose(metrics["action_gradient_norm_max"], norm[3], rtol=1e-5)
    assert all(np.isfinite(value) for value in metrics.values())


def test_no_finite_gradient_overflows():
    largest = GRADIENT.copy()
    largest[:, 3] = 3e38 * np.sign(GRADIENT[:, 3])
    gradient, metrics = bounded(largest)
    norm = np.linalg.norm(largest.astype(float), axis=(0, 2))
    np.testing.assert_allclose(np.linalg.norm(gradient[:, 3]), RATIO * np.median(norm), rtol=1e-5)
    np.testing.assert_array_equal(np.sign(gradient[:, 3]), np.sign(GRADIENT[:, 3]))
    assert all(np.isfinite(value) for value in metrics.values())


def test_environments_without_a_gradient_do_not_make_the_others_look_huge():
    sparse = GRADIENT.copy()
    sparse[:, :6] = 0
    np.testing.assert_array_equal(bounded(sparse)[0], sparse)
    nothing, metrics = bounded(0 * GRADIENT)
    np.testing.assert_array_equal(nothing, 0)
    assert metrics["action_gradient_norm_max"] == 0


@pytest.mark.parametrize("size", [1e6, 1e20, -1e20, np.inf, np.nan])
def test_a_huge_value_is_moved_to_the_bound_around_the_others(size):
    values = (700 + 50 * GRADIENT[..., 0]).astype(np.float32)
    values[2, 3] = size
    found, share = bound_values(jnp.asarray(values), None)
    others = np.ones_like(values, bool)
    others[2, 3] = False
    np.testing.assert_array_equal(np.asarray(found)[others], values[others])
    np.testing.assert_allclose(share, 1 / values.size, rtol=1e-6)
    moved = float(found[2, 3]) - np.median(np.delete(values, 3, axis=1).mean(axis=0))
    if np.isnan(size):
        assert abs(moved) < 50
    else:
        assert 0.2 < np.sign(size) * moved / (MAX_DEVIATION * 100) < 2


def test_the_few_that_found_a_sparse_reward_keep_it():
    values = np.zeros((STEPS, ENVS), np.float32)
    values[2, 3] = 50.0
    np.testing.assert_array_equal(bound_values(jnp.asarray(values), None)[0], values)


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("size", [1e5, 1e20, np.inf, np.nan])
def test_an_outlier_does_not_stay_in_the_statistics(size, seen):
    rng = np.random.default_rng(1)
    normalizer = new_normalizer(2)
    if seen:
        normalizer = normalizer.update(rng.normal(size=(50, ENVS, 2)).astype(np.float32))
    batch = rng.normal(size=(50, ENVS, 2)).astype(np.float32)
    clean = update_normalizer(normalizer, batch, None)
    dirty = update_normalizer(normalizer, jnp.asarray(batch).at[7, 3, 0].set(size), None)
    np.testing.assert_array_equal(dirty.mean[1], clean.mean[1])
    np.testing.assert_array_equal(dirty.variance[1], clean.variance[1])
    assert np.isfinite(jax.tree.leaves(dirty)[0]).all()
    np.testing.assert_allclose(dirty.mean, clean.mean, atol=0.05)
    np.testing.assert_allclose(dirty.std, clean.std, rtol=0.05)


def test_a_feature_that_was_constant_and_a_fleet_that_moves_on_are_learned():
    normalizer = new_normalizer(1).update(jnp.zeros((100, ENVS, 1)))
    one_robot = jnp.zeros((STEPS, ENVS, 1)).at[:, 2].set(50.0)
    all_robots = jnp.full((STEPS, ENVS, 1), 500.0)
    for batch in (one_robot, all_robots):
        found = update_normalizer(normalizer, batch, None)
        np.testing.assert_array_equal(found.variance, normalizer.update(batch).variance)


def test_normalised_numbers_end_where_networks_are_blind_and_have_no_gradient_beyond():
    normalizer = new_normalizer(2).update(jnp.asarray(GRADIENT))
    for huge in (1e20, 3e38, np.inf):
        np.testing.assert_array_equal(normalizer(jnp.array([huge, -huge])), [LARGEST, -LARGEST])
    slope = jax.grad(lambda x: normalizer(x).sum())(jnp.array([1e20, 0.5]))
    assert float(slope[0]) == 0 < float(slope[1])


def test_the_median_leaves_out_what_does_not_count():
    x = jnp.array([5.0, jnp.nan, 1.0, 7.0, 2.0])
    assert float(environment_median(x, None)) == 5.0
    assert float(environment_median(x, None, counted=x > 1.5)) == 5.0
    assert float(environment_median(x, None, counted=x > 100)) == 0.0
    rows = jnp.array([[1.0, 9.0], [3.0, 8.0], [2.0, 7.0]])
    np.testing.assert_array_equal(environment_median(rows, None), [2.0, 8.0])


def test_settings_name_the_bound():
    with pytest.raises(ValueError, match="max_action_gradient_ratio is 0"):
        dataclasses.replace(RPOConfig(), max_action_gradient_ratio=0)
