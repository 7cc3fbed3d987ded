from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import rpo
from rpo.training import Run
from tests.training.fakes import PENDULUM, TINY


@pytest.fixture(scope="session")
def train_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Trains a pendulum for a moment in a new directory."""

    def train(task: Any = PENDULUM, algorithm: str = "rpo", **settings: Any) -> Run:
        settings = TINY | {"verbose": False} | settings
        if algorithm != "rpo":
            settings.pop("actor_epochs")
        settings.setdefault("run_dir", tmp_path_factory.mktemp("run") / "run")
        return rpo.train(task, algorithm, **settings)

    return train


@pytest.fixture(scope="session")
def finished_run(train_tiny: Callable[..., Run]) -> Run:
    """A complete run of two seeds that nobody may change."""
    return train_tiny(seeds=2, evaluation_episodes=4)
