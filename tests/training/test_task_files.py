"""A task in a file runs on the user's word only, and its mistakes are told in three lines."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rpo
from rpo import cli
from rpo.envs import EpisodicEnv
from rpo.errors import RunError, TaskError, TrainingError
from rpo.training import Run
from rpo.training.evaluation import evaluate_policy
from rpo.training.policies import open_policies
from rpo.training.session import Session
from rpo.training.settings import resolve
from rpo.training.task_check import check_env, culprit
from rpo.training.task_files import load_task
from tests.marks import nightly
from tests.training.fakes import PENDULUM, TINY, Countdown, Echo
from tests.training.test_evaluation import policy_for

TASK = """
import equinox as eqx
import jax.numpy as jnp
from rpo.envs import EnvSpec, EpisodicEnv

class Mine(EpisodicEnv):
    spec: EnvSpec = eqx.field(static=True, default=EnvSpec("mine", 2, 1, 5, 0.1))

    def initial_state(self, key):
        return jnp.zeros(2)

    def dynamics(self, state, action):
        return state + action

    def observe(self, state):
        return state

    def reward(self, state, action, next_state):
        return -next_state[:, 0]
"""


def write(path: Path, old: str = "", new: str = "") -> str:
    assert old in TASK
    path.write_text(TASK.replace(old, new) if old else TASK)
    return f"{path}:Mine"


@pytest.fixture
def mine(tmp_path: Path) -> tuple[str, Path]:
    """A task that leaves a mark when it is executed, and a run that was begun on it."""
    directory = tmp_path / "tasks"
    directory.mkdir()
    task = write(directory / "mine.py")
    with (directory / "mine.py").open("a") as file:
        file.write(f"\n__import__('pathlib').Path({str(tmp_path / 'executed')!r}).touch()\n")
    run = Run.create(tmp_path / "run", resolve(task, settings=TINY))
    (tmp_path / "executed").unlink()
    return task, run.path


def test_opening_a_run_executes_nothing(mine: tuple[str, Path], capsys) -> None:
    _, path = mine
    executed = path.parent / "executed"
    run = str(path)
    for words in (["evaluate", run], ["train", "--resume", run], ["plot", run]):
        assert cli.main([*words]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("would execute that file; if you trust it" in line for line in lines[:2])
    with pytest.raises(RunError, match="would execute"):
        rpo.load_policy(path)
    assert not executed.exists()


def test_a_config_cannot_name_a_file_by_another_way(mine: tuple[str, Path]) -> None:
    task, path = mine
    config = json.loads((path / "config.json").read_text())
    for name in (task, task.rpartition(":")[0], "mine.py:Mine", ":", ".py"):
        (path / "config.json").write_text(json.dumps(config | {"task": name}))
        with pytest.raises(RunError):
            Run.load(path).resolved()
    assert not (path.parent / "executed").exists()


def test_trust_finds_the_recorded_file_from_anywhere(
    mine: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task, path = mine
    config = json.loads((path / "config.json").read_text())
    relative = {"task": "tasks/mine.py:Mine"}  # as it was named in another working directory
    (path / "config.json").write_text(json.dumps(config | relative))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Run.load(path).recorded_task == task
    assert Run.load(path).resolved(task).env.spec.name == "mine"
    assert (path.parent / "executed").exists()


def test_a_changed_file_is_noticed(mine: tuple[str, Path]) -> None:
    task, path = mine
    path_of_task = Path(task.rpartition(":")[0])
    path_of_task.write_text(path_of_task.read_text() + "# changed\n")
    with pytest.raises(RunError, match=r"is not the file that .* was trained with"):
        _ = Run.load(path).recorded_task
    with pytest.warns(UserWarning, match="sha256 differs"):
        Run.load(path).resolved(task)


def test_a_policy_file_notices_a_changed_file_too(
    finished_run: Run, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    task = Path(shutil.copy(PENDULUM.rpartition(":")[0], tmp_path))
    rpo.load_policy(finished_run.policy_path, env=f"{task}:Pendulum")
    assert not recwarn.list
    task.write_text(task.read_text() + "# changed\n")
    with pytest.warns(UserWarning, match=r"not the same as when .*policy\.npz was trained"):
        rpo.load_policy(finished_run.policy_path, env=f"{task}:Pendulum")


def test_a_run_of_this_process_needs_no_word(finished_run: Run) -> None:
    assert rpo.load_policy(finished_run).env.spec.name == "pendulum"
    assert Run.load(finished_run.path).recorded_task == PENDULUM


def test_a_module_beside_the_task_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "beside_the_task.py").write_text("SIZE = 2\n")
    new = "import equinox as eqx\nfrom beside_the_task import SIZE\nassert SIZE == 2"
    assert load_task(write(tmp_path / "mine.py", "import equinox as eqx", new)).spec.name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "what", "where"),
    [
        ("class Mine", "class Mine(", "SyntaxError: ", "line 6: class Mine("),
        ("import equinox as eqx", "import no_such_thing", "No module named", "line 2"),
        ("-next_state[:, 0]", "1 / 0", "ZeroDivisionError: division by zero", "in reward: return"),
        ("-next_state[:, 0]", "state", "Mine.reward gives the shape (3, 2) for 3", ""),
        ("-next_state[:, 0]", "0.0", "Mine.reward gives the shape ()", "docs/custom-env"),
        ("return state\n", "return state[:, :1]\n", "Mine.observe gives the shape (3, 1)", ""),
        ("state + action", "state[:, :1]", "Mine.dynamics takes a state of float32[3, 2]", ""),
        ("state + action", "(state, action)", "a state of another structure", ""),
        (
            "state + action",
            "state + jnp.ones(5)",
            "Incompatible shapes",
            "in dynamics: return state",
        ),
        ("jnp.zeros(2)", "key.shape.nothing", "AttributeError", "in initial_state"),
        (
            "def observe",
            "def markers(self, state):\n        return [state]\n\n    def observe",
            "Mine.markers gives list, must give an rpo.envs.Marker by name",
            "docs/custom-env",
        ),
        ('"mine", 2', '"mine", -2', "observation_size must be positive", "in Mine"),
        ("def observe", "def look", "abstract", "making Mine()"),
    ],
)
def test_mistakes_in_a_task_take_three_lines(
    old: str, new: str, what: str, where: str, tmp_path: Path, capsys
) -> None:
    task = write(tmp_path / "mine.py", old, new)
    assert cli.main(["train", task, "--run-dir", str(tmp_path / "run")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3
    assert what in lines[0]
    assert where in " ".join(lines[1:])
    assert not (tmp_path / "run").exists()


def test_a_mistake_that_shows_later_takes_three_lines_too(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = write(tmp_path / "mine.py", "-next_state[:, 0]", "self.later(next_state)")
    with (tmp_path / "mine.py").open("a") as file:
        file.write("\n    later = staticmethod(lambda x: -x[:, 0])\n")
    # Another task, loaded before, has this test beside it; it is not at fault.
    other = types.ModuleType("_rpo_task_elsewhere")
    other.__file__ = str(Path(__file__).parents[2] / "elsewhere.py")
    monkeypatch.setitem(sys.modules, other.__name__, other)
    env = load_task(task)
    monkeypatch.setattr(type(env), "later", staticmethod(lambda x: x.nothing))
    monkeypatch.setattr("rpo.training.settings.load_task", lambda _: env)
    assert cli.main(["check-gradients", task]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "AttributeError" in lines[1]
    assert "in reward: return self.later(next_state)" in lines[2]


def test_an_instance_is_checked_as_well() -> None:
    class Flat(Echo):
        def reward(self, state, action, next_state):
            return action

    with pytest.raises(TaskError, match=r"Flat\.reward gives the shape \(3, 1\)"):
        resolve(Flat(), settings=TINY)
    check_env(Countdown())


class NeverFinite(Echo):
    """Its reward is NaN everywhere."""

    def reward(self, state, action, next_state):
        return action[:, 0] + jnp.nan


@nightly
def test_a_reward_that_is_never_finite_ends_the_training(train_tiny: Callable[..., Run]) -> None:
    with pytest.raises(TrainingError, match=r"NeverFinite\.reward gives 100% numbers"):
        train_tiny(NeverFinite(), "shac", devices=1)


def a_session(env: EpisodicEnv, broken: float, told: Callable[[str], None]) -> SimpleNamespace:
    """As much of a session of two seeds as its watch over states asks for."""
    return SimpleNamespace(
        metrics={"non_finite_states": np.array([0.0, broken])},
        steps_per_iteration=64,
        program=SimpleNamespace(seeds=[4, 5], env=env),
        iteration=3,
        warned=False,
        reporter=SimpleNamespace(message=told),
    )


def test_numbers_that_are_never_finite_end_a_training_and_the_culprit_is_named() -> None:
    session = a_session(NeverFinite(), 64.0, told=print)
    expected = r"in iteration 3 every step of seed 5 .*NeverFinite\.reward gives 100% numbers"
    with pytest.raises(TrainingError, match=expected):
        Session._watch_states(session)  # type: ignore[arg-type]


def test_numbers_that_are_sometimes_not_finite_are_told_once() -> None:
    told: list[str] = []
    session = a_session(Countdown(), 16.0, told=told.append)
    for _ in range(2):
        Session._watch_states(session)  # type: ignore[arg-type]
    (line,) = told
    assert line.startswith("warning: in iteration 3, 25.0% of the steps gave a state, observation")


def test_an_evaluation_tells_of_broken_episodes() -> None:
    with pytest.warns(UserWarning, match="2 of 2 episodes ended because a state, observation or"):
        assert evaluate_policy(policy_for(NeverFinite()), episodes=2).mean == 0


def test_the_culprit_is_named() -> None:
    class Blind(Countdown):
        def observe(self, state):
            return state * jnp.inf

    assert culprit(Blind()) == "Blind.observe gives 100% numbers that are not finite"
    assert culprit(Countdown()) == "its first steps from random starts are finite"


def test_a_policy_says_what_it_wants_to_see(finished_run: Run) -> None:
    policy = rpo.load_policy(finished_run)
    with pytest.raises(ValueError, match=r"pendulum has 3 numbers .* shape \(4,\)"):
        policy(jnp.zeros(4))
    with pytest.raises(ValueError, match="has 3 numbers along its last axis"):
        policy(0.0)
    assert policy([0.0, 1.0, 0.0]).shape == (1,)
    assert policy(jnp.zeros((2, 3)), jax.random.key(0)).shape == (2, 1)


def test_a_copied_run_keeps_its_checkpoint(finished_run: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(finished_run.path, tmp_path / "copy")
    assert open_policies(copy, PENDULUM).facts.iteration == 30
