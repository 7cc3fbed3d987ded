"""What is on disk after a training."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from tensorboardX.proto.event_pb2 import Event

import rpo
from rpo import cli
from rpo.show.curves import band, curves_of, plot_runs
from rpo.training import Progress, Run, RunError
from rpo.training.run_files import write_json
from tests.training.fakes import ITERATIONS, PENDULUM, TINY

PNG = b"\x89PNG\r\n\x1a\n"


def test_config_tells_where_the_run_came_from(finished_run: Run) -> None:
    config = json.loads((finished_run.path / "config.json").read_text())
    assert config["task"] == PENDULUM
    assert (config["algorithm"], config["preset"]) == ("rpo", "fast")
    assert config["run_settings"]["seeds"] == 2
    assert config["algorithm_settings"]["num_envs"] == TINY["num_envs"]
    assert config["algorithm_settings"]["discount"] == 0.99  # not given: resolved
    (session,) = config["sessions"]
    assert session["iteration"] == 0
    assert session["versions"]["jax"] == jax.__version__
    assert session["versions"]["rpo-jax"] == rpo.__version__
    assert session["hardware"]["jax_platform"] == jax.default_backend()
    assert {"date", "command", "git"} <= session.keys()


def test_metrics_have_one_row_per_iteration_and_seed(finished_run: Run) -> None:
    table = finished_run.metrics()
    assert table["iteration"].tolist() == [k for k in range(1, ITERATIONS + 1) for _ in range(2)]
    assert table["seed"].tolist() == [0, 1] * ITERATIONS
    assert (table["env_steps"] == table["iteration"] * 64).all()
    assert (np.diff(table["seconds"][::2]) > 0).all()
    assert np.isfinite(table["value_loss"]).all()
    # An episode lasts 200 steps, so none can finish in the first 24 iterations of 8 steps.
    assert np.isnan(table["episode_return"][: 2 * 24]).all()
    assert np.isfinite(table["episode_return"][2 * 25 :]).all()


def test_tensorboard_holds_the_table(finished_run: Run) -> None:
    (path,) = (finished_run.path / "tensorboard").iterdir()
    assert "tfevents" in path.name
    found = {
        (event.step, value.tag): value.simple_value
        for event in _events(path.read_bytes())
        for value in event.summary.value
    }
    table = finished_run.metrics()
    for row in (0, 1, len(table["seed"]) - 1):
        tag = f"value_loss/seed_{table['seed'][row]}"
        assert found[table["env_steps"][row], tag] == pytest.approx(table["value_loss"][row])


def _events(data: bytes) -> list[Event]:
    events, position = [], 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 8], "little")
        events.append(Event.FromString(data[position + 12 : position + 12 + length]))
        position += 12 + length + 4
    return events


def test_one_complete_checkpoint_remains(finished_run: Run) -> None:
    names = sorted(path.name for path in finished_run.checkpoints.iterdir())
    assert names == [f"iteration_{ITERATIONS:08d}.npz"]


def test_evaluation_is_stored(finished_run: Run) -> None:
    stored = finished_run.evaluation()
    assert stored is not None
    assert stored.keys() == {"stochastic", "deterministic"}
    for found in stored.values():
        returns = np.array(found["returns"])
        assert returns.shape == (2, 4)
        assert found["mean_return"] == pytest.approx(returns.mean())
        assert found["std_return"] == pytest.approx(returns.mean(axis=1).std())


def test_curve_is_drawn(finished_run: Run) -> None:
    assert (finished_run.path / "curve.png").read_bytes().startswith(PNG)


def test_curves_average_runs_of_one_method(finished_run: Run, tmp_path) -> None:
    other = Run.load(shutil.copytree(finished_run.path, tmp_path / "other"))
    write_json(other.path / "config.json", other.config | {"algorithm": "shac"})
    other = Run.load(other.path)
    curves = curves_of(finished_run)
    assert len(curves) == 2
    mean = band(curves, "steps")
    ends = [curve.returns[-1] for curve in curves]
    assert mean.mean[-1] == pytest.approx(np.mean(ends))
    assert mean.std[-1] == pytest.approx(np.std(ends))
    picture = plot_runs([finished_run, other], tmp_path / "curves.svg").read_text()
    assert "<svg" in picture and "RPO, 2 seeds" in picture and "SHAC, 2 seeds" in picture
    assert plot_runs([finished_run], tmp_path / "one.png").read_bytes().startswith(PNG)


def test_a_curve_that_cannot_be_written_leaves_the_older(
    finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Figure, path: Path, **_: object) -> None:
        path.write_bytes(PNG)
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "curves.png").write_text("older")
    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left") as caught:
        plot_runs([finished_run], tmp_path / "curves.png")
    assert caught.value.filename == str(tmp_path / "curves.png")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]


def test_callbacks_follow_the_training(train_tiny: Callable[..., Run]) -> None:
    told: list[Progress] = []
    run = train_tiny(seeds=2, callbacks=[told.append])
    assert [progress.iteration for progress in told] == [*range(1, ITERATIONS + 1), ITERATIONS]
    assert [progress.ended for progress in told] == [False] * ITERATIONS + [True]
    assert told[3].env_steps == 4 * 64
    assert told[0].run.path == run.path


def test_a_used_directory_is_refused(finished_run: Run, train_tiny) -> None:
    before = (finished_run.path / "metrics.csv").read_bytes()
    with pytest.raises(RunError, match="not empty"):
        train_tiny(run_dir=finished_run.path)
    assert (finished_run.path / "metrics.csv").read_bytes() == before


def test_a_directory_in_use_is_refused(finished_run: Run) -> None:
    with finished_run.locked(), pytest.raises(RunError, match="another process"):
        rpo.train(PENDULUM, resume=finished_run.path, verbose=False)


def test_any_metric_can_be_plotted(finished_run: Run, tmp_path, capsys) -> None:
    curves = curves_of(finished_run, "value_loss")
    assert len(curves[0].steps) == ITERATIONS
    picture = tmp_path / "loss.svg"
    words = ["plot", str(finished_run.path), "--metric", "value_loss", "--output", str(picture)]
    assert cli.main(words) == 0
    assert picture.stat().st_size > 5000
    assert cli.main([*words[:3], "valueloss", *words[4:]]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no metric 'valueloss'; there is value_loss" in line
