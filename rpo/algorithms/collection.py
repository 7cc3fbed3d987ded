"""Experience by forward simulation alone, for methods that take no derivative of environments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from rpo.algorithms.base import Environments, Metrics, TrainState
from rpo.algorithms.bounds import update_normalizer
from rpo.algorithms.devices import device_mean, device_sum
from rpo.algorithms.first_order import skipped_update_metrics
from rpo.envs.base import Env

Act = Callable[[Float[Array, "envs observation"], PyTree], Float[Array, "envs action"]]
"""Maps raw observations and the inputs of a step to what `Env.step` is given."""


class Experience(eqx.Module):
    """What collection records. Every leaf leads with (steps, environments).

    Args:
        observation: acted on, as the environment gave it.
        action: given to the environment, which clips it to [-1, 1].
        reward: of the step.
        terminated: the episode ended by itself.
        truncated: the episode hit the time limit.
        final_observation: that the step led to, before any reset.
        non_finite: the environment diverged and was reset.
        episode_return: of the current episode up to and including this step.
        episode_length: the same in steps.
        report: what the task reports of the current episode, by name.
    """

    observation: Float[Array, "steps envs observation"]
    action: Float[Array, "steps envs action"]
    reward: Float[Array, "steps envs"]
    terminated: Bool[Array, "steps envs"]
    truncated: Bool[Array, "steps envs"]
    final_observation: Float[Array, "steps envs observation"]
    non_finite: Bool[Array, "steps envs"]
    episode_return: Float[Array, "steps envs"]
    episode_length: Int[Array, "steps envs"]
    report: dict[str, Float[Array, "steps envs"]]

    @property
    def ended(self) -> Bool[Array, "steps envs"]:
        """The episode ended, one way or the other."""
        return self.terminated | self.truncated


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


def action_noise(
    keys: UInt32[Array, "envs 2"], steps: int, action_size: int
) -> Float[Array, "steps envs action"]:
    """Standard normal noise, each environment's from its own key."""
    dtype = jax.dtypes.canonicalize_dtype(float)
    noise = jax.vmap(lambda key: jax.random.normal(key, (steps, action_size), dtype))(keys)
    return jnp.moveaxis(noise, 0, 1)


def end_iteration(
    state: TrainState, experience: Experience, axis: str | None
) -> tuple[TrainState, Metrics]:
    """Enters an iteration's experience into observation statistics, episodes and counter."""
    state = dataclasses.replace(
        state,
        normalizer=update_normalizer(state.normalizer, experience.observation, axis),
        episodes=state.episodes.add(
            experience.ended,
            experience.episode_return,
            experience.episode_length,
            experience.report,
            axis,
        ),
        iteration=state.iteration + 1,
    )
    diverged = experience.non_finite.sum().astype(experience.reward.dtype)
    metrics = {
        "reward": device_mean(experience.reward.mean(), axis),
        "non_finite_states": device_sum(diverged, axis),
    }
    return state, metrics | state.episodes.metrics() | skipped_update_metrics(state)
