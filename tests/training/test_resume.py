"""A run that is killed and resumed equals one that was never interrupted, bit for bit."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import rpo
from rpo import cli
from rpo.training import Run, SettingsError
from rpo.training.checkpoint import last_checkpoint, restore_checkpoint
from rpo.training.metrics import WALL_CLOCK_COLUMNS
from rpo.training.program import Program
from rpo.training.settings import resolve
from tests.marks import nightly
from tests.training.conftest import TWO_SEEDS, copying
from tests.training.fakes import ITERATIONS, PENDULUM, TINY, as_flags

FLAGS = as_flags(TINY | TWO_SEEDS | {"checkpoint_interval": 0})


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def rows(run: Path) -> int:
    table = run / "metrics.csv"
    return len(table.read_bytes().splitlines()) - 1 if table.exists() else 0


def assert_equal_runs(run: Run, reference: Run, task: str = PENDULUM) -> None:
    table, expected = run.metrics(), reference.metrics()
    assert list(table) == list(expected)
    for name in expected:
        if name not in WALL_CLOCK_COLUMNS:
            np.testing.assert_array_equal(table[name], expected[name], err_msg=name)
    assert contents(run, task) == contents(reference, task)


def contents(run: Run, task: str = PENDULUM) -> dict[str, bytes]:
    path = last_checkpoint(run.checkpoints)
    assert path is not None
    state, facts = restore_checkpoint(path, Program(run.resolved(task)).shapes())
    assert facts["iteration"] == ITERATIONS
    import jax

    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf.tobytes() for path, leaf in leaves}


SUDDEN = """
import os, signal, sys
from rpo import cli
from rpo.training import metrics
event, count, number = sys.argv[1], int(sys.argv[2]), getattr(signal, sys.argv[3])

def counting(function, counts):
    def call(*arguments):
        global count
        count -= counts(*arguments)
        if event == "save" and not count:
            os.kill(os.getpid(), number)
        result = function(*arguments)
        if event == "row" and not count:
            os.kill(os.getpid(), number)
            count = -1
        return result
    return call

if event == "row":
    metrics.Records.write = counting(metrics.Records.write, lambda *_: 1)
else:  # the new checkpoint is complete, but has another name
    os.replace = counting(os.replace, lambda _, to: "checkpoints" in str(to))
sys.exit(cli.main(["train", *sys.argv[4:]]))
"""


def end_suddenly(event: str, count: int, number: str, *arguments: str) -> tuple[int, str]:
    """Trains until the process sends itself a signal; returns its status and its complaint."""
    done = subprocess.run(
        [sys.executable, "-c", SUDDEN, event, str(count), number, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stderr


def test_killed_and_interrupted_run_equals_uninterrupted_one(
    tmp_path: Path, finished_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"

    status, _ = end_suddenly("save", 4, "SIGKILL", PENDULUM, "--run-dir", str(path), *FLAGS)
    assert (status, rows(path)) == (-signal.SIGKILL, 2 * 4)  # one iteration more than checkpoints
    saved = last_checkpoint(path / "checkpoints")
    assert saved is not None
    assert saved.stem == "iteration_00000003"
    assert unfinished_checkpoint(path)

    status, complaint = end_suddenly("row", 9, "SIGINT", PENDULUM, "--resume", str(path))
    assert status == 130, complaint
    assert complaint.splitlines() == [
        f"interrupted; resume with: rpo train {PENDULUM} --resume {path}"
    ]
    saved = last_checkpoint(path / "checkpoints")
    assert saved is not None
    assert (
        saved.stem == f"iteration_{rows(path) // 2:08d}" == "iteration_00000012"
    )  # nothing is lost
    assert not unfinished_checkpoint(path)

    assert cli.main(["train", PENDULUM, "--resume", str(path)]) == 0
    assert capsys.readouterr().err == ""
    assert_equal_runs(Run.load(path), finished_run)
    assert len(Run.load(path).config["sessions"]) == 3


def unfinished_checkpoint(path: Path) -> bool:
    return any("tmp" in entry.name for entry in (path / "checkpoints").iterdir())


@nightly  # a run that began with what another learned is killed there every time
def test_killed_before_the_first_checkpoint(tmp_path: Path, finished_run: Run) -> None:
    path = tmp_path / "run"
    Run.create(path, resolve(PENDULUM, settings=TINY | TWO_SEEDS))  # as far as it had come
    rpo.train(PENDULUM, resume=path, verbose=False)
    assert_equal_runs(Run.load(path), finished_run)
    assert Run.load(path).evaluation() == finished_run.evaluation()


@nightly
def test_a_randomised_task_goes_on_with_the_figures_of_its_episodes(
    tmp_path: Path, train_tiny
) -> None:
    task = PENDULUM.replace("pendulum.py:", "randomised_pendulum.py:Randomised")
    killed = tmp_path / "killed"
    settings = {"devices": 1, "checkpoint_interval": 0}  # SHAC: half of what RPO compiles
    reference = train_tiny(task, "shac", **settings, callbacks=[copying(10, to=killed)])
    saved = last_checkpoint(killed / "checkpoints")
    assert saved is not None
    assert (rows(killed), saved.stem) == (10, "iteration_00000009")
    with (killed / "metrics.csv").open("a") as table:
        table.write("11,0,704,1.0,2.0,3.0,")  # cut short
    rpo.train(task, resume=killed, verbose=False)
    assert_equal_runs(Run.load(killed), reference, task)
    found = contents(Run.load(killed), task)
    assert {"mass", "latency", "past_actions"} <= {name.rpartition(".")[2] for name in found}


def test_resuming_a_finished_run_changes_nothing(finished_run: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(finished_run.path, tmp_path / "copy")
    rpo.train(PENDULUM, resume=copy, total_steps=TINY["total_steps"], verbose=False)
    assert_equal_runs(Run.load(copy), finished_run)
    assert (copy / "metrics.csv").read_bytes() == finished_run.metrics_path.read_bytes()


def test_a_resumed_run_keeps_its_settings(finished_run: Run) -> None:
    with pytest.raises(SettingsError, match="start a new run"):
        rpo.train(PENDULUM, resume=finished_run.path, total_steps=10 * TINY["total_steps"])
    with pytest.raises(SettingsError, match="leave out horizon"):
        rpo.train(PENDULUM, resume=finished_run.path, horizon=16)
    with pytest.raises(SettingsError, match="not of ant"):
        rpo.train("ant", resume=finished_run.path)


class StoppedError(Exception):
    pass


def stop_at(iteration: int) -> Callable[[rpo.training.Progress], None]:
    def callback(progress: rpo.training.Progress) -> None:
        if progress.iteration == iteration:
            raise StoppedError

    return callback
