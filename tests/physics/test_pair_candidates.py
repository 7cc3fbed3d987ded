"""The list of pairs that may touch, and of those that do."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from rpo.physics.pair_candidates import list_pairs, mark_slots, take_slots


def test_pairs_that_touch_are_listed_once_more():
    """What the backward pass goes through: of the listed pairs those with a force."""
    near = jnp.asarray(np.random.default_rng(3).random((4, 4, 5)) < 0.4)
    listed = list_pairs(near)
    count = int(near.sum())
    slots = take_slots(listed, jnp.int32(0), count + 6)
    marked = jnp.arange(count + 6) % 3 == 0
    found = np.asarray(mark_slots(slots, marked, near & False))
    where = [np.asarray(x)[:count:3] for x in (slots.b, slots.a, slots.environment)]
    assert found[*where].all() and np.asarray(near)[*where].all()
    assert found.sum() == -(-count // 3)
