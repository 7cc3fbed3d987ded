"""A package of environments like Brax and Playground, small enough for every test.

`fake:Reach`: move to the origin. Its state holds what the real ones hold, too: an array without
entries, an infinity, a key. `fake:Looping` finds its next state by a loop of unknown length.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from rpo.adapters.foreign import ForeignTask, as_task


class State(eqx.Module):
    position: Any
    bound: Any
    contacts: Any
    key: Any
    obs: Any
    reward: Any
    done: Any

    def replace(self, **changes: Any) -> State:
        return dataclasses.replace(self, **changes)


class Reach:
    """Moves by 0.1 times the action; done beyond 3, reward -distance^2."""

    action_size = 2
    dt = 0.1

    def reset(self, rng):
        draw, key = jax.random.split(rng)
        position = jax.random.uniform(draw, (2,), minval=-1)
        zero = jnp.zeros(())
        return State(position, jnp.inf * jnp.ones(1), jnp.zeros((0, 3)), key, position, zero, zero)

    def move(self, position, action):
        return position + 0.1 * action

    def step(self, state, action):
        position = self.move(state.position, action)
        far = jnp.abs(position).max() > 3
        reward = -(position**2).sum()
        return state.replace(
            position=position, obs=position, reward=reward, done=jnp.where(far, 1.0, 0.0)
        )


class Looping(Reach):
    """The same by steps of 0.01, until there are none left."""

    def move(self, position, action):
        def go_on(carry):
            return carry[1] > 0

        def step(carry):
            return carry[0] + 0.01 * action, carry[1] - 1

        return jax.lax.while_loop(go_on, step, (position, jnp.asarray(10) + 0 * action[0]))[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeSettings:
    episode_length: int = 20


SETTINGS = FakeSettings
ENVIRONMENTS = {"Reach": Reach, "Looping": Looping}


def names() -> list[str]:
    return list(ENVIRONMENTS)


def make(name: str, settings: FakeSettings, env: Any = None, repeat: int = 1) -> ForeignTask:
    made = env or ENVIRONMENTS[name]()
    made.dt = 0.1 / repeat
    return as_task(f"fake:{name}", made, settings.episode_length, repeat)
