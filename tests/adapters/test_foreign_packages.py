"""The real packages, by the command: each in a process of its own, as XLA's options want it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.nightly

SMALL = ["--num-envs", "8", "--horizon", "8", "--total-steps", "128", "--evaluation-episodes", "0"]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "RPO_CPU_DEVICES")}
    return subprocess.run(
        [sys.executable, "-m", "rpo.cli", *words],
        env=inherited,
        capture_output=True,
        text=True,
        timeout=1800,
    )


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def test_brax(tmp_path: Path) -> None:
    needs("brax")
    path = tmp_path / "run"
    done = command("train", "brax:inverted_double_pendulum", *SMALL, "--run-dir", str(path))
    assert done.returncode == 0, done.stderr
    assert "derivative of brax:inverted_double_pendulum: useful" in done.stdout
    config = json.loads((path / "config.json").read_text())
    assert config["task"] == "brax:inverted_double_pendulum"
    assert config["task_settings"] == {"backend": "generalized", "episode_length": 1000}
    done = command("evaluate", str(path), "--episodes", "2")
    assert done.returncode == 0, done.stderr
    assert "stochastic return" in done.stdout
    assert "near ones: brax:halfcheetah" in command("train", "brax:HalfCheeta").stderr


def test_playground(tmp_path: Path) -> None:
    needs("mujoco_playground")
    done = command("train", "playground:CheetahRun", *SMALL)
    assert done.returncode == 2
    assert "derivative of playground:CheetahRun: missing" in done.stderr
    path = str(tmp_path / "run")
    words = ["train", "playground:CartpoleBalance", "--algorithm", "ppo", "--run-dir", path]
    done = command(*words, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "playground:CheetahRun" in command("train", "playground:CheetahRunn").stderr
