"""The alpha policy of GI-PPO: regression on actions along advantage gradients, with retries."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.algorithms.alpha_policy import AdvantageBatch, fit_alpha_policy, regression_loss
from rpo.algorithms.optimizer import Optimizer
from rpo.nets import Gaussian


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


class Constant(eqx.Module):
    """A policy whose distribution does not depend on the observation."""

    mean: jax.Array
    log_std: jax.Array

    def __call__(self, observation):
        shape = (*observation.shape[:-1], self.mean.shape[-1])
        return Gaussian(jnp.broadcast_to(self.mean, shape), jnp.broadcast_to(self.log_std, shape))


def regression_problem():
    """One distribution for twenty samples, whose targets all lie 0.2 * (0.3, -0.1) away."""
    policy = Constant(jnp.array([0.2, -0.4]), jnp.array([-0.1, 0.3]))
    observation = jnp.zeros((4, 5, 1))
    old = policy(observation)
    action = old.sample(jax.random.normal(jax.random.PRNGKey(0), (4, 5, 2)))
    gradient = jnp.broadcast_to(jnp.array([0.3, -0.1]), action.shape)
    return policy, AdvantageBatch(observation, action, old, jnp.ones((4, 5)), gradient)


ADAM = Optimizer(weight_decay=0.0, max_gradient_norm=1.0)
ALPHA = 0.2


def started(policy):
    """An optimiser that has made steps before, so that restoring its moments matters."""
    state = ADAM.init(policy)
    gradient = Constant(jnp.array([0.1, 0.2]), jnp.array([-0.3, 0.1]))
    return ADAM.step(policy, state, gradient, 0.0)[1]


@jax.jit
def plain_step(policy, state, batch, rate):
    """Policy, optimiser and loss of a step of the regression."""
    noise = (batch.action - batch.old.mean) / batch.old.std
    target = batch.action + ALPHA * batch.gradient

    def loss(policy):
        made = policy.mean + jnp.exp(policy.log_std) * noise
        return jnp.sum((made - target) ** 2) / batch.advantage.size

    value, gradient = jax.value_and_grad(loss)(policy)
    return *ADAM.step(policy, state, gradient, rate)[:2], value


def plain_regression(policy, batch, rate, steps=16):
    """Losses and result of an attempt, in a loop."""
    state, losses = started(policy), []
    for _ in range(steps):
        policy, state, value = plain_step(policy, state, batch, rate)
        losses.append(float(value))
    return policy, state, losses


@functools.partial(jax.jit, static_argnames="attempts")
def fitted(rate, scale=1.0, attempts=8):
    policy, batch = regression_problem()
    return fit_alpha_policy(
        (policy, started(policy)),
        dataclasses.replace(batch, gradient=scale * batch.gradient),
        jnp.array(ALPHA),
        optimizer=ADAM,
        learning_rate=rate,
        steps=16,
        attempts=attempts,
        axis=None,
    )


def assert_equal(one, other):
    for x, y in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)


def test_regression_loss_by_hand():
    policy, batch = regression_problem()
    np.testing.assert_allclose(
        regression_loss(policy, batch, jnp.array(ALPHA)), 0.06**2 + 0.02**2, rtol=1e-10
    )
    moved = Constant(policy.mean + jnp.array([0.06, 0.0]), policy.log_std + jnp.log(2.0))
    noise = (batch.action - policy.mean) / jnp.exp(policy.log_std)
    spread = jnp.exp(policy.log_std) * noise  # the std has doubled: once more the spread
    expected = jnp.mean(spread[..., 0] ** 2 + (spread[..., 1] + 0.02) ** 2)
    np.testing.assert_allclose(
        regression_loss(moved, batch, jnp.array(ALPHA)), expected, rtol=1e-10
    )


def test_a_regression_that_succeeds_is_not_repeated():
    policy, batch = regression_problem()
    fit = fitted(3e-3)
    expected, moments, losses = plain_regression(policy, batch, 3e-3)
    assert losses[-1] < 0.5 * losses[0]
    assert int(fit.attempts) == 1
    assert_equal((fit.last.first_loss, fit.last.last_loss), (losses[0], losses[-1]))
    assert_equal(fit.actor, (expected, moments))


def test_a_regression_that_fails_starts_anew_with_a_smaller_rate():
    policy, batch = regression_problem()
    fit = fitted(4.0)
    attempts = int(fit.attempts)
    assert attempts == 5
    for attempt in range(attempts):
        expected, moments, losses = plain_regression(policy, batch, 4.0 / 1.5**attempt)
        assert (losses[-1] > losses[0]) == (attempt < attempts - 1)
    assert_equal(fit.actor, (expected, moments))
    assert_equal((fit.last.first_loss, fit.last.last_loss), (losses[0], losses[-1]))


def test_a_regression_that_never_succeeds_leaves_the_actor_alone():
    policy, _ = regression_problem()
    for attempts in (8, 2):
        fit = fitted(100.0, attempts=attempts)
        assert int(fit.attempts) == attempts
        assert bool(fit.failed)
        assert float(fit.last.last_loss) > float(fit.last.first_loss)
        assert_equal(fit.actor, (policy, started(policy)))


def test_steps_along_gradients_that_are_not_finite_are_skipped_and_counted():
    policy, _ = regression_problem()
    fit = fitted(1.0, jnp.nan)
    assert_equal(fit.actor[0], policy)
    assert int(fit.actor[1].skipped) == int(fit.actor[1].skipped_in_a_row) == 16


def test_seeds_retry_independently():
    rates = jnp.array([3e-3, 4.0, 100.0])
    together = jax.vmap(fitted)(rates)
    assert len(set(np.asarray(together.attempts))) == 3
    for i, rate in enumerate(rates):
        assert_equal(jax.tree.map(lambda x, i=i: x[i], together), fitted(rate))
