"""The gradient check passes right gradients, finds wrong ones and knows a kink when it hits one."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.envs import EnvSpec, EnvState, EpisodicEnv
from rpo.envs.gradient_check import GradientCheck, check_gradients, compare_step


class Slope(EpisodicEnv):
    """x' = sin(x) + 0.3 |a - kink| + 0.1 a."""

    spec: EnvSpec = eqx.field(
        static=True,
        default=EnvSpec("slope", observation_size=1, action_size=1, episode_length=9, control_dt=1),
    )
    kink: float = 2.0

    def initial_state(self, key):
        return jax.random.uniform(key, (1,), minval=0.1, maxval=1.0)

    def dynamics(self, state, action):
        return jnp.sin(state) + 0.3 * jnp.abs(action - self.kink) + 0.1 * action

    def observe(self, state):
        return state

    def reward(self, state, action, next_state):
        return (state[:, 0] - 1) ** 2


class Cut(Slope):
    """Half of the gradient is lost."""

    def dynamics(self, state, action):
        mixed = 0.5 * state + 0.5 * jax.lax.stop_gradient(state)
        return jnp.sin(mixed) + 0.1 * action


class Undefined(Slope):
    """Right values, but the derivative is not a number."""

    def dynamics(self, state, action):
        positive = jnp.where(action > 2, jnp.sqrt(jnp.minimum(action - 2, 0)), 0.1 * action)
        return jnp.sin(state) + positive


class Short(Slope):
    """Every episode ends at once."""

    def is_terminal(self, state):
        return jnp.ones(len(state), bool)


@functools.cache
def checked(env: type[Slope]) -> GradientCheck:
    return check_gradients(env(), samples=8, horizon=0, warm_up=2)


def test_right_gradients_pass():
    check = check_gradients(Slope(), samples=32, horizon=4, warm_up=8)
    assert check.passed
    assert [c.quantity for c in check.comparisons] == [
        "one step by state",
        "one step by actions",
        "return of 4 steps by state",
        "return of 4 steps by actions",
    ]
    for comparison in check.comparisons:
        assert comparison.smooth.all()
        assert comparison.error.max() < 1e-6
    assert 0 < check.ended < 32  # random states near the time limit end within the horizon
    assert len(check.comparisons[0].cosine) == 32 - check.ended


def test_wrong_gradients_fail():
    check = check_gradients(Cut(), samples=8, horizon=2, warm_up=2)
    passed = {c.quantity: c.passed for c in check.comparisons}
    assert not passed["one step by state"]
    assert passed["one step by actions"]
    assert not passed["return of 2 steps by state"]
    assert "one step by state" in check.table()
    assert check.table().count("WRONG") == sum(not c.passed for c in check.comparisons)


def test_gradients_that_are_no_numbers_fail():
    check = checked(Undefined)
    by_state, by_actions = check.comparisons
    assert by_state.passed
    assert not by_actions.passed
    assert not by_actions.finite.any()
    assert "WRONG" in check.table()


def test_kinks_are_counted_and_not_judged():
    with jax.enable_x64(True):
        env = Slope(kink=0.25)
        start = env.reset(jax.random.key(0), 3)
        physics = jnp.full((3, 1), 0.5)
        state = EnvState(physics, physics, start.step_count, start.key)
        action = jnp.array([[0.25], [0.25 + 1e-7], [0.5]])
        by_state, by_actions = compare_step(env, state, action)
    assert by_state.smooth.all()
    assert by_actions.smooth.tolist() == [False, False, True]
    assert by_actions.error[0] > 0.1
    assert by_actions.passed


def test_the_same_seed_gives_the_same_figures():
    first, again = checked(Undefined), checked.__wrapped__(Undefined)
    assert len(np.unique(first.comparisons[0].error)) > 1  # the samples differ
    for one, other in zip(first.comparisons, again.comparisons, strict=True):
        np.testing.assert_array_equal(one.error, other.error)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"warm_up": 0}, {"horizon": -1}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must lie between"):
        check_gradients(Slope(), **wrong)


def test_an_environment_whose_episodes_all_end_cannot_be_checked():
    with pytest.raises(ValueError, match="the episode of every sample ended"):
        check_gradients(Short(), samples=2, horizon=1, warm_up=1)
