"""The example that searches settings: prunes, goes on where it was, and works on the pendulum."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tune.py"


@pytest.fixture
def tune() -> ModuleType:
    specification = importlib.util.spec_from_file_location("tune", EXAMPLE)
    module = importlib.util.module_from_spec(specification)
    sys.modules["tune"] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def trainings(tune: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces training by twenty reports of a return that falls from trial to trial."""
    seen: list[Any] = []

    def train(
        task: str, *, callbacks: Any, total_steps: int, run_dir: Path, **settings: Any
    ) -> Any:
        record = SimpleNamespace(run_dir=run_dir, reports=0, settings=settings)
        seen.append(record)
        for k in range(1, 21):
            record.reports = k
            returns = np.array([np.nan if k == 1 else float(k - 10 * len(seen))])
            metrics = {"episode_return": returns}
            progress = SimpleNamespace(
                env_steps=k * total_steps // 20, metrics=metrics, ended=False
            )
            callbacks[0](progress)
        return record

    monkeypatch.setattr(tune.rpo, "train", train)
    monkeypatch.setattr(tune.rpo, "evaluate", lambda run: SimpleNamespace(mean=-len(seen)))
    return seen


def test_prunes_and_goes_on(tune: ModuleType, trainings: list[Any], tmp_path: Path) -> None:
    study = tune.search(tmp_path, 5, 1000)
    assert [record.reports for record in trainings] == [20, 20, 20, 20, 5]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4 + ["PRUNED"]
    assert study.best_trial.number == 0
    tune.search(tmp_path, 5, 1000)  # nothing is left to do
    assert len(trainings) == 5
    tune.search(tmp_path, 6, 1000)
    assert [record.run_dir.name for record in trainings] == [f"trial-{k}" for k in range(6)]


@pytest.mark.nightly
def test_on_the_pendulum(tune: ModuleType, tmp_path: Path) -> None:
    study = tune.search(tmp_path, 2, 64 * 32 * 8)
    assert study.best_value > -1000
    assert (tmp_path / f"trial-{study.best_trial.number}" / "policy.npz").exists()


@pytest.mark.nightly
def test_side_by_side_and_again(tmp_path: Path) -> None:
    """As a user types it: two workers of Ray to the end, then one more trial of the same study."""
    pytest.importorskip("ray")

    def run(*words: str) -> str:
        steps = str(64 * 32 * 4)
        command = [sys.executable, str(EXAMPLE), str(tmp_path), "--steps", steps, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "trial " in run("--trials", "2", "--workers", "2")
    ended = len(list(tmp_path.glob("trial-*/policy.npz")))
    assert ended >= 2  # a worker may have begun a third one when the second was not over
    assert "trial " in run("--trials", str(ended + 1))
    assert len(list(tmp_path.glob("trial-*/policy.npz"))) == ended + 1
