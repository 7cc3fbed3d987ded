"""Experience by forward simulation alone, for methods that take no derivative of environments."""

from __future__ import annotations

from collections.abc import Callable

from jax import lax
from jaxtyping import Array, Float, PyTree

from rpo.algorithms.base import Environments, Experience
from rpo.envs.base import Env

Act = Callable[[Float[Array, "envs observation"], PyTree], Float[Array, "envs action"]]
"""Maps raw observations and the inputs of a step to what `Env.step` is given."""


def collect(
    env: Env, act: Act, environments: Environments, inputs: PyTree
) -> tuple[Environments, Experience]:
    """Steps the environments once per row of `inputs`.

    Args:
        env: the task.
        act: chooses the actions.
        environments: to start from.
        inputs: for `act`; every leaf leads with the number of steps.
    """

    def step(carry: Environments, row: PyTree) -> tuple[Environments, Experience]:
        observation = carry.state.observation
        action = act(observation, row)
        carry, record = carry.step(env, action)
        return carry, Experience(observation=observation, action=action, **record)

    return lax.scan(step, environments, inputs)
