"""Gradients of the robots against finite differences in float64, at easy and at awkward states."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rpo.envs
from rpo.envs import EnvState
from rpo.envs.gradient_check import Comparison, compare_step, random_states
from rpo.envs.locomotion import LocomotionEnv, RobotState
from tests.marks import rest_nightly

RANDOM = "on random trajectories"
COUNTS = {
    RANDOM: 256,
    "at rest in the ground": 32,
    "sinking straight down": 32,
    "at the lower limits": 32,
    "beyond the upper limits": 32,
}
KINKED = ("at rest in the ground", "at the lower limits")
"""There contact damping or the limit's spring sets in, so that most states have no derivative."""


@functools.cache
def environment(task: str) -> LocomotionEnv:
    """A task that never terminates."""
    env = rpo.envs.make(task, termination_height=-100.0)
    assert isinstance(env, LocomotionEnv)
    return env


def awkward_states(env: LocomotionEnv, start: RobotState) -> list[RobotState]:
    """Changes of start states that formulas dislike, in the order of `COUNTS`."""
    planar = env.model.nq == env.model.nv
    joints = slice(env.model.nq - env.spec.action_size, None)
    lower = np.maximum(env.model.limit_lower, -1.5)[-env.spec.action_size :]
    upper = np.minimum(env.model.limit_upper, 1.5)[-env.spec.action_size :]
    height = 1 if planar else 2
    sunk = start.q.at[:, height].add(jnp.linspace(-0.1, -0.8 if planar else -0.5, len(start.q)))
    rest, high = jnp.zeros_like(start.qd), start.q.at[:, height].add(3.0)
    return [
        RobotState(sunk, rest, start.last_action),
        RobotState(sunk, rest.at[:, height].set(-1.0), start.last_action),  # no sideways velocity
        RobotState(high.at[:, joints].set(lower), start.qd, start.last_action),
        RobotState(sunk.at[:, joints].set(upper + 0.05), start.qd, start.last_action),
    ]


@functools.cache
def compared(task: str) -> tuple[Comparison, ...]:
    """One comparison for all states, since compiling is what costs."""
    with jax.enable_x64(True):
        env = environment(task)
        start = env.reset(jax.random.key(3), 32).physics
        random = random_states(env, jax.random.key(1), COUNTS[RANDOM], warm_up=48)
        states = [random.physics, *awkward_states(env, start)]
        physics = jax.tree.map(lambda *x: jnp.concatenate(x), *states)
        count = len(physics.q)
        fresh = env.reset(jax.random.key(0), count)
        state = EnvState(physics, env.observe(physics), fresh.step_count, fresh.key)
        shape = (count, env.spec.action_size)
        action = jax.random.uniform(jax.random.key(4), shape, minval=-0.9, maxval=0.9)
        return compare_step(env, state, action)


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("task", rest_nightly(["hopper", "ant"]))
def test_gradients(task, kind):
    """Finite everywhere, and right wherever both one-sided differences agree."""
    labels = np.repeat(list(COUNTS), list(COUNTS.values()))
    part = labels == kind
    for comparison in compared(task):
        smooth = comparison.smooth[part]
        assert comparison.finite[part].all(), comparison.quantity
        assert kind in KINKED or smooth.mean() > 0.9, comparison.quantity
        assert (comparison.cosine[part][smooth] > 0.999999).all(), comparison.quantity
        assert (comparison.error[part][smooth] < 1e-4).all(), comparison.quantity
