"""Cells on a local Ray cluster of two workers, one of which is killed in the middle."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rpo.reproduce import cells
from rpo.reproduce.cells import State
from rpo.reproduce.executors import RayExecutor, make_executor
from rpo.training import Run, SettingsError
from rpo.training.checkpoint import last_checkpoint
from tests.marks import nightly
from tests.reproduce.conftest import TINY
from tests.training.fakes import PENDULUM


def test_without_ray_one_line_says_what_to_install(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'rpo-jax\[ray\]'"):
        make_executor("ray", tmp_path)


def holder_of(path: Path) -> int:
    """The process that holds the lock of a run directory."""
    inode = path.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    raise AssertionError(f"nobody holds {path}")


def kill_once_saved(run: Path, killed: list[int]) -> None:
    """Kills the worker that trains in `run`, once it has saved some iterations."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if last_checkpoint(run / "checkpoints"):
            killed.append(holder_of(run / "in_use.lock"))
            os.kill(killed[0], signal.SIGKILL)
            return
        time.sleep(0.01)


@nightly
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore:os.fork")
def test_a_killed_workers_cell_is_tried_again_from_its_checkpoint(
    plan_pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    settings = TINY.settings[""] | {"checkpoint_interval": 1.0}
    longer = dataclasses.replace(TINY, steps={"": 64 * 1_000}, settings={"": settings})
    monkeypatch.setitem(cells.BUDGETS, "tiny", longer)
    plan = plan_pair(seeds=1)
    victim, other = plan.cells
    # Not one that happens to run here.
    ray.init("local", num_cpus=2, log_to_driver=False, include_dashboard=False)
    killed: list[int] = []
    killer = threading.Thread(target=kill_once_saved, args=(victim.path, killed))
    try:
        executor = RayExecutor()
        killer.start()
        results = list(executor.run(plan.cells))
    finally:
        killer.join()
        ray.shutdown()
    assert killed
    assert {result.cell.name: result.error for result in results} == {
        victim.name: None,
        other.name: None,
    }
    assert victim.state() is other.state() is State.FINISHED
    sessions = Run.load(victim.path).config["sessions"]
    assert len(sessions) == 2
    assert sessions[1]["iteration"] > 0
    facts = json.loads((other.path / "config.json").read_text())
    assert len(facts["sessions"]) == 1


REPRODUCE = """
import dataclasses, sys
from pathlib import Path
from rpo.reproduce import cells
from rpo.reproduce.executors import RayExecutor
from rpo.reproduce.run import reproduce
from tests.reproduce.conftest import PAIR, TINY

cells.TARGETS["pair"] = PAIR
cells.BUDGETS["tiny"] = dataclasses.replace(TINY, steps={"": 64 * 200_000})
plan = cells.make_plan("pair", Path(sys.argv[1]), budget="tiny", tasks=[sys.argv[2]], seeds=1)
try:
    reproduce(plan, RayExecutor())
except KeyboardInterrupt:
    sys.exit(130)
"""


def rows(run: Path) -> int:
    """Iterations in the log of a run."""
    try:
        return len((run / "metrics.csv").read_text().splitlines()) - 1
    except FileNotFoundError:
        return 0


def test_interruption_saves_the_cells_that_train(plan_pair, tmp_path: Path) -> None:
    """Ctrl-C at the driver reaches the workers; each saves what it has."""
    pytest.importorskip("ray")
    plan = plan_pair(seeds=1)
    process = subprocess.Popen(
        [sys.executable, "-c", REPRODUCE, str(plan.output), PENDULUM],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RAY_ADDRESS": "local"},
    )
    deadline = time.monotonic() + 240
    while process.poll() is None and min(rows(cell.path) for cell in plan.cells) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    for cell in plan.cells:
        saved = last_checkpoint(cell.path / "checkpoints")
        assert saved is not None
        assert saved.stem == f"iteration_{rows(cell.path):08d}"
