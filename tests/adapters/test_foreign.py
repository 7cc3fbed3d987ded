"""Environments of other packages as tasks: names, batches, and the way to a trained policy."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rpo
from rpo import algorithms, cli, runtime
from rpo.adapters import foreign
from rpo.errors import SettingsError, TaskError
from rpo.training import Run
from rpo.training.origin import resume_settings
from rpo.training.settings import resolve
from rpo.training.task_check import check_env
from rpo.training.task_files import is_task_file
from tests.adapters import fake_package
from tests.adapters.fake_package import FakeSettings, Reach, make
from tests.training.fakes import TINY, as_flags


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes names such as fake:Reach known; XLA does not mind these environments."""
    monkeypatch.setitem(foreign._HOMES, "fake", fake_package.__name__)
    monkeypatch.setattr(runtime, "without_fusion", lambda: True)


def test_names() -> None:
    assert foreign.is_foreign("brax:ant")
    assert foreign.is_foreign("playground:CheetahRun")
    assert not foreign.is_foreign("brax")
    assert not foreign.is_foreign("brax.py:Ant")
    assert not is_task_file("brax:ant")
    assert is_task_file("brax.py:Ant")


def test_unknown_names_list_near_ones(fake: None, capsys) -> None:
    assert cli.main(["train", "fake:Reech"]) == 2
    assert "fake has no environment 'Reech'; near ones: fake:Reach" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="known: fake:Looping, fake:Reach"):
        foreign.settings_class("fake:")
    with pytest.raises(SettingsError, match=r"near ones: brax:HalfCheetah$"):
        foreign.require_known("brax:cheetah", ["HalfCheetah", "Ant"])


@pytest.mark.parametrize(
    ("package", "module"), [("brax", "brax"), ("playground", "mujoco_playground")]
)
def test_a_missing_package_takes_one_line(
    package: str, module: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.envs", None)
    assert cli.main(["train", f"{package}:Ant"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"pip install 'rpo-jax[{package}]'" in line


def test_shapes_and_time_limit() -> None:
    env = make("Reach", FakeSettings(episode_length=5))
    check_env(env)
    assert (env.spec.observation_size, env.spec.action_size) == (2, 2)
    state = env.reset(jax.random.key(0), 3)
    assert all(leaf.size for leaf in jax.tree.leaves(state))  # checkpoints hold no empty arrays
    step, starts = jax.jit(env.step), state.observation
    for k in range(1, 6):
        state, transition = step(state, jnp.full((3, 2), 2.0))
        np.testing.assert_allclose(transition.final_observation, starts + 0.1 * k, rtol=1e-5)
        np.testing.assert_array_equal(transition.truncated, [k == 5] * 3)
        assert not transition.terminated.any()
        assert not transition.info["non_finite"].any()  # although the state holds an infinity
    assert np.abs(np.asarray(transition.observation)).max() <= 1
    assert len(np.unique(np.asarray(transition.observation))) == 6


def test_done_terminates_and_gradients_stop_there() -> None:
    env = make("Reach", FakeSettings(episode_length=100))

    def total(actions: Any) -> Any:
        def one(state: Any, action: Any) -> Any:
            state, transition = env.step(state, action)
            return state, (transition.reward, transition.terminated)

        _, (rewards, ended) = jax.lax.scan(one, env.reset(jax.random.key(0), 1), actions)
        return rewards.sum(), ended

    actions = jnp.ones((45, 1, 2))
    gradient, ended = jax.jit(jax.grad(total, has_aux=True))(actions)
    first = int(np.argmax(ended[:, 0]))
    assert 15 < first < 42
    pushed = np.asarray(gradient)[:, 0, 0]
    assert (pushed[20 : first + 1] < 0).all()
    # The next episode's first action has no part in what the last one's earned.
    alone = jax.jit(jax.grad(lambda a: total(a)[0]))(actions.at[first + 1 :].set(0.5))
    np.testing.assert_allclose(np.asarray(alone)[: first + 1, 0, 0], pushed[: first + 1], rtol=1e-5)


def test_numbers_that_are_not_finite_end_an_episode() -> None:
    class Broken(Reach):
        def move(self, position, action):
            return jnp.where(action > 0.5, jnp.nan, position)

    env = make("Reach", FakeSettings(), Broken())
    state = env.reset(jax.random.key(0), 2)
    state, transition = env.step(state, jnp.array([[1.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(transition.info["non_finite"], [True, False])
    np.testing.assert_array_equal(transition.terminated, [True, False])
    assert jnp.isfinite(state.observation).all()


def test_several_observations_and_repeated_actions() -> None:
    class Two(Reach):
        def reset(self, rng):
            state = super().reset(rng)
            return state.replace(obs={"state": state.obs, "privileged_state": jnp.zeros(5)})

        def step(self, state, action):
            following = super().step(state.replace(obs=state.obs["state"]), action)
            return following.replace(obs={"state": following.obs, "privileged_state": jnp.zeros(5)})

    class Unknown(Two):
        def reset(self, rng):
            state = super().reset(rng)
            return state.replace(obs={"pixels": jnp.zeros((4, 4))})

    env = make("Reach", FakeSettings(), Two(), 3)
    assert env.spec.observation_size == 2
    state = env.reset(jax.random.key(0), 1)
    _, transition = env.step(state, jnp.ones((1, 2)))
    np.testing.assert_allclose(transition.observation, state.observation + 0.3, rtol=1e-5)
    places = [state.observation[0] + 0.1 * k for k in (1, 2, 3)]
    np.testing.assert_allclose(transition.reward[0], -sum((p**2).sum() for p in places), rtol=1e-5)
    with pytest.raises(SettingsError, match="has the observations pixels; rpo reads one"):
        make("Reach", FakeSettings(), Unknown())


def test_a_state_that_changes_its_structure() -> None:
    class Changing(Reach):
        def step(self, state, action):
            return super().step(state, action).replace(done={"now": jnp.zeros(())})

    env = make("Reach", FakeSettings(), Changing())
    with pytest.raises(TaskError, match="different structures in reset and step"):
        check_env(env)


def test_xla_would_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(foreign._HOMES, "fake", fake_package.__name__)
    monkeypatch.setattr(runtime, "without_fusion", lambda: False)
    with pytest.raises(SettingsError, match="RPO_FUSION=0"):
        foreign.make("fake:Reach")


def test_the_compiler_option_is_taken_back_in_time() -> None:
    """By the name alone, in a process in which JAX has not started; later it is too late."""
    code = (
        "import os, rpo; from rpo.adapters import foreign; foreign.prepare('hopper'); "
        "assert 'fusion' in os.environ['XLA_FLAGS']; foreign.prepare('brax:ant'); "
        "assert 'fusion' not in os.environ['XLA_FLAGS']; "
        "os.environ['XLA_FLAGS'] = ''; "
        "import importlib; from rpo import runtime; runtime.configure.cache_clear(); "
        "runtime.configure(); import jax; jax.devices(); assert not runtime.without_fusion()"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "RPO_FUSION")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


@pytest.mark.nightly
@pytest.mark.parametrize("algorithm", algorithms.names())
def test_every_method_trains_on_it(fake: None, algorithm: str, tmp_path: Path) -> None:
    run = rpo.train(
        "fake:Reach",
        algorithm,
        **tiny(algorithm),
        total_steps=8 * 8 * 6,
        episode_length=7,
        evaluation_episodes=0,
        run_dir=tmp_path / "run",
        verbose=False,
    )
    assert run.config["task"] == "fake:Reach"
    assert run.config["task_settings"] == {"episode_length": 7}
    evaluation = rpo.evaluate(run.path, episodes=4)
    assert (evaluation.lengths == 7).all()
    assert np.isfinite(evaluation.returns).all()
    assert rpo.load_policy(run.policy_path).env.spec.name == "fake_Reach"


def tiny(algorithm: str) -> dict[str, Any]:
    """Of `TINY` what a method has, without the sizes of the run; for SAC no more than it needs."""
    fields = {field.name for field in dataclasses.fields(algorithms.config_class(algorithm))}
    settings = TINY | {"warmup_steps": 8, "batch_size": 16, "replay_capacity": 1024}
    del settings["total_steps"]
    return {name: value for name, value in settings.items() if name in fields}


def test_a_run_records_the_name_and_the_settings(fake: None, tmp_path: Path) -> None:
    Run.create(tmp_path / "run", resolve("fake:Reach", settings=TINY | {"episode_length": 9}))
    run = Run.load(tmp_path / "run")
    assert run.recorded_task is None  # no file to be trusted
    assert run.resume_command == f"rpo train --resume {run.path}"
    assert run.resolved().env.spec.episode_length == 9
    with pytest.raises(SettingsError, match="is a run of fake:Reach, not of brax:Reach"):
        resume_settings(run, "brax:Reach", None, {})


@pytest.mark.nightly
def test_the_command_line(fake: None, tmp_path: Path, capsys) -> None:
    path = tmp_path / "run"
    settings = tiny("shac") | {"total_steps": 8 * 8 * 2, "evaluation_episodes": 0, "run_dir": path}
    words = ["train", "fake:Reach", "--algorithm", "shac", "--episode-length", "9"]
    assert cli.main([*words, *as_flags(settings)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "comparing the derivative of fake:Reach with finite differences"
    assert told[1].startswith("derivative of fake:Reach: useful (cosine 1.000")
    config = json.loads((path / "config.json").read_text())
    assert (config["task"], config["task_settings"]["episode_length"]) == ("fake:Reach", 9)
    assert cli.main(["train", "--resume", str(path)]) == 0
    assert cli.main(["train", "brax:ant", "--resume", str(path)]) == 2
    assert "is a run of fake:Reach, not of brax:ant" in capsys.readouterr().err


@pytest.mark.nightly
def test_further_commands(
    fake: None, tmp_path: Path, train_tiny: Callable[..., Run], capsys
) -> None:
    path = train_tiny("fake:Reach", total_steps=8 * 8 * 2).path
    more = [*as_flags({"total_steps": 8 * 8 * 2, "run_dir": tmp_path / "more"})]
    assert cli.main(["train", "--from", str(path), *more]) == 0
    assert cli.main(["evaluate", str(path), "--episodes", "3"]) == 0
    assert cli.main(["check-gradients", "fake:Reach"]) == 0
    assert "useful" in capsys.readouterr().out


def test_what_cannot_be_differentiated_is_refused(
    fake: None, tmp_path: Path, train_tiny: Callable[..., Run], capsys
) -> None:
    flags = as_flags(TINY | {"run_dir": tmp_path / "run"})
    assert cli.main(["train", "fake:Looping", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "derivative of fake:Looping: missing (its solver loops" in line
    assert "--algorithm ppo or --algorithm sac" in line
    assert not (tmp_path / "run").exists()
    with pytest.raises(SettingsError, match="missing"):
        train_tiny("fake:Looping", "shac")
    assert cli.main(["check-gradients", "fake:Looping"]) == 1


@pytest.mark.nightly
def test_ppo_trains_on_what_cannot_be_differentiated(fake: None, tmp_path: Path) -> None:
    given = tiny("ppo") | {"total_steps": 8 * 8 * 2, "run_dir": tmp_path / "run"}
    run = rpo.train("fake:Looping", "ppo", **given, evaluation_episodes=0, verbose=False)
    assert np.isfinite(run.metrics()["value_loss"]).all()


def test_what_the_other_package_complains_of_takes_one_line(
    fake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(name: str, settings: Any) -> Any:
        raise OSError("no robot here\nand more")

    module = SimpleNamespace(names=fake_package.names, SETTINGS=FakeSettings)
    module.make = fails
    monkeypatch.setitem(sys.modules, "a_failing_package", module)
    monkeypatch.setitem(foreign._HOMES, "fake", "a_failing_package")
    with pytest.raises(SettingsError, match=r"fake:Reach cannot be made: OSError: no robot here$"):
        foreign.make("fake:Reach")
