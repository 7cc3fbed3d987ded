"""Cells on a Ray cluster: one worker of a real one every time, two of them nightly."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rpo.reproduce import cells
from rpo.reproduce.cells import State
from rpo.reproduce.executors import RETRIES, STOP_SECONDS, RayExecutor, train_here
from rpo.runtime import DEVICES_VARIABLE
from rpo.training import Run, SettingsError, TrainingInterrupted
from rpo.training.checkpoint import last_checkpoint
from tests.marks import nightly
from tests.reproduce.conftest import LIGHT, TINY, write_run
from tests.training.fakes import PENDULUM


def test_without_ray_one_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'rpo-jax\[ray\]'"):
        RayExecutor()


class WorkerError(Exception):
    """In the place of `ray.exceptions.RayError`."""


class StandIn:
    """As much of Ray as the executor asks for, without a cluster: calls have numbers."""

    exceptions = SimpleNamespace(RayError=WorkerError)

    def __init__(self, *results: Any, running: bool = True, interrupted_at: int = -1) -> None:
        self.results, self.running, self.interrupted_at = results, running, interrupted_at
        self.calls: list[tuple[dict[str, Any], tuple[Any, ...]]] = []
        self.cancelled: list[tuple[int, bool]] = []
        self.begin: Callable[[], None] = lambda: None

    def is_initialized(self) -> bool:
        return self.running

    def init(self, **_: Any) -> None:
        self.begin()

    def remote(self, **resources: Any) -> Callable[[Any], Any]:
        def call(options: dict[str, Any], arguments: tuple[Any, ...]) -> int:
            self.calls.append((resources | options, arguments))
            return len(self.calls) - 1

        def options(**more: Any) -> Any:
            return SimpleNamespace(remote=lambda *arguments: call(more, arguments))

        return lambda function: SimpleNamespace(options=options)

    def get(self, number: int) -> Any:
        if isinstance(self.results[number], Exception):
            raise self.results[number]
        return self.results[number]

    def wait(self, calls: list[int], num_returns: int, timeout: float | None = None) -> Any:
        if timeout is None and len(calls) == self.interrupted_at:
            raise KeyboardInterrupt
        if timeout is None:
            return calls[:1], calls[1:]
        assert (num_returns, timeout) == (len(calls), STOP_SECONDS)
        return calls[:-1], calls[-1:]  # the last one does not hear

    def cancel(self, call: int, force: bool) -> None:
        self.cancelled.append((call, force))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StandIn]:
    def install(*results: Any, **settings: Any) -> StandIn:
        stand_in = StandIn(*results, **settings)
        monkeypatch.setitem(sys.modules, "ray", stand_in)
        return stand_in

    return install


def test_every_cell_is_a_call_of_its_own(plan_pair, ray, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_pair()
    relative = [dataclasses.replace(c, path=c.path.relative_to(tmp_path)) for c in plan.cells]
    run = write_run(relative[1], None, iterations=3)
    run.config["run_settings"]["devices"] = 5  # as many as when it was begun
    (run.path / "config.json").write_text(json.dumps(run.config))
    stand_in = ray("it broke", WorkerError("gone\nfor good"))
    results = list(RayExecutor(cpus_per_cell=2, gpus_per_cell=0.5).run(relative))
    assert [result.cell for result in results] == relative
    assert results[0].error == "it broke"
    assert results[1].error is not None
    assert results[1].error.startswith("its worker failed: ")
    assert "\n" not in results[1].error
    for cell, devices, (asked, arguments) in zip(plan.cells, "25", stand_in.calls, strict=True):
        assert arguments == (cell, str(tmp_path))
        assert (asked["num_cpus"], asked["num_gpus"]) == (2, 0.5)
        assert (asked["max_retries"], asked["max_calls"]) == (RETRIES, 1)
        assert asked["runtime_env"]["env_vars"] == {DEVICES_VARIABLE: devices}
    assert stand_in.cancelled == []


def test_an_interruption_ends_what_still_trains(plan_pair, ray) -> None:
    """As at Ctrl-C, which saves, all of it; only what does not hear is killed."""
    stand_in, done = ray(None, None, None, interrupted_at=2), []
    executor = RayExecutor()
    with pytest.raises(KeyboardInterrupt):
        for result in executor.run(plan_pair(tasks=[PENDULUM, "hopper"]).cells[:3]):
            done.append(result)
    assert [result.error for result in done] == [None]
    assert stand_in.cancelled == [(1, False), (2, False), (2, True)]


def test_a_cluster_that_cannot_be_had_is_told_in_one_line(ray) -> None:
    stand_in = ray(running=False)

    def refuse() -> None:
        raise ConnectionError("nobody\nthere")

    stand_in.begin = refuse
    with pytest.raises(SettingsError, match="no Ray cluster: nobody"):
        RayExecutor()
    stand_in.begin = lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        RayExecutor()
    with pytest.raises(SettingsError, match="cpus_per_cell is 0, must lie between 1"):
        RayExecutor(cpus_per_cell=0)


def test_a_worker_tells_what_went_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def ending(error: BaseException | None) -> Any:
        def train() -> None:
            assert Path.cwd() == elsewhere
            if error:
                raise error

        return SimpleNamespace(train=train)

    resumable: Any = SimpleNamespace(resume_command="rpo train")
    assert train_here(ending(None), str(elsewhere)) is None
    assert train_here(ending(ValueError("the\ncause")), str(elsewhere)) == "the cause"
    said = train_here(ending(TrainingInterrupted(resumable)), str(elsewhere))
    assert said == "interrupted; resume with: rpo train"


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
import dataclasses, functools, sys
from pathlib import Path
import ray
from rpo.reproduce import cells
from rpo.reproduce.executors import RayExecutor
from rpo.reproduce.run import reproduce
from tests.reproduce.conftest import LIGHT, TINY

# What is not looked at here costs as much as the trainings: the dashboard, workers to spare.
ray.init = functools.partial(ray.init, num_cpus=1, include_dashboard=False)
cells.TARGETS["pair"] = LIGHT
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


def test_interruption_saves_the_cell_that_trains(
    plan_pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at the driver reaches the worker, which saves what it has; of several see above."""
    pytest.importorskip("ray")
    monkeypatch.setitem(cells.TARGETS, "pair", LIGHT)
    plan = plan_pair(seeds=1)
    process = subprocess.Popen(
        [sys.executable, "-c", REPRODUCE, str(plan.output), PENDULUM],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RAY_ADDRESS": "local"},
    )
    deadline = time.monotonic() + 240
    try:
        while process.poll() is None and min(rows(cell.path) for cell in plan.cells) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:  # also a test that fails leaves no cluster behind
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    for cell in plan.cells:
        saved = last_checkpoint(cell.path / "checkpoints")
        assert saved is not None
        assert saved.stem == f"iteration_{rows(cell.path):08d}"
