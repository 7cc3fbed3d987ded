"""The PPO phase of GI-PPO: its ratio, its loss, and that it is undone if it made things worse."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.algorithms.mixture_ppo import (
    PPOBatch,
    density_ratio,
    log_denominator,
    ppo_loss,
    train_ppo,
)
from rpo.algorithms.optimizer import Optimizer
from rpo.nets import Gaussian

EPOCHS = 3
ADAM = Optimizer(betas=(0.9, 0.999), weight_decay=0.0, max_gradient_norm=1.0)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def test_denominator_is_the_mean_of_two_densities_unless_one_sample_is_far_away():
    old = jnp.log(jnp.array([[0.5, 0.2, 0.1]]))
    alpha = jnp.log(jnp.array([[0.1, 0.3, 5.0]]))
    assert float(jnp.abs(alpha - old).max()) < 4
    np.testing.assert_allclose(
        jnp.exp(log_denominator(old, alpha, None)), [[0.3, 0.25, 2.55]], rtol=1e-9
    )
    for far in (0.1 * jnp.exp(4.01), 0.1 * jnp.exp(-4.01)):
        away = alpha.at[0, 2].set(jnp.log(far))
        np.testing.assert_array_equal(log_denominator(old, away, None), away)


def test_log_ratios_are_clamped():
    ratio = density_ratio(jnp.array([0.5, 40.0, -40.0]), jnp.array([0.2, 1.0, 1.0]))
    np.testing.assert_allclose(ratio, np.exp([0.3, 16.0, -16.0]), rtol=1e-12)


def test_loss_by_hand():
    """Ratios 1.1, 1.5 and 0.5 to a denominator that is not the old density."""
    new = Gaussian(jnp.ones((1, 3, 2)).at[..., 1].set(0.0), jnp.zeros((1, 3, 2)))
    action = jnp.full((1, 3, 2), 0.3)
    samples = PPOBatch(
        observation=action,
        action=action,
        old=Gaussian(jnp.zeros((1, 3, 2)), jnp.zeros((1, 3, 2))),
        log_denominator=new.log_prob(action) - jnp.log(jnp.array([[1.1, 1.5, 0.5]])),
        advantage=jnp.array([[2.0, 2.0, -1.0]]),
    )
    loss, metrics = ppo_loss(lambda _: new, samples, 0.2)
    np.testing.assert_allclose(loss, -(1.1 * 2 + 1.2 * 2 - 0.8) / 3, rtol=1e-10)
    np.testing.assert_allclose(metrics["ratio_max"], 1.5, rtol=1e-10)
    np.testing.assert_allclose(metrics["clip_fraction"], 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics["kl"], 0.5, rtol=1e-10)


class Constant(eqx.Module):
    """A policy whose distribution does not depend on the observation."""

    mean: jax.Array
    log_std: jax.Array

    def __call__(self, observation):
        shape = (*observation.shape[:-1], self.mean.shape[-1])
        return Gaussian(jnp.broadcast_to(self.mean, shape), jnp.broadcast_to(self.log_std, shape))


def problem():
    """Twenty samples of one distribution, the better the larger their first component is."""
    policy = Constant(jnp.array([0.2, -0.4]), jnp.array([-0.1, 0.3]))
    observation = jnp.zeros((4, 5, 1))
    old = policy(observation)
    noise = jax.random.normal(jax.random.PRNGKey(0), (4, 5, 2))
    action = old.sample(noise)
    advantage = noise[..., 0] - noise[..., 0].mean()
    return policy, PPOBatch(observation, action, old, old.log_prob(action), advantage)


def started(policy):
    """An optimiser that has made steps before, so that restoring its moments matters."""
    gradient = Constant(jnp.array([-0.1, 0.2]), jnp.array([0.3, 0.1]))
    return ADAM.step(policy, ADAM.init(policy), gradient, 0.0)[1]


@jax.jit
def plain_step(policy, state, batch, rate):
    """Policy, optimiser and loss of a step on the full batch."""
    value, gradient = jax.value_and_grad(lambda p: ppo_loss(p, batch, 0.2)[0])(policy)
    return *ADAM.step(policy, state, gradient, rate)[:2], value


def plain_descent(policy, batch, rate):
    """Losses and result of an attempt of full-batch epochs, in a loop."""
    state, losses = started(policy), []
    for _ in range(EPOCHS):
        policy, state, value = plain_step(policy, state, batch, rate)
        losses.append(float(value))
    return policy, state, losses


@functools.partial(jax.jit, static_argnames=("attempts", "minibatches"))
def trained(rate, attempts=8, minibatches=1, seed=7):
    policy, batch = problem()
    return train_ppo(
        (policy, started(policy)),
        batch,
        jax.random.PRNGKey(seed),
        optimizer=ADAM,
        learning_rate=rate,
        clip=0.2,
        epochs=EPOCHS,
        minibatches=minibatches,
        attempts=attempts,
        axis=None,
    )


def assert_equal(one, other):
    for x, y in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)


def test_a_phase_that_lowers_its_loss_is_kept():
    policy, batch = problem()
    outcome = trained(1e-3)
    expected, moments, losses = plain_descent(policy, batch, 1e-3)
    assert losses[-1] < losses[0]
    assert int(outcome.attempts) == 1
    assert not bool(outcome.failed)
    assert_equal(outcome.actor, (expected, moments))
    assert_equal((outcome.last.first_loss, outcome.last.last_loss), (losses[0], losses[-1]))


def test_a_phase_that_raises_its_loss_is_undone_and_repeated_with_a_smaller_rate():
    policy, batch = problem()
    outcome = trained(4.0)
    attempts = int(outcome.attempts)
    assert 1 < attempts < 8
    for attempt in range(attempts):
        expected, moments, losses = plain_descent(policy, batch, 4.0 / 1.5**attempt)
        assert (losses[-1] > losses[0]) == (attempt < attempts - 1)
    assert_equal(outcome.actor, (expected, moments))


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_phase_that_never_succeeds_leaves_the_alpha_policy(attempts):
    policy, _ = problem()
    outcome = trained(100.0, attempts=attempts)
    assert int(outcome.attempts) == attempts
    assert bool(outcome.failed)
    assert_equal(outcome.actor, (policy, started(policy)))


def test_whole_epochs_are_compared_not_their_minibatches():
    """With minibatches of five samples, single losses differ by more than training changes them."""
    outcomes = [trained(1e-4, minibatches=4, seed=seed) for seed in range(8)]
    assert all(int(outcome.attempts) == 1 for outcome in outcomes)
    # the mean loss of an epoch is about that of the whole batch at a policy that hardly moves
    policy, batch = problem()
    whole = ppo_loss(policy, batch, 0.2)[0]
    for outcome in outcomes:
        np.testing.assert_allclose(outcome.last.first_loss, whole, atol=1e-3)


def test_one_minibatch_is_the_full_batch_whatever_the_shuffling():
    assert_equal(trained(1e-3, seed=1).actor, trained(1e-3, seed=2).actor)


def test_seeds_repeat_independently():
    rates = jnp.array([1e-3, 4.0, 100.0])
    together = jax.vmap(trained)(rates)
    assert len(set(np.asarray(together.attempts))) == 3
    for i, rate in enumerate(rates):
        assert_equal(jax.tree.map(lambda x, i=i: x[i], together), trained(rate))
