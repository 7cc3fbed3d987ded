"""Ranges of settings; each failure is one line that says what to change."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from rpo.algorithms.base import require


def require_ranges(
    config: Any,
    *,
    counts: Iterable[str] = (),
    positive: Iterable[str] = (),
    not_negative: Iterable[str] = (),
    fractions: Iterable[str] = (),
    widths: Iterable[str] = (),
    betas: Iterable[str] = (),
) -> None:
    """Checks the settings with these names.

    Args:
        config: has the settings as attributes.
        counts: from 1 to 2^31 - 1.
        positive: finite and above 0.
        not_negative: finite and at least 0.
        fractions: in [0, 1].
        widths: tuples of at most 100 hidden layers' widths, at most a million each.
        betas: pairs of decay rates in [0, 1).

    Raises:
        ValueError: naming the first setting that is out of range.
    """
    for name in counts:
        value = getattr(config, name)
        require(value >= 1, f"{name} is {value}, must be at least 1")
        require(value < 2**31, f"{name} is {value}, must be below 2^31")
    for name in positive:
        value = getattr(config, name)
        require(0 < value < math.inf, f"{name} is {value}, must be positive and finite")
    for name in not_negative:
        value = getattr(config, name)
        require(0 <= value < math.inf, f"{name} is {value}, must not be negative, and be finite")
    for name in fractions:
        value = getattr(config, name)
        require(0 <= value <= 1, f"{name} is {value}, must lie in [0, 1]")
    for name in widths:
        sizes = getattr(config, name)
        valid = len(sizes) > 0 and all(size >= 1 for size in sizes)
        require(valid, f"{name} is {sizes}, must list at least one positive width")
        fitting = len(sizes) <= 100 and max(sizes) <= 10**6
        require(fitting, f"{name} is {sizes}: at most 100 layers of a million units are possible")
    for name in betas:
        rates = getattr(config, name)
        valid = all(0 <= rate < 1 for rate in rates)
        require(valid, f"{name} is {rates}, both must lie in [0, 1)")
