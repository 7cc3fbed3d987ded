from __future__ import annotations

from tests.training.conftest import compilation_cache, train_tiny

__all__ = ["compilation_cache", "train_tiny"]
