"""Runs that start from another: longer, or with other settings of the task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import rpo
from rpo import algorithms, cli
from rpo.errors import RunError, SettingsError
from rpo.training import Run
from rpo.training.origin import begin, origin_of, restore
from rpo.training.program import Program
from rpo.training.settings import resolve
from tests.marks import rest_nightly
from tests.training.fakes import PENDULUM, TINY, Countdown

SHORT = {"total_steps": 64 * 3, "run_dir": None, "verbose": False, "evaluation_episodes": 0}


@pytest.fixture(scope="module")
def extended(finished_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("extended") / "run"
    return rpo.train(PENDULUM, from_run=finished_run.path, **SHORT | {"run_dir": path})


def test_it_keeps_settings_and_records_where_it_came_from(extended: Run, finished_run: Run) -> None:
    ours, theirs = Run.load(extended.path).config, Run.load(finished_run.path).config
    expected = theirs["algorithm_settings"] | {"total_steps": 64 * 3}
    assert ours["algorithm_settings"] == expected
    assert ours["run_settings"] == theirs["run_settings"] | {"evaluation_episodes": 0}
    assert ours["origin"]["path"] == str(finished_run.path)
    assert ours["origin"]["id"] == theirs["id"] != ours["id"]
    assert ours["origin"]["checkpoint"] == "iteration_00000030"
    table = extended.metrics()
    assert table["iteration"].tolist() == [1, 1, 2, 2, 3, 3]
    assert (table["learning_rate"][:2] > table["learning_rate"][-2:]).all()  # a fresh schedule


def test_it_starts_with_what_was_learned(finished_run: Run, tmp_path: Path) -> None:
    settings = TINY | {"seeds": 2, "num_envs": 16, "total_steps": 16 * 8}
    resolved = resolve(PENDULUM, settings=settings)
    program = Program(resolved)
    restored = restore(finished_run, finished_run.resolved())
    run = Run.create(tmp_path / "run", resolved, origin_of(finished_run, restored))
    state, old = program.to_host(begin(program, run)), restored.state
    fresh = program.to_host(program.init())
    for name in ("policy", "critics", "normalizer", "method"):
        equal(getattr(state.train, name), getattr(old.train, name))
    equal(state.train.actor_optimizer.adam, old.train.actor_optimizer.adam)
    equal(state.best, (old.train.policy, old.train.normalizer))
    equal(state.best_return, fresh.best_return)
    equal(state.train.episodes, fresh.train.episodes)
    assert state.train.iteration.tolist() == [0, 0]
    assert (state.train.key != fresh.train.key).any(axis=1).all()  # no random number twice
    assert (state.train.key != old.train.key).any(axis=1).all()


def equal(ours: object, theirs: object) -> None:
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_kill_before_its_first_checkpoint_loses_nothing(extended: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(extended.path, tmp_path / "copy")
    forget(copy)
    rpo.train(PENDULUM, resume=copy, verbose=False)
    assert leaves(Run.load(copy)) == leaves(extended)

    config = json.loads((copy / "config.json").read_text())
    config["origin"]["digest"] = "another"
    (copy / "config.json").write_text(json.dumps(config))
    forget(copy)
    with pytest.raises(RunError, match="has gone on since this run started from it"):
        rpo.train(PENDULUM, resume=copy, verbose=False)


def forget(run: Path) -> None:
    """What a run has not yet written when it is killed so early."""
    shutil.rmtree(run / "checkpoints")
    (run / "policy.npz").unlink()


def leaves(run: Run) -> list[bytes]:
    state = restore(run, run.resolved(PENDULUM)).state
    return [leaf.tobytes() for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"actor_hidden_sizes": (16,)}, "keeps its networks' sizes"),
        ({"critic": "popart"}, "critic is popart; .* keeps its networks"),
        ({"symmetric": True}, "symmetric is True; .* keeps its networks"),
        ({"seeds": 3}, "seeds is 3, but the origin .* has 2; start from it with --seeds 2"),
        ({"algorithm": "shac"}, "was trained by rpo, not by shac"),
        ({"task": Countdown()}, "is of another kind of run"),
        ({"from_run": "runs/nothing"}, "not a run directory"),
    ],
)
def test_what_does_not_fit_is_refused(
    settings: dict, message: str, finished_run: Run, tmp_path: Path
) -> None:
    given = {"task": PENDULUM, "from_run": finished_run.path} | SHORT | settings
    with pytest.raises((SettingsError, RunError), match=message):
        rpo.train(**given | {"run_dir": tmp_path / "run"})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", rest_nightly(algorithms.names()))
def test_every_method_can_be_continued(method: str) -> None:
    settings = {name: TINY[name] for name in ("num_envs", "horizon", "total_steps")}
    config = algorithms.config_class(method)(
        **settings | ({"batch_size": 64, "n_step": 2} if method == "sac" else {})
    )
    algorithm = algorithms.make(method, config)
    fresh, old = (
        jax.eval_shape(lambda key: algorithm.init(Countdown(), key), jax.random.key(0))
        for _ in range(2)
    )
    state = algorithm.continued(fresh, old)
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    assert state.policy is old.policy
    assert state.critics is old.critics
    assert state.environments is fresh.environments
    if method == "sac":
        assert state.method.replay is fresh.method.replay
        assert state.method.target_critics is old.method.target_critics
    if method == "sapo":
        assert state.method is old.method
    if method == "ppo":
        assert state.method.learning_rate is fresh.method.learning_rate
        assert state.method.value_normalizer is old.method.value_normalizer


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("--from RUN", 1, "would execute that file"),
        ("--from RUN --trust --preset paper", 2, "not those of a preset"),
        ("--from RUN --resume RUN", 2, "give one of them"),
        ("--from RUN --trust --total-step 5", 2, "did you mean --total-steps?"),
        ("--from RUN --trust --algorithm ppo", 2, "was trained by rpo, not by ppo"),
        ("--from runs/nothing", 1, "not a run directory"),
        ("--resume RUN --trust --total-steps 5", 2, "a resumed run keeps its settings"),
    ],
)
def test_mistakes_take_one_line(
    arguments: str, status: int, message: str, finished_run: Run, capsys
) -> None:
    words = [str(finished_run.path) if word == "RUN" else word for word in arguments.split()]
    assert cli.main(["train", *words]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_its_help_shows_the_origins_settings(finished_run: Run, capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--from", str(finished_run.path), "--trust", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: 1920)" in text  # total_steps
    assert "(default: 8)" in text
