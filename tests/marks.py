"""Which tests wait for the night: `python -m pytest -n 2 -m nightly` runs them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

nightly = pytest.mark.nightly


def rest_nightly(values: Iterable[Any], first: int = 1) -> list[Any]:
    """Parameters of a test, of which only the first few run every time."""
    return [
        value if k < first else pytest.param(*_several(value), marks=nightly)
        for k, value in enumerate(values)
    ]


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
