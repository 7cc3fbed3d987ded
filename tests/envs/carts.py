"""Two carts without a simulator, every figure of which can be randomised."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rpo.envs import EnvSpec, EnvState, EpisodicEnv, Randomization, Transition
from rpo.envs.randomization import scaled
from rpo.physics.factors import Factors

Actions = np.ndarray | jax.Array

LENGTH = 6
"""Steps of an episode."""


class Cart(EpisodicEnv):
    """Two masses that are pushed and fall: v' = v + dt (k a / m - g), x' = x + dt v'."""

    factor_names = Factors._fields
    spec: EnvSpec = eqx.field(
        static=True,
        default=EnvSpec(
            "cart", observation_size=4, action_size=2, episode_length=LENGTH, control_dt=0.1
        ),
    )

    @property
    def num_bodies(self):
        return 2

    def initial_state(self, key):
        x = jax.random.uniform(key, (2,))
        return {"x": x, "v": jnp.zeros_like(x)}

    def dynamics(self, state, action):
        push = scaled(3.0 * action, self.factors.strength)
        mass = scaled(jnp.ones_like(push), self.factors.mass)
        gravity = scaled(jnp.ones(len(action), push.dtype), self.factors.gravity)
        v = state["v"] + 0.1 * (push / mass - gravity[:, None])
        return {"x": state["x"] + 0.1 * v, "v": v}

    def observe(self, state):
        return jnp.concatenate([state["x"], state["v"]], axis=1)

    def reward(self, state, action, next_state):
        return next_state["x"].sum(axis=1) - 0.1 * (action**2).sum(axis=1)


def cart(**settings) -> Cart:
    return Cart(randomization=Randomization(**settings))


@jax.jit
def _stepped(env, state, actions):
    def one(state, action):
        after, transition = env.step(state, action)
        return after, (transition, after)

    end, (transitions, states) = lax.scan(one, state, actions)
    return end, transitions, states


def run(env: EpisodicEnv, state: EnvState, actions: Actions) -> tuple[EnvState, Transition]:
    """Steps through actions (steps, envs, A); transitions lead with the steps."""
    end, transitions, _ = _stepped(env, state, actions)
    return end, transitions


def history(env: EpisodicEnv, state: EnvState, actions: Actions) -> tuple[EnvState, Transition]:
    """The same, and the state after every step: `run`'s program."""
    _, transitions, states = _stepped(env, state, actions)
    return states, transitions


def leaves_equal(first, second) -> bool:
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def random_actions(steps: int, envs: int, size: int = 2) -> np.ndarray:
    draws = np.random.default_rng(8).uniform(-1.0, 1.0, (steps, envs, size))
    return draws.astype(np.float32)
