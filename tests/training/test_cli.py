"""The command `rpo`."""

from __future__ import annotations

import dataclasses
import io
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rpo import cli, envs
from rpo.train_command import _train_form
from rpo.training import Run, TrainingError
from rpo.training.logging import PlainReporter, Reporter, Status, TerminalReporter, duration
from rpo.training.program import Program
from rpo.training.session import Session
from rpo.training.settings import resolve
from tests.training.conftest import TWO_SEEDS
from tests.training.fakes import PENDULUM, TINY, as_flags


def test_training_into_a_pipe_prints_plain_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    flags = as_flags(TINY | TWO_SEEDS)
    assert cli.main(["train", PENDULUM, "--run-dir", str(path), *flags]) == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "\r" not in output
    lines = output.splitlines()
    assert lines[0] == f"run directory: {path}"
    assert "compiling the training step" in lines
    progress = [line for line in lines if "steps/s" in line]
    assert re.fullmatch(
        r"1,920 of 1,920 steps \(100.0 %\), [\d,]+ steps/s, 0:00 left, "
        r"return -[\d.,]+, best -[\d.,]+",
        progress[-1],
    )
    assert any(line.startswith("deterministic return -") for line in lines)
    run = Run.load(path)
    assert run.evaluation() is not None
    # the command, not how this process was started
    assert run.config["sessions"][0]["command"].startswith(f"rpo train {PENDULUM} --run-dir {path}")


def test_other_commands(finished_run: Run, tmp_path: Path, capsys) -> None:
    assert cli.main(["evaluate", str(finished_run.path), "--episodes", "4", "--trust"]) == 0
    assert capsys.readouterr().out.startswith("stochastic return -")
    picture = tmp_path / "curves.png"
    assert cli.main(["plot", str(finished_run.path), "--output", str(picture)]) == 0
    assert picture.stat().st_size > 1000
    assert cli.main(["tasks"]) == 0
    output = capsys.readouterr().out
    for task in ("hopper", "ant", "anymal", "humanoid", "hand"):
        assert f"{task}: " in output
    assert cli.main(["algorithms"]) == 0
    output = capsys.readouterr().out
    assert "Reparameterization Proximal Policy Optimization" in output
    assert cli.main(["check-gradients", PENDULUM, "--samples", "4", "--horizon", "0"]) == 0
    assert "cosine" in capsys.readouterr().out
    assert cli.main(["train", "--help"]) == 0
    output = capsys.readouterr().out
    assert "  ant       A torso with four legs" in output
    assert len(output.splitlines()) < 24  # fits a terminal
    assert cli.main(["--help"]) == 0
    assert cli.main(["--version"]) == 0


def test_help_shows_every_setting_with_the_presets_value(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "hopper", "--algorithm", "sapo", "--preset", "paper", "--help"])
    assert not end.value.code
    text = " ".join(re.sub("[│─╭╮╰╯]", " ", capsys.readouterr().out).split())
    assert re.search(r"--num-envs INT [^-]*\(default: 1024\)", text)
    assert re.search(r"--initial-temperature FLOAT [^-]*\(default: 1\.0\)", text)
    assert "--observe-last-action" in text
    assert "--seeds" in text


def test_gradients_are_checked_of_the_task_as_it_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    checked: list[tuple[Any, dict[str, Any]]] = []

    def note(env: Any, **given: Any) -> Any:
        checked.append((env, given))
        return SimpleNamespace(table=str, passed=len(checked) == 1)

    monkeypatch.setattr("rpo.check_command.check_gradients", note)
    words = "check-gradients ant --friction-coefficient 0.5 --mass-range 0.8 1.2 --samples 1e1"
    assert cli.main(words.split()) == 0
    robot = Path(envs.__file__).parent / "assets" / "hopper.xml"
    more = ["--substeps", "8", "--strength", "20", "--seed", "3"]
    assert cli.main(["check-gradients", str(robot), *more]) == 1
    (ant, first), (described, second) = checked
    assert ant.settings.friction_coefficient == 0.5
    assert ant.randomization.mass_range == (0.8, 1.2)
    assert described.step_settings.substeps == 8
    first, second = ({k: v for k, v in x.items() if k != "progress"} for x in (first, second))
    assert first == {"samples": 10, "horizon": 8, "seed": 0}
    assert second == {"samples": 16, "horizon": 8, "seed": 3}
    with pytest.raises(SystemExit):
        cli.main(["check-gradients", "ant", "--help"])
    text = capsys.readouterr().out
    assert "--friction-coefficient" in text
    assert "--horizon" in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("nothing", 2, "unknown command 'nothing'; known: train, evaluate"),
        ("train", 2, "name a task"),
        ("train nothing", 2, "unknown task 'nothing'; known: hopper, ant, anymal, humanoid, hand"),
        ("train robot.sdf", 2, "ends in .xml, .mjcf or .urdf, a task of your own is FILE.py:CLASS"),
        ("train missing.xml", 2, "'missing.xml': no such robot description"),
        ("train ant --algorithm nothing", 2, "unknown algorithm 'nothing'"),
        ("train ant --preset nothing", 2, "unknown preset 'nothing'"),
        ("train ant --num-env 3", 2, "unknown setting --num-env (did you mean --num-envs?)"),
        ("train ant --num-envs", 2, "--num-envs"),
        ("train ant --num-envs x", 2, "invalid literal for int() with base 10: 'x'"),
        ("train ant --num-envs 0", 2, "num_envs is 0, must be at least 1"),
        ("train ant --discount 2", 2, "discount is 2.0"),
        ("train ant --inertia odd", 2, "odd"),
        ("train ant --seeds 0", 2, "seeds is 0"),
        ("train ant --devices 99", 2, "devices is 99, but JAX sees only"),
        ("train ant --preset", 2, "--preset needs a value"),
        ("train ant --preset=", 2, "--preset needs a value"),
        ("train ant --algorithm ppo --algorithm sac", 2, "--algorithm is given twice"),
        ("train --from --total-steps 5", 2, "--from needs a value"),
        ("train --resume a --resume=b", 2, "--resume is given twice"),
        ("train ant --actor-hidden-sizes", 2, "--actor-hidden-sizes needs a value"),
        ("train ant --actor-hidden-sizes --seeds 2", 2, "--actor-hidden-sizes needs a value"),
        ("train ant --seeds 1 --horizon 8 --seeds=2", 2, "--seeds is given twice"),
        ("train ant --symmetric --no-symmetric", 2, "--no-symmetric is given beside --symmetric"),
        ("train ant --run-dir EMPTY_WORD", 2, "--run-dir needs a value"),
        ("train ant --num-processes 1e7 --coordinator auto", 2, "num_processes is 10000000, must"),
        ("evaluate EMPTY_WORD", 2, "an argument is empty"),
        ("evaluate RUN --task=", 2, "--task needs a value"),
        ("export ant --output EMPTY_WORD", 2, "--output needs a value"),
        ("plot RUN RUN --output /dev/null/a.png", 1, "is named twice"),
        ("view ant --port 70000", 2, "port is 70000, must lie between 0 and 65535"),
        ("view ant --save a.html --port 80", 2, "leave out --host and --port"),
        ("render RUN --seconds 0", 2, "seconds is 0, must be positive"),
        ("check-gradients ant --samples 0", 2, "samples is 0, must lie between 1 and 10,000; see"),
        ("check-gradients ant --seed 1e10", 2, "seed is 10000000000, must lie between"),
        ("train ant more", 2, "more"),
        ("train ant --run-dir /dev/null/run", 1, "/dev/null/run: Not a directory"),
        ("train --resume /dev/null", 1, "cannot be read"),
        ("train --resume runs/nothing", 1, "not a run directory"),
        ("train --resume RUN --horizon 3", 2, "a resumed run keeps its settings"),
        ("evaluate", 2, "run"),
        ("evaluate runs/nothing", 1, "is no run directory, no policy file"),
        ("evaluate RUN --trust --episodes 0", 2, "episodes is 0"),
        ("plot", 2, "name at least one run"),
        ("plot RUN --output curves.nothing", 1, "no image suffix"),
        ("plot RUN --output /dev/null/a.png", 1, "/dev/null/a.tmp.png: Not a directory"),
        ("check-gradients nothing", 2, "unknown task 'nothing'"),
        ("check-gradients ant --horizon -1", 2, "horizon is -1, must lie between 0 and"),
        ("check-gradients", 2, "TASK"),
        ("check-gradients --samples 3 ant", 2, "name a task first: rpo check-gradients TASK"),
        ("check-gradients ant --friction 1", 2, "unknown setting --friction (did you mean"),
        ("check-gradients ant --num-envs 1", 2, "rpo check-gradients ant --help explains them"),
        ("check-gradients ant --substeps 8", 2, "mass_matrix_interval is 16, must divide"),
        ("check-gradients ant --strength -1", 2, "strength is -1.0, must be"),
        ("tasks more", 2, "more"),
        ("evaluate RUN", 1, "would execute that file; if you trust it, add --trust"),
        ("train --resume RUN", 1, "would execute that file"),
        ("trian ant", 2, "(did you mean train?)"),
        ("train ant --algorithm rpoo", 2, "(did you mean rpo?)"),
        ("train ant --algorithm rop", 2, "(did you mean rpo?)"),
        ("evaluate RUN --episode 3", 2, "(did you mean --episodes?); rpo evaluate --help"),
        ("view ant --checkpoints all", 2, "(did you mean --checkpoint?); rpo view --help"),
        ("plot EMPTY", 1, "has no metrics yet"),
        ("render RUN", 1, "would execute that file; if you trust it, add --trust"),
        ("render RUN --trust --output x.mp4", 1, "pendulum has no robot to show"),
        ("view nowhere", 1, "nowhere is no run directory, no policy file and no task"),
        ("train ant --preset papr", 2, "(did you mean paper?)"),
        ("train ant --gama 0.9", 2, "(did you mean --discount?); rpo train ant --help"),
        ("train ant --nothing-like-it 3", 2, "unknown setting --nothing-like-it; rpo train"),
        ("train nope", 2, "unknown task 'nope'; known"),
        ("train examples/pendulum.py", 2, "as in examples/pendulum.py:Pendulum; it has Pendulum"),
        ("train examples/none.py:A", 2, "there is no file examples/none.py"),
        ("reproduce table9", 2, "unknown target 'table9' (did you mean table6?)"),
        ("reproduce table1 --budget smok", 2, "(did you mean smoke?)"),
        ("reproduce table1 --tasks nope", 2, "unknown task 'nope'"),
        ("train hopper --total-steps 99999999999999999999999", 2, "total_steps is 99999999"),
        ("train hopper --num-envs 1e9 --candidates 1", 2, "1,000,000,000 environments need"),
        ("train hopper --num-envs 1.5e0", 2, "invalid literal"),
        ("train hopper --seeds=1e5", 2, "seeds is 100000, must be at most 1024"),
        ("train hopper --actor-hidden-sizes 8 1e8", 2, "at most 100 layers of a million units"),
        ("train hopper --clip-low 2", 2, "clip_low is 2.0, must lie in [0, 1]"),
        ("train hopper --clip-high nan", 2, "clip_high is nan, must"),
        ("train hopper --checkpoint-interval inf", 2, "checkpoint_interval is inf"),
        ("train hopper --substeps 1e9", 2, "substeps is 1000000000, must be at most"),
        ("train ant --control-frequency 1e300", 2, "is 1e+300, must be at most 1,000,000; see"),
        ("render RUN --envs 1e9", 2, "envs is 1000000000, must lie between 1 and 256; see"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: str, status: int, message: str, finished_run: Run, tmp_path: Path, capsys
) -> None:
    if "EMPTY" in arguments:
        shutil.copy(finished_run.path / "config.json", tmp_path)
    known = {"RUN": str(finished_run.path), "EMPTY": str(tmp_path), "EMPTY_WORD": ""}
    words = [known.get(word, word) for word in arguments.split()]
    assert cli.main(words) == status
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert captured.out == ""


def test_a_terminal_that_cannot_draw_boxes_has_the_same_line(
    capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in (sys.stdout, io.TextIOWrapper(io.BytesIO(), "latin-1")):
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["train", "ant", "--num-envs", "0"]) == 2
        line = capsys.readouterr().err
        assert line == "error: num_envs is 0, must be at least 1; see rpo train ant --help\n"


def test_failed_training_ends_in_one_line(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TrainingError("the cause")

    monkeypatch.setattr("rpo.training.session.require_finite_updates", fail)
    flags = as_flags(TINY | {"seeds": 2})
    assert cli.main(["train", PENDULUM, "--run-dir", str(tmp_path / "run"), *flags]) == 1
    assert capsys.readouterr().err == "error: the cause\n"


def test_help_needs_no_backend() -> None:
    """`rpo --help` must be quick: nothing heavy is imported for it."""
    code = (
        "import sys; from rpo import cli; cli.main(['--help']); "
        "print([m for m in ('mujoco', 'matplotlib', 'equinox') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


STATUS = Status(
    env_steps=512_000,
    total_steps=1_024_000,
    steps_per_second=20_480.4,
    seconds_left=25.0,
    episode_return=1234.56,
)


def test_terminal_shows_progress_and_what_is_being_done() -> None:
    stream = io.StringIO()
    reporter = TerminalReporter(Console(file=stream, force_terminal=True, width=80))
    reporter.phase("compiling the training step")
    reporter.message("kept on the screen")
    reporter._progress.refresh()
    reporter.phase("training")
    reporter.status(STATUS)
    reporter.status(dataclasses.replace(STATUS, best_return=2345.67))
    reporter.close()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "compiling the training step" in text
    assert "kept on the screen" in text
    line = "50.0 %, 20,480 steps/s, 0:25 left, return 1,234.6, best 2,345.7"
    assert line in text  # on 80 columns, with room for the bar


def test_plain_lines_are_few() -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream, interval=1000.0)
    for _ in range(5):
        reporter.status(STATUS)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("512,000 of 1,024,000 steps (50.0 %), 20,480 steps/s, 0:25 left")


class Noting(Reporter):
    """Keeps what it is told of."""

    def __init__(self) -> None:
        self.noted: list[Status] = []

    def status(self, status: Status) -> None:
        self.noted.append(status)


def test_the_best_return_needs_an_episode(tmp_path: Path) -> None:
    resolved, reporter = resolve(PENDULUM, settings=TINY), Noting()
    run = Run.create(tmp_path / "run", resolved)
    session = Session(run, resolved, Program(resolved), reporter, ())
    with session.records() as records:
        for value in [math.nan, 3.0, math.nan, 2.0, 5.0]:
            metrics = {"episode_return": np.array([value]), "reward": np.zeros(1)}
            session.enter(metrics, records, took=1.0)
    noted = reporter.noted
    assert [str(status.best_return) for status in noted] == ["nan", "3.0", "3.0", "3.0", "5.0"]
    assert "best" not in noted[0].text()
    assert noted[0].text().endswith("return none yet")


def test_durations() -> None:
    assert [duration(s) for s in (5, 125, 3725, float("nan"))] == ["0:05", "2:05", "1:02:05", "-"]


@pytest.mark.parametrize("task", ["ant", "hopper"])
def test_what_is_not_given_is_what_the_library_takes(task: str) -> None:
    """Of the candidates, too: flags that nobody gave must not stand against the preset."""
    _, default = _train_form(task, "rpo", "fast")
    resolved = resolve(task)
    alike = dataclasses.replace(resolved.run_settings, devices=None)
    assert dataclasses.replace(default.run, candidates=default.run.candidates or 1) == alike
    assert (default.method, vars(default.task_settings)) == (
        resolved.config,
        resolved.task_settings,
    )
