"""Small environments and settings that train in moments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from rpo.envs import EnvSpec, EpisodicEnv

PENDULUM = f"{Path(__file__).parents[2] / 'examples' / 'pendulum.py'}:Pendulum"

ITERATIONS = 30

TINY: dict[str, Any] = {
    "num_envs": 8,
    "horizon": 8,
    "total_steps": 8 * 8 * ITERATIONS,
    "actor_hidden_sizes": (8,),
    "critic_hidden_sizes": (8,),
    "critic_passes": 1,
    "actor_epochs": 2,
    "evaluation_episodes": 0,
}
"""Settings with which an iteration takes about a millisecond."""


def as_flags(settings: dict[str, Any]) -> list[str]:
    """The same on a command line."""
    flags = []
    for name, value in settings.items():
        values = value if isinstance(value, tuple) else (value,)
        flags += [f"--{name.replace('_', '-')}", *map(str, values)]
    return flags


class Countdown(EpisodicEnv):
    """Step k of an episode earns k, and episodes last a random number of 1 to 300 steps.

    The return is thus known from the length, and from nothing that happens after the first end.
    The state is (steps taken, steps to take).
    """

    spec: EnvSpec = eqx.field(
        static=True,
        default=EnvSpec(
            "countdown", observation_size=2, action_size=1, episode_length=200, control_dt=1.0
        ),
    )

    def initial_state(self, key):
        length = jax.random.randint(key, (), 1, 301).astype(float)
        return jnp.stack([jnp.zeros(()), length])

    def dynamics(self, state, action):
        return state + jnp.array([1.0, 0.0])

    def observe(self, state):
        return state / 300

    def reward(self, state, action, next_state):
        return next_state[:, 0]

    def is_terminal(self, state):
        return state[:, 0] >= state[:, 1]


class Echo(EpisodicEnv):
    """Earns the action: tells a sampled action from the deterministic one."""

    spec: EnvSpec = eqx.field(
        static=True,
        default=EnvSpec(
            "echo", observation_size=1, action_size=1, episode_length=3, control_dt=1.0
        ),
    )

    def initial_state(self, key):
        return jnp.ones(1)

    def dynamics(self, state, action):
        return state

    def observe(self, state):
        return state

    def reward(self, state, action, next_state):
        return action[:, 0]
