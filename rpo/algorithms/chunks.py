"""Working in pieces that fit in a core's cache."""

from __future__ import annotations

CHUNK_ROWS = 1024
"""Samples whose activations stay in cache between a network's forward and backward pass."""


def largest_divisor(count: int, limit: int) -> int:
    """The largest divisor of `count` that does not exceed `limit`."""
    return next(size for size in range(min(count, limit), 0, -1) if count % size == 0)
