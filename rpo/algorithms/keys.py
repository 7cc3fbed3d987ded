"""What random keys are used for: every method takes its streams from here, each for one purpose."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jaxtyping import Array, Int, UInt32

Key = UInt32[Array, "2"]


class StartKeys(NamedTuple):
    """Streams of a fresh state."""

    policy: Key
    critics: Key
    environments: Key
    run: Key


class IterationKeys(NamedTuple):
    """Streams of one iteration: acting, the critics (or all learning), a further phase."""

    acting: Key
    learning: Key
    further: Key


def start_keys(key: Array) -> StartKeys:
    """Keys for `Algorithm.init`, from a raw or typed key."""
    return StartKeys(*jax.random.split(jax.random.key_data(key), 4))  # a raw one stays as it is


def iteration_keys(run: Key, iteration: Int[Array, ""]) -> IterationKeys:
    """Keys for `Algorithm.update`, from the run's, which never changes."""
    return IterationKeys(*jax.random.split(jax.random.fold_in(run, iteration), 3))
