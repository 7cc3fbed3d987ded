"""Discounted returns of segments. Arrays are (steps, environments); time runs along axis 0.

Throughout, `next_value[t]` is the value of the observation that step t led to, before any reset:
V(o_{t+1}), never V(o_t). A terminated step has no value beyond it; a truncated one has.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

Steps = Float[Array, "steps envs"]
Flags = Bool[Array, "steps envs"]


def step_discounts(ended: Flags, discount: float, dtype: jnp.dtype) -> Steps:
    """discount^k, k being the steps since the segment began: since step 0 or the last reset."""

    def step(weight: Array, ended_now: Array) -> tuple[Array, Array]:
        return jnp.where(ended_now, 1.0, weight * discount).astype(dtype), weight

    return lax.scan(step, jnp.ones(ended.shape[1], dtype), ended)[1]


def segment_return(
    reward: Steps, next_value: Steps, terminated: Flags, truncated: Flags, discount: float
) -> Float[Array, " envs"]:
    """Sum over a rollout's segments of discounted rewards plus the discounted bootstrap value.

    The discount restarts with every segment. A segment's value is added where it is truncated and
    at the end of the rollout, and nowhere else.
    """
    weight = step_discounts(terminated | truncated, discount, reward.dtype)
    last = (jnp.arange(reward.shape[0]) == reward.shape[0] - 1)[:, None]
    bootstrap = (truncated | last) & ~terminated
    return jnp.sum(weight * (reward + jnp.where(bootstrap, discount * next_value, 0)), axis=0)


def td_lambda(
    reward: Steps,
    next_value: Steps,
    terminated: Flags,
    truncated: Flags,
    discount: float,
    decay: float,
) -> Steps:
    """TD(lambda) targets over the rollout, cut where episodes end.

    target[t] = reward[t] + discount * ((1 - decay) * next_value[t] + decay * target[t + 1]); the
    bracket is next_value[t] at the rollout's end and where truncated, and 0 where terminated.
    """

    def step(following: Array, now: tuple[Array, ...]) -> tuple[Array, Array]:
        reward_now, value, terminated_now, truncated_now = now
        beyond = jnp.where(truncated_now, value, (1 - decay) * value + decay * following)
        target = reward_now + discount * jnp.where(terminated_now, 0, beyond)
        return target, target

    steps = (reward, next_value, terminated, truncated)
    return lax.scan(step, next_value[-1], steps, reverse=True)[1]


def generalized_advantage(
    reward: Steps,
    value: Steps,
    next_value: Steps,
    terminated: Flags,
    truncated: Flags,
    discount: float,
    decay: float,
) -> Steps:
    """Generalised advantage estimates (Schulman et al. 2016), cut where episodes end.

    advantage[t] = delta[t] + discount * decay * advantage[t + 1] within an episode, with
    delta[t] = reward[t] + discount * next_value[t] - value[t], the value beyond a terminated step
    being 0. Differentiable. The value target that goes with it is advantage + value.
    """

    def step(following: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, ended = now
        advantage = delta + discount * decay * jnp.where(ended, 0, following)
        return advantage, advantage

    delta = reward + discount * jnp.where(terminated, 0, next_value) - value
    steps = (delta, terminated | truncated)
    return lax.scan(step, jnp.zeros_like(delta[0]), steps, reverse=True)[1]
