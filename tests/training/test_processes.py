"""One run in two processes: the same parameters, one run directory, and an end for both."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

import rpo
from rpo import cli
from rpo.runtime import Processes
from rpo.training import Run, SettingsError
from rpo.training.checkpoint import last_checkpoint, restore_checkpoint
from rpo.training.processes import join
from rpo.training.program import Program, Progressing
from rpo.training.settings import default_devices, resolve
from tests.marks import nightly, rest_nightly
from tests.training.fakes import PENDULUM, TINY, as_flags
from tests.training.test_resume import StoppedError, rows, stop_at, wait_for

SHORT = TINY | {"total_steps": 3 * 8 * 8}
LONG = TINY | {"total_steps": 2_000 * 8 * 8}


@contextmanager
def two(*arguments: str, run_dirs: Sequence[Path] = ()) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes of `rpo train`, one device each, and their run directories, if given."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = []
    for number in range(2):
        own = ["--run-dir", str(run_dirs[number])] if run_dirs else []
        own += ["--coordinator", address, "--num-processes", "2", "--process-id", str(number)]
        started.append(run(*arguments, *own))
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def run(*arguments: str) -> subprocess.Popen[str]:
    words = os.environ.get("XLA_FLAGS", "").split()
    flags = " ".join(word for word in words if "device_count" not in word)
    return subprocess.Popen(
        [sys.executable, "-m", "rpo.cli", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": flags, "RPO_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"},
    )


def state(run: Run) -> tuple[Progressing, int]:
    """What the run's checkpoint holds, and after how many iterations."""
    path = last_checkpoint(run.checkpoints)
    assert path is not None
    program = Program(run.resolved(PENDULUM))
    found, facts = restore_checkpoint(path, program.shapes())
    return found, facts["iteration"]


def test_two_processes_give_the_parameters_of_one(tmp_path: Path, train_tiny) -> None:
    reference = train_tiny(PENDULUM, "shac", **SHORT, devices=1)
    path, apart = tmp_path / "run", tmp_path / "apart"
    settings = {name: value for name, value in SHORT.items() if name != "actor_epochs"}
    flags = ["--algorithm", "shac", *as_flags(settings | {"evaluation_episodes": 2})]
    with two(PENDULUM, *flags, run_dirs=[path, apart]) as started:
        said = [process.communicate(timeout=600) for process in started]  # on a busy machine
        assert [process.returncode for process in started] == [0, 0], said
    assert said[0][1] == said[1][1] == ""
    assert "deterministic return" in said[0][0]
    assert [line for line in said[1][0].splitlines() if "Gloo" not in line] == []
    assert not apart.exists()  # the second process writes nothing
    found = Run.load(path)
    assert found.config["run_settings"]["devices"] == 2
    assert found.config["sessions"][0]["hardware"]["processes"] == 2
    assert found.evaluation() is not None
    assert len(found.metrics()["iteration"]) == 3

    (ours, iteration), (theirs, _) = state(found), state(reference)
    assert iteration == 3
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), ours, theirs)
    start = Program(reference.resolved()).init()[0].train.policy
    moved = jax.tree.map(lambda x, y: np.abs(x[0] - y).max(), ours.train.policy, start)
    assert max(jax.tree.leaves(moved)) > 1e-3


@nightly
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the processes run on CPUs")
def test_signals_deaths_and_other_numbers_of_processes(tmp_path: Path) -> None:
    path = tmp_path / "run"
    flags = as_flags(LONG | {"checkpoint_interval": 0.5})
    with two(PENDULUM, *flags, run_dirs=[path, path]) as started:
        wait_for(started[0], lambda: rows(path) >= 3)
        started[1].send_signal(signal.SIGTERM)  # to either of them
        said = [process.communicate(timeout=60)[1] for process in started]
        assert [process.returncode for process in started] == [130, 130]
    assert said == [f"interrupted; resume with: rpo train {PENDULUM} --resume {path}\n"] * 2
    first = state(Run.load(path))[1]
    assert first == rows(path)  # saved after the last iteration

    with two(PENDULUM, "--resume", str(path)) as started:
        wait_for(started[0], lambda: rows(path) >= first + 3)
        started[1].kill()
        _, complaint = started[0].communicate(timeout=60)
        assert started[0].returncode == 1
    assert "error: another process of this run has ended" in complaint.splitlines()[-1]
    second = max(state(Run.load(path))[1], first)

    with pytest.raises(StoppedError):
        rpo.train(PENDULUM, resume=path, verbose=False, callbacks=[stop_at(second + 3)])
    sessions = Run.load(path).config["sessions"]
    assert [session["hardware"]["processes"] for session in sessions] == [2, 2, 1]
    table = Run.load(path).metrics()["iteration"]
    np.testing.assert_array_equal(table, np.arange(len(table)) + 1)


@nightly
def test_environments_that_cannot_be_split_end_both_processes() -> None:
    with two(PENDULUM, *as_flags(SHORT | {"num_envs": 7})) as started:
        said = [process.communicate(timeout=60)[1] for process in started]
        assert [process.returncode for process in started] == [2, 2]
    message = "error: num_envs is 7, must be a multiple of the number of processes, 2\n"
    assert said == [message] * 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--num-processes 2 --process-id 0", "several processes need --coordinator"),
        ("--coordinator localhost:1", "needs --num-processes and --process-id"),
        ("--coordinator localhost --num-processes 2 --process-id 0", "must be HOST:PORT or auto"),
        (
            "--coordinator localhost:1 --num-processes 2 --process-id 2",
            "process_id is 2, must lie between 0 and 1",
        ),
        (
            "--coordinator localhost:1 --num-processes 2 --process-id -1",
            "process_id is -1, must lie between 0 and 1",
        ),
        (
            "--coordinator localhost:1 --num-processes 0 --process-id 0",
            "num_processes is 0, must lie between 1 and 1,048,576",
        ),
    ],
)
def test_impossible_processes_are_refused(flags: str, message: str, capsys) -> None:
    for command in (["train", PENDULUM], ["train", "--resume", "runs/nothing"]):
        assert cli.main([*command, *flags.split()]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line


def test_a_running_backend_cannot_join() -> None:
    jax.devices()
    with pytest.raises(SettingsError, match="cannot join"):
        join(Processes("localhost:1", 2, 0))


ALONE = """
from rpo.runtime import Processes
from rpo.training.processes import join
join(Processes("localhost:{port}", 2, {number}), timeout=2)
"""


@pytest.mark.parametrize("number", rest_nightly([0, 1]))
def test_a_process_without_partners_ends_in_one_line(number: int) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    code = ALONE.format(port=port, number=number)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "did not find each other at localhost" in line


def test_devices_are_equally_many_of_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "devices", lambda: list(range(8)))
    assert default_devices(12) == 6
    assert default_devices(10) == 2
    with pytest.raises(SettingsError, match="num_envs is 9, must be a multiple"):
        default_devices(9)
    with pytest.raises(SettingsError, match="devices is 3, must be a multiple of the number of"):
        Program(resolve(PENDULUM, settings=TINY | {"devices": 3, "num_envs": 12}))
