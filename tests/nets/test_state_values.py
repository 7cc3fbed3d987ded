"""Critics of state values: their units, what keeps values, and how fast they find a level."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.algorithms.critic_training import fit_critics
from rpo.algorithms.optimizer import Optimizer
from rpo.nets import CRITICS, new_state_values
from rpo.nets.state_values import BINS, SUPPORT, constant_units, histogram

OBSERVATION = np.random.default_rng(0).normal(size=(8, 16, 3)).astype(np.float32)


def critics_of(kind, discount=0.99):
    return new_state_values(3, (16, 16), 2, jax.random.key(0), critic=kind, discount=discount)


def test_plain_values_are_the_networks_outputs_to_the_last_digit():
    critics = critics_of("plain")
    observation = jnp.asarray(OBSERVATION)
    assert np.array_equal(critics(observation), critics.networks(observation))


def test_scaled_values_are_in_units_of_the_longest_return():
    critics = critics_of("scaled", discount=0.98)
    observation = jnp.asarray(OBSERVATION)
    np.testing.assert_allclose(critics(observation), 50 * critics.networks(observation), rtol=1e-6)


def test_running_units_are_the_targets_mean_and_standard_deviation():
    units = constant_units(1.0)
    targets = np.random.default_rng(1).normal(300.0, 20.0, 4096)
    for _ in range(3):  # from the first batch on, without a start-up bias
        units = units.following(jnp.asarray(targets.mean()), jnp.asarray((targets**2).mean()))
        np.testing.assert_allclose(units.mean, targets.mean(), rtol=1e-5)
        np.testing.assert_allclose(units.std, targets.std(), rtol=1e-2)
    moved = units.following(jnp.asarray(400.0), jnp.asarray(400.0**2 + 400.0))
    assert 300 < float(moved.mean) < 400
    alike = constant_units(1.0).following(jnp.asarray(7.0), jnp.asarray(49.0))
    assert float(alike.std) == 1.0  # no division by nothing


@pytest.mark.parametrize("kind", CRITICS)
def test_what_new_units_do_to_values(kind):
    with jax.enable_x64(True):
        critics = critics_of(kind).following(jnp.asarray(10.0), jnp.asarray(104.0))
        after = critics.following(jnp.asarray(50.0), jnp.asarray(2600.0))
        observation = jnp.asarray(OBSERVATION, jnp.float64)
        before, now = (np.asarray(values(observation)) for values in (critics, after))
    if kind in ("normalized", "categorical"):

        def relative(values, units):
            return (values - np.asarray(units.mean)) / np.asarray(units.std)

        np.testing.assert_allclose(
            relative(now, after.units), relative(before, critics.units), rtol=1e-10
        )
        assert now.mean() > before.mean() + 10  # the level moves along
    else:
        np.testing.assert_allclose(now, before, rtol=1e-10)


def test_a_histogram_has_the_targets_mean_and_stays_on_the_support():
    targets = jnp.array([-1.5, 0.0, 0.3, 3.0, 2 * SUPPORT])
    mass = histogram(targets)
    assert mass.shape == (5, BINS)
    np.testing.assert_allclose(mass.sum(axis=-1), 1.0, rtol=1e-5)
    mean = mass @ jnp.linspace(-SUPPORT, SUPPORT, BINS)
    np.testing.assert_allclose(mean[:4], targets[:4], atol=1e-3)
    assert SUPPORT - 0.2 < mean[4] <= SUPPORT


OPTIMIZER = Optimizer()


@jax.jit
def fit(critics, state, targets, key):
    return fit_critics(
        critics,
        state,
        jnp.asarray(OBSERVATION),
        targets,
        key,
        jnp.arange(16),
        optimizer=OPTIMIZER,
        learning_rate=5e-4,
        passes=4,
        minibatches=4,
        axis=None,
    )


def fitted(kind, targets, iterations):
    """Critics after some iterations on the same targets, and the last metrics."""
    critics, targets = critics_of(kind), np.asarray(targets, np.float32)
    state = OPTIMIZER.init(critics.networks)
    for iteration in range(iterations):
        critics, state, metrics = fit(critics, state, targets, jax.random.PRNGKey(iteration))
    return critics, metrics


@pytest.mark.parametrize("kind", CRITICS)
def test_critics_that_keep_their_values_lag_behind_a_level_of_700(kind):
    targets = 700 + 30 * np.sin(2 * OBSERVATION[..., 0])
    critics, metrics = fitted(kind, targets, 60)
    assert float(metrics["value_bias"]) == pytest.approx(
        float(jnp.mean(critics(jnp.asarray(OBSERVATION)) - targets)), abs=10
    )
    if kind in ("plain", "popart"):  # popart's steps are as short as the targets' spread
        assert float(metrics["value_bias"]) < -300
    else:
        assert abs(float(metrics["value_bias"])) < 30
    if kind == "normalized":  # the only one that has the shape by then, too
        assert float(metrics["explained_variance"]) > 0.9


def test_metrics_of_the_prediction_before_the_fit():
    critics = critics_of("scaled")
    value = np.asarray(critics(jnp.asarray(OBSERVATION)).mean(axis=0))
    noise = np.random.default_rng(2).normal(size=value.shape).astype(np.float32)
    _, metrics = fitted("scaled", value + 5 * noise + 3, 1)
    share = np.var(5 * noise) / np.var(value + 5 * noise)
    assert float(metrics["explained_variance"]) == pytest.approx(1 - share, rel=1e-3)
    assert float(metrics["value_bias"]) == pytest.approx(-3 - 5 * noise.mean(), rel=1e-3)


def test_units_are_no_parameters():
    critics, _ = fitted("scaled", np.full((8, 16), 5.0, np.float32), 3)
    assert float(critics.units.std) == pytest.approx(100, rel=1e-6)
    assert dataclasses.astuple(critics.units)[0] == 0
