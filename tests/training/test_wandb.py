"""Weights & Biases, where asked for, has the metrics; offline nothing leaves the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rpo import cli
from rpo.training import Run
from tests.training.fakes import ITERATIONS, PENDULUM, TINY, as_flags

FLAGS = as_flags(TINY | {"seeds": 2})


def test_offline_log_has_every_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    path = tmp_path / "run"
    assert cli.main(["train", PENDULUM, "--run-dir", str(path), "--wandb", *FLAGS]) == 0
    assert capsys.readouterr().err == ""
    (log,) = (path / "wandb").glob("offline-run-*/run-*.wandb")
    identity = (path / "wandb_id.txt").read_text()
    assert log.name == f"run-{identity}.wandb"
    contents = log.read_bytes()
    assert len(Run.load(path).metrics()["iteration"]) == 2 * ITERATIONS
    for name in (b"value_loss", b"seconds", b"actor_hidden_sizes"):
        assert name in contents


def test_a_missing_extra_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    path = tmp_path / "run"
    assert cli.main(["train", PENDULUM, "--run-dir", str(path), "--wandb", *FLAGS]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'rpo-jax[wandb]'" in line
    assert not path.exists()
