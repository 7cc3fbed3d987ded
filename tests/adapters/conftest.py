from __future__ import annotations

from tests.training.conftest import train_tiny

__all__ = ["train_tiny"]
