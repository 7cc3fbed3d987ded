"""Tiny environments whose optimal behaviour, values or gradients are known on paper."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from rpo.envs.base import EnvSpec, EpisodicEnv


def spec(name: str, *, length: int, observation_size: int = 1, action_size: int = 1) -> EnvSpec:
    return EnvSpec(
        name=name,
        observation_size=observation_size,
        action_size=action_size,
        episode_length=length,
        control_dt=0.1,
    )


class OneStep(EpisodicEnv):
    """One step per episode, reward -(a - 0.3)^2."""

    spec: EnvSpec = eqx.field(static=True, default=spec("one-step", length=1))

    def initial_state(self, key: Array) -> Array:
        return jnp.zeros(1)

    def dynamics(self, state: Array, action: Array) -> Array:
        return state

    def observe(self, state: Array) -> Array:
        return state

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        return -jnp.sum((action - 0.3) ** 2, axis=-1)


class ThroughDynamics(EpisodicEnv):
    """x' = x + 0.5 a, reward -x^2 of the state *before* the step: actions pay only later."""

    spec: EnvSpec = eqx.field(static=True, default=spec("through-dynamics", length=16))

    def initial_state(self, key: Array) -> Array:
        return jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)

    def dynamics(self, state: Array, action: Array) -> Array:
        return state + 0.5 * action

    def observe(self, state: Array) -> Array:
        return state

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        return -jnp.sum(state**2, axis=-1)


class ConstantReward(EpisodicEnv):
    """Reward 1 at every step; the episode ends after `length` steps, by itself or by the time limit.

    The observation is the number of steps taken.
    """

    spec: EnvSpec = eqx.field(static=True)
    terminates: bool = eqx.field(static=True)

    def __init__(self, length: int, *, terminates: bool) -> None:
        self.spec = spec("constant-reward", length=length)
        self.terminates = terminates

    def initial_state(self, key: Array) -> Array:
        return jnp.zeros(1)

    def dynamics(self, state: Array, action: Array) -> Array:
        return state + 1.0

    def observe(self, state: Array) -> Array:
        return state

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        return jnp.ones(state.shape[0], state.dtype)

    def is_terminal(self, state: Array) -> Array:
        return (state[:, 0] >= self.spec.episode_length) & self.terminates


class Wanderer(EpisodicEnv):
    """Non-linear two-dimensional system with random starts, terminations and time limits."""

    spec: EnvSpec = eqx.field(
        static=True, default=spec("wanderer", length=6, observation_size=3, action_size=2)
    )

    def initial_state(self, key: Array) -> Array:
        return jax.random.normal(key, (2,))

    def dynamics(self, state: Array, action: Array) -> Array:
        return 0.9 * state + 0.4 * jnp.sin(state[:, ::-1]) + 0.3 * action

    def observe(self, state: Array) -> Array:
        product = state[:, :1] * state[:, 1:]
        return jnp.concatenate([state, product], axis=-1)

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        return jnp.cos(next_state[:, 0]) - 0.1 * jnp.sum(action**2, axis=-1) * next_state[:, 1]

    def is_terminal(self, state: Array) -> Array:
        return state[:, 0] > 1.6
