"""Failures end in one clear line and leave the last checkpoint intact."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rpo
from rpo.training import CheckpointError, Run, RunError, TrainingError, session
from rpo.training.cache import enable_compilation_cache
from rpo.training.checkpoint import last_checkpoint, restore_checkpoint, save_checkpoint
from rpo.training.metrics import MetricsTable
from rpo.training.run_files import write_json
from tests.marks import nightly
from tests.training.fakes import PENDULUM, TINY, Countdown, as_flags
from tests.training.test_resume import assert_equal_runs

STATE = {"weights": np.arange(12.0).reshape(3, 4), "steps": [np.int32(3)]}


def test_checkpoint_returns_what_was_saved(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, STATE, {"iteration": 5, "seconds": 1.5})
    assert last_checkpoint(tmp_path) == path
    state, facts = restore_checkpoint(path, STATE)
    np.testing.assert_array_equal(state["weights"], STATE["weights"])
    assert state["steps"][0] == 3
    assert (facts["iteration"], facts["seconds"]) == (5, 1.5)


def test_a_newer_checkpoint_replaces_the_older(tmp_path: Path) -> None:
    old = save_checkpoint(tmp_path, STATE, {"iteration": 5})
    new = save_checkpoint(tmp_path, STATE, {"iteration": 6})
    assert not old.exists()
    assert last_checkpoint(tmp_path) == new


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def rewrite(path: Path, change: Callable[[dict[str, bytes]], Any], **how: Any) -> None:
    """Writes the archive anew with other entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def claim_more(entries: dict[str, bytes]) -> None:
    """A header that announces 8 TB."""
    header = io.BytesIO()
    array = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
    np.lib.format.write_array_header_1_0(header, array)
    entries["weights.npy"] = header.getvalue() + bytes(100)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flip,
        lambda path: path.write_bytes(b""),
        lambda path: rewrite(path, lambda entries: entries.pop("weights.npy")),
        lambda path: rewrite(path, lambda entries: entries.pop("metadata.json")),
        lambda path: rewrite(path, lambda entries: entries.update({"metadata.json": b"{"})),
        lambda path: rewrite(path, lambda entries: None, compression=zipfile.ZIP_DEFLATED),
        lambda path: rewrite(path, claim_more),
    ],
    ids=["cut", "flipped", "empty", "lost", "no facts", "bad facts", "compressed", "huge"],
)
def test_damaged_checkpoint_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    state = {"weights": np.random.default_rng(0).normal(size=(100, 100))}
    path = save_checkpoint(tmp_path, state, {"iteration": 5})
    damage(path)
    with pytest.raises(CheckpointError, match=r"iteration_00000005\.npz is damaged") as caught:
        restore_checkpoint(path, state)
    assert "\n" not in str(caught.value)


def test_a_failed_save_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch) -> None:
    old = save_checkpoint(tmp_path, STATE, {"iteration": 5})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, STATE, {"iteration": 6})
    assert [path.name for path in tmp_path.iterdir()] == [old.name]


def test_what_a_killed_save_left_is_ignored_and_removed(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, STATE, {"iteration": 5})
    (tmp_path / "iteration_00000006.tmp.npz").write_bytes(path.read_bytes()[:100])
    assert last_checkpoint(tmp_path) == path
    newer = save_checkpoint(tmp_path, STATE, {"iteration": 7})
    assert [path.name for path in tmp_path.iterdir()] == [newer.name]


OLD = Path(__file__).parents[1] / "data" / "old_checkpoint"


def test_a_checkpoint_of_the_old_format_is_read(tmp_path: Path) -> None:
    pytest.importorskip("orbax.checkpoint")
    directory = Path(shutil.copytree(OLD, tmp_path / "checkpoints"))
    path = last_checkpoint(directory)
    assert path is not None
    state, facts = restore_checkpoint(path, STATE)
    np.testing.assert_array_equal(state["weights"], STATE["weights"])
    assert (facts["iteration"], facts["seconds"]) == (5, 1.5)
    newer = save_checkpoint(directory, STATE, {"iteration": 6})
    assert [path.name for path in directory.iterdir()] == [newer.name]


def test_an_old_checkpoint_says_what_it_needs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    path = last_checkpoint(OLD)
    assert path is not None
    with pytest.raises(CheckpointError, match=r"pip install 'rpo-jax\[old-checkpoints\]'"):
        restore_checkpoint(path, STATE)


@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        ({"weights": np.zeros((3, 5)), "steps": STATE["steps"]}, r"weights is float64\[3, 5\]"),
        ({"weights": STATE["weights"].astype("f4"), "steps": STATE["steps"]}, "float32"),
        ({"weights": STATE["weights"]}, "lacks steps.0"),
        (STATE | {"more": np.zeros(1)}, "nothing here is called more"),
    ],
)
def test_foreign_checkpoint_is_refused(tmp_path: Path, foreign: dict, message: str) -> None:
    path = save_checkpoint(tmp_path, foreign, {"iteration": 5})
    with pytest.raises(CheckpointError, match=message):
        restore_checkpoint(path, STATE)


def test_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "last.json").write_text("[")
    with pytest.raises(CheckpointError, match="cannot be read"):
        last_checkpoint(tmp_path)
    write_json(tmp_path / "last.json", {"checkpoint": "iteration_00000005"})
    with pytest.raises(CheckpointError, match="missing"):
        last_checkpoint(tmp_path)


def test_what_is_no_run_is_refused(tmp_path: Path, finished_run: Run) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        Run.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        Run.load(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 99}')
    with pytest.raises(RunError, match="not of this program"):
        Run.load(tmp_path)
    strange = json.loads((finished_run.path / "config.json").read_text())
    strange["algorithm_settings"]["from_the_future"] = 1
    (tmp_path / "config.json").write_text(json.dumps(strange))
    with pytest.raises(RunError, match="from_the_future"):
        rpo.train(PENDULUM, resume=tmp_path)


def test_full_disk_leaves_the_checkpoint_and_the_run_can_go_on(
    tmp_path: Path, train_tiny, finished_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = MetricsTable.write

    def write_until_full(self: MetricsTable, iteration: int, *rest: object) -> None:
        if iteration == 7:
            self._file.write("7,0,448,1")  # as much as still fitted
            self._file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, iteration, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsTable, "write", write_until_full)
        with pytest.raises(TrainingError, match=r"No space left.*iteration 6 is intact"):
            train_tiny(run_dir=tmp_path / "run", seeds=2, checkpoint_interval=0)
    rpo.train(PENDULUM, resume=tmp_path / "run", verbose=False)
    assert_equal_runs(Run.load(tmp_path / "run"), finished_run)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
from rpo import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@nightly
def test_files_that_cannot_grow(tmp_path: Path) -> None:
    """A limit on the size of files makes real writes fail half way, as a full disk does."""
    pytest.importorskip("resource")
    flags = as_flags(TINY | {"checkpoint_interval": 0.0, "actor_hidden_sizes": (64, 64)})
    path = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "train", PENDULUM, "--run-dir", str(path), *flags],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines() or [done.stdout]
    assert line.startswith(f"error: cannot write to {path}")
    assert "resume" in line


def test_updates_that_are_never_finite_end_the_training(tmp_path: Path, train_tiny) -> None:
    with pytest.raises(TrainingError, match=r"seed 0: the last \d+ updates .*the critic's"):
        settings = {"critic_learning_rate": 1e30, "critic_passes": 8, "devices": 1}
        train_tiny(Countdown(), "shac", run_dir=tmp_path / "run", **settings)
    assert len(Run.load(tmp_path / "run").metrics()["iteration"]) < 30


def test_the_limit_is_ten_in_a_row() -> None:
    def metrics(*in_a_row: int) -> dict[str, np.ndarray]:
        return {"updates_skipped_in_a_row": np.array(in_a_row, float)}

    session.require_finite_updates(metrics(9, 0), [4, 5])
    with pytest.raises(TrainingError, match="seed 5: the last 10 updates"):
        session.require_finite_updates(metrics(9, 10), [4, 5])


def test_unwritable_cache_only_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    before = dict(jax.config.values)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/dev/null/cache")
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        assert enable_compilation_cache() is None
        assert jax.config.values["jax_compilation_cache_dir"] is None
    finally:
        for name in ("jax_compilation_cache_dir", "jax_enable_compilation_cache"):
            jax.config.update(name, before[name])
