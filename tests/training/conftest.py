from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rpo
from rpo.training import Progress, Run
from rpo.training.task_files import load_task
from tests.training.fakes import PENDULUM, TINY

TWO_SEEDS = {"seeds": 2, "evaluation_episodes": 4}
"""What `finished_run` was trained with beside `TINY`. Programs of other trainings with these
settings come from the tests' cache, those of one seed, whose environments are split, do not."""


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
def finished_run(train_tiny: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A complete run of two seeds that nobody may change; all processes of the tests share it."""
    place = tmp_path_factory.getbasetemp()
    place = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "finished"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            shutil.rmtree(place / "run", ignore_errors=True)  # of a process that failed
            run = train_tiny(run_dir=place / "run", **TWO_SEEDS)
            assert run.env is not None  # the process that trained needs not say what on
            (place / "complete").touch()
            return run
    run = Run.load(place / "run")
    run.env = load_task(PENDULUM)
    return run


def copying(iteration: int, to: Path) -> Callable[[Progress], None]:
    """Copies a run that keeps every checkpoint as a kill in an iteration would leave it.

    The metrics of that iteration are in its table, the checkpoint is that of the one before.
    """

    def callback(progress: Progress) -> None:
        if progress.iteration == iteration and not to.exists():
            shutil.copytree(progress.run.path, to)

    return callback
