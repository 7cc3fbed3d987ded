"""Working in pieces that fit in a core's cache."""

from __future__ import annotations

import math
from typing import TypeVar

import jax

T = TypeVar("T")

CHUNK_ROWS = 1024
"""Samples whose activations stay in cache between a network's forward and backward pass."""


def chunked(tree: T, axes: int) -> T:
    """Samples in chunks of at most CHUNK_ROWS, all of one size.

    Args:
        tree: arrays whose first `axes` axes run over the same samples.
        axes: how many do.

    Returns:
        the arrays, led by (chunks, rows) instead.
    """
    samples = math.prod(jax.tree.leaves(tree)[0].shape[:axes])
    rows = largest_divisor(samples, CHUNK_ROWS)
    chunks: T = jax.tree.map(lambda x: x.reshape(samples // rows, rows, *x.shape[axes:]), tree)
    return chunks


def largest_divisor(count: int, limit: int) -> int:
    """The largest divisor of `count` that does not exceed `limit`."""
    return next(size for size in range(min(count, limit), 0, -1) if count % size == 0)
