"""Cells are skipped, resumed, refused and reported; estimates follow what was measured."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rpo import cli
from rpo.reproduce import cells
from rpo.reproduce.cells import Cell, Plan, State, make_plan
from rpo.reproduce.estimates import Measurements, describe
from rpo.reproduce.executors import LocalExecutor, Result
from rpo.reproduce.run import dry_run, reproduce
from rpo.training import Run, RunError
from rpo.training.checkpoint import last_checkpoint
from rpo.training.run_files import write_json
from tests.marks import nightly
from tests.reproduce.conftest import MODES, TINY, write_run
from tests.training.fakes import PENDULUM

SCORES = {mode: [1.0, 2.0] for mode in MODES}

BROKEN = """
import jax
from examples.pendulum import Pendulum

@jax.custom_vjp
def rod(state):
    return state

def snap(_, gradient):  # not before the training differentiates
    raise ValueError("the rod broke")

rod.defvjp(lambda state: (state, None), snap)

class Broken(Pendulum):
    def dynamics(self, state, action):
        return rod(super().dynamics(state, action))
"""


class NoExecutor:
    """Notes what it is asked to train, and trains nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def run(self, cells: Sequence[Cell]) -> Iterator[Result]:
        for cell in cells:
            self.asked.append(cell.name)
            yield Result(cell)


def local(plan: Plan) -> LocalExecutor:
    return LocalExecutor(plan.output / "logs", show=False)


def wait_for_rows(process: subprocess.Popen[bytes], run: Path, count: int) -> None:
    table, deadline = run / "metrics.csv", time.monotonic() + 120
    while not table.exists() or len(table.read_bytes().splitlines()) <= count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)


@nightly
def test_killed_cell_is_resumed_and_finished_ones_are_left_alone(plan_pair, monkeypatch) -> None:
    monkeypatch.setitem(cells.BUDGETS, "tiny", dataclasses.replace(TINY, steps={"": 64 * 30}))
    plan = plan_pair()
    killed, fresh = plan.cells
    process = subprocess.Popen(
        [sys.executable, "-m", "rpo.cli", *killed.train_arguments(), "--checkpoint-interval", "0"],
        stdout=subprocess.DEVNULL,
    )
    wait_for_rows(process, killed.path, 6)
    process.kill()
    process.wait()
    assert killed.state() is State.INTERRUPTED
    assert fresh.state() is State.NEW

    said: list[str] = []
    outcome = reproduce(plan, local(plan), said.append)
    assert outcome.failed == {}
    assert f"{killed.name}: to be continued" in said
    assert f"[2 of 2] {fresh.name}: finished" in said
    run = Run.load(killed.path)
    assert [session["iteration"] > 0 for session in run.config["sessions"]] == [False, True]
    assert len(run.metrics()["iteration"]) == 2 * 30  # two seeds, nothing twice
    assert [cell.state() for cell in plan.cells] == [State.FINISHED] * 2
    assert (plan.report / "table.csv").exists()

    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    idle = NoExecutor()
    said.clear()
    assert reproduce(plan, idle, said.append).failed == {}
    assert idle.asked == []
    assert f"{killed.name}: finished before" in said
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


@nightly
def test_a_failing_cell_does_not_stop_the_others(plan_pair, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    plan = plan_pair(tasks=[f"{tmp_path / 'broken.py'}:Broken", PENDULUM], seeds=1)
    broken, sound = plan.cells[0], plan.cells[2]  # RPO on both
    plan = dataclasses.replace(plan, cells=(broken, sound))
    said: list[str] = []
    outcome = reproduce(plan, local(plan), said.append)
    assert list(outcome.failed) == [broken.name]
    assert "the rod broke" in outcome.failed[broken.name]
    assert list(outcome.finished) == [sound.name]
    assert any(line.startswith(f"[1 of 2] {broken.name}: failed: ") for line in said)
    assert "the rod broke" in (plan.output / "logs" / f"{broken.name}.log").read_text()
    assert "the rod broke" in (plan.report / "table.md").read_text()


def test_a_killed_process_is_reported(
    plan_pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = plan_pair()
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -9 $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    results = list(local(plan).run(plan.cells[:1]))
    assert results[0].error is not None
    assert results[0].error.startswith("killed by SIGKILL")


def test_a_training_that_ends_without_being_finished_is_a_failure(plan_pair) -> None:
    plan = plan_pair()
    outcome = reproduce(plan, NoExecutor(), lambda line: None)
    assert set(outcome.failed) == {cell.name for cell in plan.cells}
    assert "without being finished" in outcome.failed[plan.cells[0].name]


def test_changed_settings_are_refused_by_name(plan_pair, monkeypatch) -> None:
    plan = plan_pair()
    for cell in plan.cells:
        write_run(cell, SCORES)
    config = plan.cells[0].path / "config.json"
    contents = json.loads(config.read_text())
    contents["algorithm_settings"]["horizon"] = 16
    contents["run_settings"]["devices"] = 1  # a matter of speed
    config.write_text(json.dumps(contents))
    idle = NoExecutor()
    outcome = reproduce(plan, idle, lambda line: None)
    assert idle.asked == []
    assert list(outcome.failed) == [plan.cells[0].name]
    message = outcome.failed[plan.cells[0].name]
    assert "holds a run with other settings (horizon is 16 there and 8 here); move it" in message
    assert list(outcome.finished) == [plan.cells[1].name]
    assert json.loads(config.read_text()) == contents  # untouched


def test_another_number_of_seeds_is_another_cell(plan_pair) -> None:
    two, three = plan_pair(), plan_pair(seeds=3)
    write_run(two.cells[0], SCORES)
    assert two.cells[0].state() is State.FINISHED
    assert three.cells[0].state() is State.NEW


def test_only_the_last_policy_evaluated_in_both_ways_is_finished(plan_pair) -> None:
    rpo, shac = plan_pair().cells
    write_run(rpo, None)
    assert rpo.state() is State.INTERRUPTED
    run = write_run(shac, SCORES)
    assert shac.state() is State.FINISHED
    path = run.path / "evaluation.json"
    contents = json.loads(path.read_text())
    contents["stochastic"]["checkpoint_name"] = "iteration_00000007"
    path.write_text(json.dumps(contents))
    assert shac.state() is State.INTERRUPTED
    path.write_text("{")
    with pytest.raises(RunError, match=r"evaluation\.json cannot be read"):
        shac.state()


def test_a_cell_whose_results_are_damaged_does_not_hide_the_others(plan_pair) -> None:
    plan = plan_pair()
    sound, damaged = plan.cells
    for cell in plan.cells:
        write_run(cell, SCORES)
    table = damaged.path / "metrics.csv"
    table.write_text(table.read_text().replace("3,0,192", "3,0,x"))
    said: list[str] = []
    outcome = reproduce(plan, NoExecutor(), said.append)
    assert list(outcome.finished) == [sound.name]
    assert "metrics.csv is damaged in line" in outcome.failed[damaged.name]
    assert f"{damaged.name}: failed: {outcome.failed[damaged.name]}" in said
    assert damaged.name in outcome.page.read_text()


def test_a_stored_whole_number_may_be_written_as_another(plan_pair) -> None:
    cell = dataclasses.replace(plan_pair().cells[0], task="hopper")
    run = write_run(cell, SCORES)
    run.config["task_settings"]["substeps"] = 16.0
    write_json(run.path / "config.json", run.config)
    assert cell.state() is State.FINISHED


@pytest.mark.parametrize("times", [(1.0, 1.0), (2.0, 1.0)])
def test_times_that_cannot_be_are_no_estimate(plan_pair, times: tuple[float, float]) -> None:
    cell = plan_pair().cells[0]
    table = write_run(cell, SCORES, iterations=2).metrics_path
    head = table.read_text().splitlines()[0]
    rows = [f"{k + 1},0,{64 * (k + 1)},{time},1,{k}" for k, time in enumerate(times)]
    table.write_text("\n".join([head, *rows]) + "\n")
    found = Measurements([cell.path]).estimate(cell, State.NEW)
    assert "time unknown" in describe([(cell, State.NEW, found)])[0]


def test_what_is_in_the_way_is_not_touched(plan_pair) -> None:
    cell = plan_pair().cells[0]
    cell.path.mkdir(parents=True)
    (cell.path / "config.json.tmp").write_text("{")  # killed in its first moment
    assert cell.state() is State.NEW
    assert list(cell.path.iterdir()) == []
    (cell.path / "diary.txt").write_text("dear diary")
    with pytest.raises(RunError, match="in the way"):
        cell.state()
    assert (cell.path / "diary.txt").exists()


def test_estimates_follow_from_measured_runs(plan_pair) -> None:
    plan = plan_pair()
    rpo, shac = plan.cells
    # 25 of 100 iterations of both seeds took 2 s each: 75 more will take 150 s, after 10 s.
    write_run(rpo, None, iterations=25, seconds_per_iteration=2.0, startup=10.0)
    said: list[str] = []
    assert dry_run(plan, said.append)
    lines = {line.split(":")[0]: line for line in said}
    assert "interrupted, 2 x 6,400 steps, time about 2:40, disk about " in lines[rpo.name]
    assert lines[shac.name].endswith("new, 2 x 6,400 steps, time unknown, disk unknown")
    assert "time about 2:40" in said[-1]
    assert "not counted: 1 cells whose speed is unknown" in said[-1]
    assert not plan.report.exists()
    assert not shac.path.exists()


def test_estimates_of_new_cells_scale_with_seeds_and_ignore_other_machines(plan_pair) -> None:
    measured = plan_pair().cells[0]
    run = write_run(measured, SCORES, seconds_per_iteration=2.0)
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / "state").write_bytes(bytes(20_000_000))
    plan = plan_pair(seeds=4)
    said: list[str] = []
    dry_run(plan, said.append)
    # 100 iterations of two seeds took 200 s and 10 MB per seed.
    assert said[1].startswith(f"{plan.cells[0].name}: new, 4 x 6,400 steps, time about 6:40, disk")
    assert said[1].endswith("about 40.0 MB")
    contents = json.loads((run.path / "config.json").read_text())
    contents["sessions"][-1]["hardware"]["processor"] = "abacus"
    (run.path / "config.json").write_text(json.dumps(contents))
    said.clear()
    dry_run(plan, said.append)
    assert "time unknown" in said[1]


def test_dry_run_reports_cells_that_cannot_be_trained(plan_pair) -> None:
    plan = plan_pair()
    plan.cells[0].path.parent.mkdir(parents=True)
    plan.cells[0].path.write_text("a file")
    said: list[str] = []
    assert not dry_run(plan, said.append)
    assert any("cannot be trained" in line for line in said)


@nightly
def test_the_printed_command_trains_the_cell(plan_pair) -> None:
    """The command line and the settings mean the same run."""
    cell = plan_pair(seeds=1).cells[0]
    subprocess.run(
        [sys.executable, "-m", "rpo.cli", *cell.train_arguments()],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=120,
    )
    assert cell.state() is State.FINISHED
    assert cell.command().startswith(f"rpo train {PENDULUM} --algorithm rpo --preset fast ")


@nightly
def test_interruption_saves_the_cell_and_stops(plan_pair, tmp_path: Path) -> None:
    """SIGINT reaches the training once: it saves, and the same plan continues."""
    plan = plan_pair(seeds=1)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rpo.reproduce import cells\n"
        "from rpo.reproduce.executors import LocalExecutor\n"
        "from rpo.reproduce.run import reproduce\n"
        "from tests.reproduce.conftest import PAIR, TINY\n"
        "import dataclasses\n"
        "cells.TARGETS['pair'] = PAIR\n"
        "cells.BUDGETS['tiny'] = dataclasses.replace(TINY, steps={'': 64 * 20_000})\n"
        f"output = Path({str(plan.output)!r})\n"
        f"plan = cells.make_plan('pair', output, budget='tiny', tasks=[{PENDULUM!r}], seeds=1)\n"
        "try:\n"
        "    reproduce(plan, LocalExecutor(output / 'logs', show=False))\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    cell = plan.cells[0]
    wait_for_rows(process, cell.path, 5)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    saved = last_checkpoint(cell.path / "checkpoints")
    assert saved is not None
    rows = len((cell.path / "metrics.csv").read_text().splitlines()) - 1
    assert saved.stem == f"iteration_{rows:08d}"
    assert not plan.cells[1].path.exists()  # nothing else was begun


def test_make_plan_keeps_the_order_of_tasks(small_world, tmp_path: Path) -> None:
    plan = make_plan("pair", tmp_path, budget="tiny", tasks=[PENDULUM, "hopper"])
    assert plan.tasks == (PENDULUM, "hopper")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["table9"], "unknown target 'table9' (did you mean table6?); known: table1"),
        (["table1", "--budget", "big"], "unknown budget 'big'; known: smoke, short, paper"),
        (["table1", "--seeds", "0"], "seeds is 0"),
        (["table1", "--tasks", "horse"], "horse"),
        (["table1", "--executor", "moon"], "moon"),
        (["table1", "--tasks"], "--tasks needs a value"),
        (["table1", "--tasks", "--seeds", "1"], "--tasks needs a value"),
        (["table1", "--tasks", "ant", "ant"], "tasks names ant twice"),
        (["table1", "--tasks", "ant", "--tasks", "hopper"], "--tasks is given twice"),
        (["table1", "--output", ""], "--output needs a value"),
        (["table1", "--seeds", "1e9", "--tasks", "ant"], "seeds is 1000000000, must be at most"),
        (["table1", "--cpus-per-cell", "0"], "cpus_per_cell is 0, must lie between 1 and 4,096"),
        (["table1", "--cpus-per-cell", "-2", "--dry-run"], "cpus_per_cell is -2, must lie"),
        (["table1", "--cpus-per-cell", "1e9"], "cpus_per_cell is 1000000000, must lie"),
        (
            ["table1", "--gpus-per-cell", "nan"],
            "gpus_per_cell is nan, must lie between 0 and 1,024",
        ),
        (["table1", "--gpus-per-cell", "1.5"], "gpus_per_cell is 1.5, must be whole"),
        (["table1", "--cpus-per-cell", "2", "--dry-run"], "are for --executor ray"),
        ([], "TARGET"),
    ],
)
def test_bad_input_is_one_line_and_status_2(words: list[str], complaint: str, capsys) -> None:
    assert cli.main(["reproduce", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("error: ")
    assert complaint in said.err


def test_dry_run_prints_cells_and_writes_nothing(tmp_path: Path, capsys) -> None:
    output = tmp_path / "output"
    words = ["reproduce", "figure10", "--budget", "paper", "--output", str(output), "--dry-run"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "hopper-rpo-paper-seeds0-11: new, 12 x 20,000,000 steps, time " in said
    assert "hopper-rpo-no-kl-paper-seeds0-11: new, 12 x 20,000,000 steps, time " in said
    assert not output.exists()


def test_status_is_1_if_a_cell_failed(plan_pair, capsys) -> None:
    plan = plan_pair()
    for cell in plan.cells:
        write_run(cell, SCORES)
    words = ["reproduce", "pair", "--budget", "tiny", "--tasks", PENDULUM]
    words += ["--output", str(plan.output)]
    assert cli.main(words) == 0
    assert (plan.output / "index.html").exists()
    blocked = plan.cells[0].path
    blocked.rename(blocked.with_name("elsewhere"))
    blocked.write_text("a file")
    capsys.readouterr()
    (plan.report / "table.csv").unlink()
    assert cli.main(words) == 1
    assert capsys.readouterr().err.startswith(f"error: {plan.cells[0].name}: ")
    assert "SHAC" in (plan.report / "table.csv").read_text()  # the rest is reported


def test_without_rliable_nothing_is_trained(monkeypatch, tmp_path, capsys) -> None:
    from rpo.cli import main

    monkeypatch.setattr("rpo.reproduce.command.find_spec", lambda name: None)
    status = main(["reproduce", "table1", "--output", str(tmp_path / "out")])
    assert status == 2
    assert "statistics need rliable" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
