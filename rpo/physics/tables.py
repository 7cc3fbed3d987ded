"""What tables of constants have in common: shapes, and numbers that can be."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

Shapes = dict[str, tuple[int, ...]]


def check_table(
    label: str,
    table: Any,
    shapes: Shapes,
    *,
    not_negative: Collection[str] = (),
    bounds: Collection[str] = (),
) -> None:
    """Refuses arrays of other shapes, and numbers that cannot be.

    Args:
        label: what a message calls the table.
        table: has the arrays as attributes.
        shapes: of each array.
        not_negative: arrays without negative numbers.
        bounds: arrays that may hold infinities.

    Raises:
        ValueError: in one line.
    """
    for field, shape in shapes.items():
        value = getattr(table, field)
        if value.shape != shape:
            raise ValueError(f"{label}: {field} has shape {value.shape}, expected {shape}")
        if np.isnan(value).any() or (field not in bounds and np.isinf(value).any()):
            raise ValueError(f"{label}: {field} holds a non-finite number")
        if field in not_negative and (value < 0).any():
            raise ValueError(f"{label}: {field} holds a negative number")


def check_ranges(label: str, table: Any, *ranges: str) -> None:
    """Refuses ranges, each of two arrays `<range>_lower` and `<range>_upper`, that descend.

    Raises:
        ValueError: in one line.
    """
    for what in ranges:
        if (getattr(table, f"{what}_lower") > getattr(table, f"{what}_upper")).any():
            raise ValueError(f"{label}: {what}_lower is above {what}_upper")


def empty(shapes: Shapes) -> dict[str, Any]:
    """Arrays of these shapes, for tables without rows; indices are whole numbers."""
    indices = ("link", "pairs")
    return {
        field: np.zeros(shape, np.int64 if field in indices else np.float64)
        for field, shape in shapes.items()
    }
