"""What ends every iteration, whatever the method."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from rpo.algorithms.base import Experience, Metrics, TrainState
from rpo.algorithms.bounds import update_normalizer
from rpo.algorithms.devices import device_mean, device_sum


def end_iteration(
    state: TrainState, experience: Experience, axis: str | None
) -> tuple[TrainState, Metrics]:
    """Enters an iteration's experience into observation statistics, episodes and counter.

    The metrics say, beside what the episodes came to, how many parameter updates were not applied
    so far, and how many in a row of late.
    """
    state = dataclasses.replace(
        state,
        normalizer=update_normalizer(state.normalizer, experience.observation, axis),
        episodes=state.episodes.add(experience, axis),
        iteration=state.iteration + 1,
    )
    actor, critic = state.actor_optimizer, state.critic_optimizer
    dtype = experience.reward.dtype
    counts = {
        "non_finite_states": device_sum(experience.non_finite.sum(), axis),
        "actor_updates_skipped": actor.skipped,
        "critic_updates_skipped": critic.skipped,
        "updates_skipped_in_a_row": jnp.maximum(actor.skipped_in_a_row, critic.skipped_in_a_row),
    }
    metrics = {"reward": device_mean(experience.reward.mean(), axis)} | state.episodes.metrics()
    return state, metrics | {name: count.astype(dtype) for name, count in counts.items()}
