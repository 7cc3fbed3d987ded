"""The run directory: everything about a run, in files whose names explain themselves.

config.json       every setting, seeds, and per session its command, date, versions, git, hardware
metrics.csv       one row per iteration and seed
tensorboard/      the same as TensorBoard events
policy.npz        the newest and the best policy of every seed
policies/         the policies at evenly spaced moments of the training
checkpoints/      the newest complete one, `iteration_<number>.npz`
candidates.json   which candidates were dropped when, and what each had reached
evaluation.json   returns of full episodes
curve.png         return over steps and over seconds
"""

from __future__ import annotations

import datetime
import os
import shlex
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rpo import algorithms
from rpo.adapters import foreign
from rpo.envs.base import Env
from rpo.envs.robot_file import is_description
from rpo.errors import RunError, SettingsError, one_line
from rpo.training.metrics import Table, read_metrics
from rpo.training.provenance import provenance
from rpo.training.run_files import (
    check_config,
    is_number,
    read_json,
    read_rows,
    require_plain,
    set_aside,
    write_json,
)
from rpo.training.selection import Race
from rpo.training.settings import Resolved, RunSettings, is_known, make_env
from rpo.training.task_files import (
    file_facts,
    is_task_file,
    load_task,
    parse_task_file,
    recorded_description,
    trusted_task,
)
from rpo.training.typed import typed

FORMAT = 1


class Run:
    """A run directory on disk.

    Args:
        path: of the directory.
        config: contents of its `config.json`.
        env: the environment, where this process has it anyhow.

    Attributes:
        checkpoints: directory of them.
        policy_path: the policy file.
        moments: directory of the policies at moments of the training.
        metrics_path: the table of metrics.
    """

    def __init__(self, path: Path, config: dict[str, Any], env: Env | None = None) -> None:
        self.path = path
        self.config = config
        self.env = env
        self.checkpoints = path / "checkpoints"
        self.policy_path = path / "policy.npz"
        self.moments = path / "policies"
        self.metrics_path = path / "metrics.csv"
        foreign.prepare(config.get("task"))

    @classmethod
    def create(
        cls, path: Path | None, resolved: Resolved, origin: dict[str, Any] | None = None
    ) -> Run:
        """Makes a new run directory.

        Args:
            path: where; must not hold anything yet. None: a new directory under `runs`.
            resolved: all settings.
            origin: the run that it starts from, if any, see `rpo.training.origin`.

        Raises:
            RunError: if something is there already.
            OSError: if it cannot be written.
        """
        path = _fresh_path(resolved) if path is None else path
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path} exists and is not empty; choose another --run-dir")
        path.mkdir(parents=True, exist_ok=True)
        config = {
            "format": FORMAT,
            "id": uuid.uuid4().hex,
            "task": resolved.task,
            "algorithm": resolved.algorithm,
            "preset": resolved.preset,
            "run_settings": vars(resolved.run_settings),
            "algorithm_settings": vars(resolved.config),
            "task_settings": resolved.task_settings,
            "sessions": [],
        }
        if origin is not None:
            config["origin"] = origin
        if is_task_file(resolved.task):
            file, class_name = parse_task_file(resolved.task)
            config["task_file"] = file_facts(file) | {"class": class_name}
        elif is_description(resolved.task):
            config["task_file"] = file_facts(Path(resolved.task))
        run = cls(path, config, resolved.env)
        run.start_session(iteration=0)
        return run

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Run:
        """Opens an existing run directory.

        Raises:
            RunError: if it is not one.
        """
        path = Path(path)
        try:
            config = read_json(path / "config.json")
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{path} is not a run directory: it holds no config.json") from None
        config = check_config(path / "config.json", config, FORMAT)
        require_plain(path)
        return cls(path, config)

    def resolved(self, env: Env | str | None = None) -> Resolved:
        """The settings as they were when the run began.

        Args:
            env: the environment, or `FILE.py:CLASS`, if the run was trained on one of the user's
                own. A file is executed.

        Raises:
            RunError: if this version does not know one of them, or the run needs such a file and
                none is given.
            TaskError: if the file fails.
        """
        config = self.config
        task = config["task"]
        if isinstance(env, str) and not is_task_file(env):
            raise SettingsError(f"{env!r} is not FILE.py:CLASS")
        env = self.env if env is None else env
        if env is None and is_task_file(task):
            trusted_task(self.path, config, None, trust=False)  # says what to do
        if env is None and not is_task_file(task) and not is_known(task):
            raise RunError(
                f"{self.path} was trained on {task!r}, an environment of your own; give it as "
                "the task"
            )
        if isinstance(env, str):
            env = load_task(trusted_task(self.path, config, env, trust=False))
        made_from = task
        if env is None and is_description(task):
            made_from = recorded_description(self.path, config)
        try:
            config_class = algorithms.config_class(config["algorithm"])
            return Resolved(
                task=task,
                algorithm=config["algorithm"],
                preset=config["preset"],
                config=config_class(**typed(config_class, config["algorithm_settings"])),
                task_settings=config["task_settings"],
                run_settings=RunSettings(**typed(RunSettings, config["run_settings"])),
                env=env or make_env(made_from, config["task_settings"]),
            )
        except (SettingsError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"{self.path / 'config.json'}: {one_line(error)}") from error

    @property
    def recorded_task(self) -> str | None:
        """The file that the run was trained on, to be executed by somebody who trusts the run.

        None if it was not trained on a file.

        Raises:
            RunError: if the file is not the one it was trained with.
        """
        if not is_task_file(self.config["task"]):
            return None
        return trusted_task(self.path, self.config, None, trust=True)

    @property
    def resume_command(self) -> str:
        """What a person types to go on."""
        task = self.config["task"]
        words = [task] if is_task_file(task) else []
        return shlex.join(["rpo", "train", *words, "--resume", str(self.path)])

    def start_session(self, iteration: int) -> None:
        """Records that this process goes on after `iteration`."""
        self.config["sessions"].append({"iteration": iteration, **provenance()})
        write_json(self.path / "config.json", self.config)

    @property
    def seeds(self) -> list[int]:
        """The seeds trained here."""
        settings = self.config["run_settings"]
        return list(range(settings["seed"], settings["seed"] + settings["seeds"]))

    def metrics(self) -> Table:
        """Columns of `metrics.csv` by name, one entry per iteration and seed.

        Raises:
            RunError: if it is damaged.
            OSError: if it cannot be read.
        """
        return read_metrics(self.metrics_path)

    def evaluation(self) -> dict[str, Any] | None:
        """Contents of `evaluation.json`, None if there is none yet.

        Raises:
            RunError: if it is damaged.
        """
        path = self.path / "evaluation.json"
        if not path.exists():
            return None
        found: dict[str, Any] = read_rows(
            path, dict, "table of evaluations", lambda x: is_number(x.get("mean_return", 0.0))
        )
        return found

    def add_selection(
        self,
        facts: dict[str, Any],
        before: Race,
        returns: Float[np.ndarray, "seeds candidates"],
        after: Race,
    ) -> None:
        """Adds to `candidates.json` that the run goes on with some of the candidates.

        Args:
            facts: the `iteration`, and `env_steps` of each seed so far.
            before: the candidates so far, with the mean reward of their latest steps.
            returns: mean of their latest episodes; NaN is written as null.
            after: those that are left.

        Raises:
            OSError: if it cannot be written.
        """
        path = self.path / "candidates.json"
        rounds = [one for one in self._selections() if one["iteration"] < facts["iteration"]]
        rewards = np.full(returns.shape, np.nan) if before.rewards is None else before.rewards
        for k, seed in enumerate(self.seeds):
            figures = {
                name: {
                    str(number): float(figure) if np.isfinite(figure) else None
                    for number, figure in zip(before.numbers[k], row[k], strict=True)
                }
                for name, row in (("returns", returns), ("rewards", rewards))
            }
            rounds.append(facts | {"seed": seed} | figures | {"kept": after.numbers[k].tolist()})
        write_json(path, rounds)

    def _selections(self) -> list[dict[str, Any]]:
        path = self.path / "candidates.json"
        if not path.exists():
            return []
        try:
            found: list[dict[str, Any]] = read_rows(
                path, list, "list of selections", lambda x: isinstance(x.get("iteration"), int)
            )
            return found
        except RunError as error:
            warnings.warn(f"{error}; kept as {set_aside(path).name}", stacklevel=2)
            return []

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training in this directory; a killed process lets go.

        Raises:
            RunError: if another process trains here.
        """
        with (self.path / "in_use.lock").open("a") as file:
            try:
                import fcntl
            except ImportError:  # not on Windows: nothing to lock with
                yield
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(f"another process is training in {self.path}") from error
            yield

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


def _fresh_path(resolved: Resolved) -> Path:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    task = resolved.env.spec.name
    settings = resolved.run_settings
    last = settings.seed + settings.seeds - 1
    seeds = f"seed{settings.seed}" if settings.seeds == 1 else f"seeds{settings.seed}-{last}"
    name = f"{task}-{resolved.algorithm}-{resolved.preset}-{seeds}-{now}"
    path, count = Path("runs") / name, 1
    while path.exists():
        count += 1
        path = Path("runs") / f"{name}-{count}"
    return path
