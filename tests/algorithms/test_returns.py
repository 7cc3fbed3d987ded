"""Returns on episodes worked out by hand and by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.algorithms.returns import (
    generalized_advantage,
    segment_return,
    step_discounts,
    td_lambda,
)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def column(*values):
    return jnp.asarray(values)[:, None]


# Five steps: one episode terminates at step 1, the next is truncated at step 3, the last goes on.
REWARD = column(1.0, 2.0, 3.0, 4.0, 5.0)
NEXT_VALUE = column(10.0, 20.0, 30.0, 40.0, 50.0)
TERMINATED = column(False, True, False, False, False)
TRUNCATED = column(False, False, False, True, False)


def test_td_lambda_by_hand():
    target = td_lambda(REWARD, NEXT_VALUE, TERMINATED, TRUNCATED, 0.5, 0.8)
    last = 5 + 0.5 * 50  # the rollout ends: bootstrap from where it ended
    truncated = 4 + 0.5 * 40  # time limit: bootstrap from the observation before the reset
    before = 3 + 0.5 * (0.2 * 30 + 0.8 * truncated)
    terminated = 2.0  # no bootstrap
    first = 1 + 0.5 * (0.2 * 10 + 0.8 * terminated)
    np.testing.assert_allclose(target[:, 0], [first, terminated, before, truncated, last])


def test_td_lambda_zero_is_the_one_step_target_and_one_the_discounted_sum():
    one_step = td_lambda(REWARD, NEXT_VALUE, TERMINATED, TRUNCATED, 0.9, 0.0)
    np.testing.assert_allclose(one_step, REWARD + 0.9 * jnp.where(TERMINATED, 0, NEXT_VALUE))
    full = td_lambda(REWARD, NEXT_VALUE, TERMINATED, TRUNCATED, 0.9, 1.0)
    np.testing.assert_allclose(full[2, 0], 3 + 0.9 * 4 + 0.81 * 40)


def test_td_lambda_is_the_weighted_mean_of_n_step_returns():
    steps, discount, decay = 6, 0.9, 0.7
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(2, steps, 1))
    nothing = jnp.zeros((steps, 1), bool)
    target = td_lambda(reward, value, nothing, nothing, discount, decay)

    def n_step(n):
        rewards = sum(discount**k * reward[k, 0] for k in range(n))
        return rewards + discount**n * value[n - 1, 0]

    expected = sum((1 - decay) * decay ** (n - 1) * n_step(n) for n in range(1, steps))
    expected += decay ** (steps - 1) * n_step(steps)
    np.testing.assert_allclose(target[0, 0], expected)


def test_discount_restarts_after_every_end():
    ended = TERMINATED | TRUNCATED
    weights = step_discounts(ended, 0.5, jnp.dtype("float64"))
    np.testing.assert_allclose(weights[:, 0], [1, 0.5, 1, 0.5, 1])


def test_segment_return_by_hand():
    value = segment_return(REWARD, NEXT_VALUE, TERMINATED, TRUNCATED, 0.5)
    first = 1 + 0.5 * 2
    second = 3 + 0.5 * 4 + 0.25 * 40
    third = 5 + 0.5 * 50
    np.testing.assert_allclose(value, [first + second + third])


def test_segment_return_bootstraps_only_at_ends_that_are_not_terminal():
    gradient = jax.grad(lambda v: segment_return(REWARD, v, TERMINATED, TRUNCATED, 0.5).sum())(
        NEXT_VALUE
    )
    np.testing.assert_allclose(gradient[:, 0], [0, 0, 0, 0.25, 0.5])
    terminal_end = TERMINATED.at[-1].set(True)
    gradient = jax.grad(lambda v: segment_return(REWARD, v, terminal_end, TRUNCATED, 0.5).sum())(
        NEXT_VALUE
    )
    np.testing.assert_allclose(gradient[:, 0], [0, 0, 0, 0.25, 0])


def test_environments_do_not_mix():
    both = [jnp.concatenate([x, x[::-1]], axis=1) for x in (REWARD, NEXT_VALUE)]
    flags = [jnp.concatenate([x, jnp.zeros_like(x)], axis=1) for x in (TERMINATED, TRUNCATED)]
    together = td_lambda(*both, *flags, 0.5, 0.8)
    alone = td_lambda(REWARD, NEXT_VALUE, TERMINATED, TRUNCATED, 0.5, 0.8)
    np.testing.assert_allclose(together[:, :1], alone)


def test_generalized_advantage_by_hand():
    value = column(0.5, 1.5, 2.5, 3.5, 4.5)
    advantage = generalized_advantage(REWARD, value, NEXT_VALUE, TERMINATED, TRUNCATED, 0.5, 0.8)
    last = 5 + 0.5 * 50 - 4.5
    truncated = 4 + 0.5 * 40 - 3.5
    before = (3 + 0.5 * 30 - 2.5) + 0.4 * truncated
    terminated = 2 - 1.5
    first = (1 + 0.5 * 10 - 0.5) + 0.4 * terminated
    np.testing.assert_allclose(advantage[:, 0], [first, terminated, before, truncated, last])


def test_generalized_advantage_plus_value_is_the_td_lambda_target_of_consistent_values():
    """True where next_value[t] == value[t + 1] within an episode."""
    rng = np.random.default_rng(1)
    reward, value = rng.normal(size=(2, 7, 3))
    ended = jnp.asarray(rng.random((7, 3)) < 0.3)
    terminated = ended & jnp.asarray(rng.random((7, 3)) < 0.5)
    following = np.concatenate([value[1:], rng.normal(size=(1, 3))])
    next_value = jnp.where(ended, rng.normal(size=(7, 3)), following)
    flags = (terminated, ended & ~terminated)
    target = td_lambda(reward, next_value, *flags, 0.9, 0.7)
    advantage = generalized_advantage(reward, value, next_value, *flags, 0.9, 0.7)
    np.testing.assert_allclose(advantage + value, target)
