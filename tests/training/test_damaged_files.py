"""Files of a run that are damaged, missing, or not what they should be: one line, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpo.errors import CheckpointError, RunError
from rpo.show.curves import plot_runs
from rpo.training import Run, checkpoint, train
from rpo.training.array_file import read_arrays, write_arrays
from rpo.training.checkpoint import require_facts, restore_last, save_checkpoint
from rpo.training.evaluation import Evaluation, store_evaluation
from rpo.training.metrics import MetricsTable, read_metrics
from rpo.training.origin import restore
from rpo.training.run_files import write_json
from rpo.training.selection import Race, Selection
from tests.training.fakes import PENDULUM

STATE = {f"w{k}": np.random.default_rng(k).normal(size=(100, 100)) for k in range(40)}


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


@pytest.fixture
def copy(finished_run: Run, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run.path, tmp_path / "copy")


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            (lambda c, name=name: c.pop(name), f"{name} is missing")
            for name in ("task", "algorithm", "preset", "run_settings", "algorithm_settings")
        ),
        (lambda c: c.pop("task_settings"), "task_settings is missing"),
        (lambda c: c.pop("sessions"), "sessions is missing"),
        (lambda c: c.update(task=["hopper"]), "task is missing or not"),
        (lambda c: c.update(preset="x" * 5000), "preset is longer"),
        (lambda c: c["run_settings"].pop("seed"), "seed is not a whole number"),
        (lambda c: c["run_settings"].update(seeds=True), "seeds is not a whole number"),
        (lambda c: c["run_settings"].update(seeds=2**30), "seeds is out of range"),
        (lambda c: c["sessions"].append(3), "a session is not"),
        (lambda c: c.update(origin="runs/other"), "origin is not"),
    ],
)
def test_a_config_lacks_nothing(copy: Path, change: Callable, message: str) -> None:
    changed(copy, change)
    with pytest.raises(RunError, match=message) as caught:
        Run.load(copy)
    one_line(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["algorithm_settings"].update(num_envs="8"), "num_envs is '8', must be"),
        (lambda c: c["algorithm_settings"].update(horizon=[1]), "horizon is"),
        (lambda c: c["algorithm_settings"].update(betas=3), "betas is 3, must be a list"),
        (lambda c: c["algorithm_settings"].update(discount=10**400), "discount is 1000"),
        (lambda c: c["algorithm_settings"].update(critic="odd"), "critic is 'odd', must be one"),
        (lambda c: c["run_settings"].update(devices="all"), "devices is 'all'"),
        (lambda c: c.update(algorithm="nothing"), "unknown algorithm 'nothing'"),
        (lambda c: c.update(task="ant", task_settings={"gravity": "up"}), "gravity is 'up'"),
        (lambda c: c.update(task="ant", task_settings={"gears": [[]]}), "gears"),
        (lambda c: c.update(task="odd"), "an environment of your own"),
    ],
)
def test_settings_of_the_wrong_kind(copy: Path, change: Callable, message: str) -> None:
    changed(copy, lambda c: c.update(task="hopper"))
    changed(copy, change)
    with pytest.raises(RunError, match=message) as caught:
        Run.load(copy).resolved()
    one_line(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "\x00", '{"format": NaN}', "[" * 100_000, '{"format": 1' + "0" * 5000]
)
def test_no_config_at_all(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json") as caught:
        Run.load(copy)
    one_line(caught.value)


def test_links_and_pipes_are_not_followed(copy: Path, tmp_path: Path) -> None:
    (copy / "metrics.csv").unlink()
    os.mkfifo(copy / "metrics.csv")
    with pytest.raises(RunError, match="not a plain file"):
        Run.load(copy)
    with pytest.raises(RunError, match="not a plain file"):
        read_metrics(copy / "metrics.csv")
    (copy / "metrics.csv").unlink()
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (copy / "evaluation.tmp.json").symlink_to(mine)
    with pytest.raises(RunError, match="is a link"):
        Run.load(copy)
    write_json(copy / "evaluation.json", {})
    assert mine.read_text() == "precious"


def test_other_programs_directories_lead_nowhere_either(copy: Path, tmp_path: Path) -> None:
    (copy / "wandb").mkdir()
    (copy / "wandb" / "latest-run").symlink_to(tmp_path)  # as that program does
    Run.load(copy)
    shutil.rmtree(copy / "wandb")
    (copy / "wandb").symlink_to(tmp_path)
    with pytest.raises(RunError, match="wandb is a link"):
        Run.load(copy)


def test_directories_without_end(copy: Path) -> None:
    copy.joinpath(*"a" * 20).mkdir(parents=True)
    with pytest.raises(RunError, match="more than 10 deep"):
        Run.load(copy)


def test_a_run_that_has_lost_its_checkpoints_is_not_begun_anew(copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    before = {path: path.read_bytes() for path in copy.rglob("*.*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"lost its checkpoints.* put checkpoints/ back"):
        train(PENDULUM, resume=copy, verbose=False)
    assert {path: path.read_bytes() for path in before} == before


HEAD = "iteration,seed,env_steps,seconds,steps_per_second"
METRICS = {"a": np.array([1.5]), "b": np.array([np.nan])}
TIMES = {"seconds": 1.0, "steps_per_second": 2.0}


@pytest.fixture
def table(tmp_path: Path) -> tuple[Path, Any]:
    """Five iterations, and the mark after the third."""
    path = tmp_path / "metrics.csv"
    metrics = MetricsTable(path, 0)
    for iteration in range(1, 6):
        metrics.write(iteration, 64 * iteration, TIMES, [0], METRICS)
        mark = metrics.mark if iteration == 3 else (mark if iteration > 3 else None)
    metrics.close()
    return path, mark


def reopened(path: Path, mark: Any) -> list[int]:
    metrics = MetricsTable(path, 3, mark)
    metrics.write(4, 256, TIMES, [0], METRICS)
    metrics.close()
    iterations: list[int] = read_metrics(path)["iteration"].tolist()
    return iterations


def test_a_sound_table_goes_on_in_silence(table: tuple[Path, Any]) -> None:
    path, mark = table
    with path.open("a") as file:
        file.write("6,0,38")  # cut short by a kill
    assert reopened(path, mark) == [1, 2, 3, 4]
    assert not path.with_name("metrics.csv.damaged").exists()


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        (b"2,0,128", b"2,0,\xff28", [1, 3, 4]),  # not UTF-8
        (b"2,0,128", b"2,0,129", [1, 2, 3, 4]),  # a number like any other
        (b"2,0,128", b"2,0,\x0028", [1, 3, 4]),
        (b"2,0,128,1,2,1.5,nan\r\n", b"", [1, 3, 4]),
        (b"2,0,128", b"2,0,128,9", [1, 3, 4]),
        (b"iteration", b"iterbtion", [4]),
    ],
)
def test_a_damaged_table_is_kept_and_told(
    table: tuple[Path, Any], old: bytes, new: bytes, left: list[int]
) -> None:
    path, mark = table
    damaged = path.read_bytes().replace(old, new)
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"is damaged; kept as metrics\.csv\.damaged; .* of 3"):
        assert reopened(path, mark) == left
    assert path.with_name("metrics.csv.damaged").read_bytes() == damaged


def test_a_missing_table_is_told(table: tuple[Path, Any]) -> None:
    path, mark = table
    path.unlink()
    with pytest.warns(UserWarning, match="is missing: it starts anew with iteration 4"):
        assert reopened(path, mark) == [4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "its first line names no columns"),
        ("iteration,seed,env_steps,seconds,steps_per_second\n1,0,x,1,1\n2,0,1,1,1\n", "in line 2"),
        (
            "iteration,seed,env_steps,seconds,steps_per_second\n1,0,1,nan,1\n2,0,1,1,1\n",
            "in line 2",
        ),
        ('iteration,seed,env_steps,seconds,steps_per_second\n1,"' + "0" * 200_000, "damaged"),
    ],
)
def test_reading_a_damaged_table(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(RunError, match=message) as caught:
        read_metrics(tmp_path / "metrics.csv")
    one_line(caught.value)


def test_a_table_without_lines_is_not_read_to_its_end(table: tuple[Path, Any]) -> None:
    path, mark = table
    os.truncate(path, 10**12)  # a hole that takes no room on the disk
    with pytest.raises(RunError, match="damaged in line 7"):
        read_metrics(path)
    with pytest.warns(UserWarning, match="is damaged; kept as"):
        assert reopened(path, mark) == [1, 2, 3, 4]


def test_a_table_without_returns_is_named(copy: Path, tmp_path: Path) -> None:
    table = copy / "metrics.csv"
    table.write_bytes(table.read_bytes().replace(b"episode_return", b"episode_rexurn"))
    with pytest.raises(RunError, match="has no column episode_return"):
        plot_runs([Run.load(copy)], tmp_path / "a.svg")


def test_names_are_drawn_as_they_are(copy: Path, tmp_path: Path) -> None:
    changed(copy, lambda c: c.update(task="a.py:$\\frac{", preset="$x_"))
    assert plot_runs([Run.load(copy)], tmp_path / "a.svg").stat().st_size > 1000


@pytest.mark.parametrize("text", ["{", "[]", '{"stochastic": 3}', '{"s": {"mean_return": "x"}}'])
def test_a_damaged_evaluation_is_told_and_replaced(copy: Path, text: str) -> None:
    (copy / "evaluation.json").write_text(text)
    run = Run.load(copy)
    with pytest.raises(RunError, match=r"evaluation\.json"):
        run.evaluation()
    found = Evaluation(np.ones((2, 3)), np.ones((2, 3), int), deterministic=False)
    with pytest.warns(UserWarning, match=r"kept as evaluation\.json\.damaged"):
        store_evaluation(run, found, 30, checkpoint="last", seed=0)
    assert (copy / "evaluation.json.damaged").read_text() == text
    assert (run.evaluation() or {})["stochastic"]["mean_return"] == 1.0


@pytest.mark.parametrize(
    ("name", "message"),
    [("../../elsewhere", "no name of"), ("iteration_" + "9" * 5000, "no name of"), (3, "read")],
)
def test_a_pointer_leads_nowhere_else(tmp_path: Path, name: Any, message: str) -> None:
    write_json(tmp_path / "last.json", {"checkpoint": name})
    with pytest.raises(CheckpointError, match=message):
        restore_last(tmp_path, lambda _: STATE)


def test_a_checkpoint_that_is_replaced_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, {"w": np.ones(3)}, {"iteration": 5})
    restore, calls = checkpoint.restore_checkpoint, []

    def restore_late(path: Path, like: Any) -> Any:
        calls.append(path.stem)
        if len(calls) == 1:  # the training goes on meanwhile
            save_checkpoint(tmp_path, {"w": np.full(3, 2.0)}, {"iteration": 6})
        return restore(path, like)

    monkeypatch.setattr(checkpoint, "restore_checkpoint", restore_late)
    found = restore_last(tmp_path, lambda _: {"w": np.ones(3)})
    assert found is not None
    assert (found[0].stem, found[1]["w"][0]) == ("iteration_00000006", 2.0)
    assert calls == ["iteration_00000005", "iteration_00000006"]


def test_a_checkpoint_of_another_run_is_refused(copy: Path, finished_run: Run) -> None:
    changed(copy, lambda c: c.update(id="another"))
    (copy / "policy.npz").unlink()
    from rpo.training import load_policies

    with pytest.raises(CheckpointError, match="is of another run"):
        load_policies(Run(copy, Run.load(copy).config, finished_run.env))


def test_a_checkpoint_beyond_the_end_is_refused(copy: Path, finished_run: Run) -> None:
    checkpoints = copy / "checkpoints"
    facts, arrays, _ = read_arrays(checkpoints / "iteration_00000030.npz", "checkpoint", "")
    later = facts | {"iteration": 31}
    write_arrays(checkpoints / "iteration_00000031.npz", "checkpoint", later, arrays)
    with pytest.raises(CheckpointError, match="cannot be: the run has 30 iterations"):
        restore(Run.load(copy), finished_run.resolved())


@pytest.mark.parametrize(
    "numbers", [None, [], [[0]], [[0, 5]], [[1, 0]], [["0", "1"]], 3, [[0, 1], [0, 1]]]
)
def test_candidates_that_cannot_be(numbers: Any) -> None:
    facts = {"iteration": 0, "candidates": numbers}
    with pytest.raises(CheckpointError, match="its candidates cannot be"):
        Race.resume(Selection(2, 100, 0.5), 1, facts, Path("iteration_0"))


@pytest.mark.parametrize(
    "change",
    [{"iteration": 7}, {"seconds": "1"}, {"seconds": -1.0}, {"arrays": {"w": 3}}],
    ids=str,
)
def test_facts_that_do_not_hold_together(tmp_path: Path, change: dict[str, Any]) -> None:
    facts = {"iteration": 5, "seconds": 1.0, "arrays": {"w": ["float64", [3]]}}
    with pytest.raises(ValueError, match="its facts"):
        require_facts(tmp_path / "iteration_00000005.npz", facts | change, facts["arrays"])
