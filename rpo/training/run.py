"""The run directory: everything about a run, in files whose names explain themselves.

config.json       every setting, seeds, and per session its command, date, versions, git, hardware
metrics.csv       one row per iteration and seed
tensorboard/      the same as TensorBoard events
policy.npz        the newest and the best policy of every seed
policies/         the policies at evenly spaced moments of the training
checkpoints/      `last.json` names the newest complete one
candidates.json   which candidates were dropped when, and what each had reached
evaluation.json   returns of full episodes
curve.png         return over steps and over seconds
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from rpo.envs.base import Env
from rpo.training.errors import RunError, SettingsError
from rpo.training.metrics import Table, read_metrics
from rpo.training.provenance import provenance
from rpo.training.selection import Race
from rpo.training.settings import Resolved, RunSettings, config_from, make_env, one_line

FORMAT = 1


class Run:
    """A run directory on disk.

    Args:
        path: of the directory.
        config: contents of its `config.json`.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config

    @classmethod
    def create(cls, path: Path | None, resolved: Resolved) -> Run:
        """Makes a new run directory.

        Args:
            path: where; must not hold anything yet. None: a new directory under `runs`.
            resolved: all settings.

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
            "task": resolved.task,
            "algorithm": resolved.algorithm,
            "preset": resolved.preset,
            "run_settings": vars(resolved.run_settings),
            "algorithm_settings": vars(resolved.config),
            "task_settings": resolved.task_settings,
            "sessions": [],
        }
        run = cls(path, config)
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
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{path} is not a run directory: it holds no config.json") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path / 'config.json'} cannot be read: {one_line(error)}") from error
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise RunError(f"{path / 'config.json'} is not of this program (format {FORMAT})")
        return cls(path, config)

    def resolved(self, env: Env | None = None) -> Resolved:
        """The settings as they were when the run began.

        Args:
            env: the environment, if the run was started with an instance of the user's own.

        Raises:
            RunError: if this version does not know one of them.
        """
        config = self.config
        try:
            return Resolved(
                task=config["task"],
                algorithm=config["algorithm"],
                preset=config["preset"],
                config=config_from(config["algorithm"], config["algorithm_settings"]),
                task_settings=config["task_settings"],
                run_settings=RunSettings(**config["run_settings"]),
                env=env or make_env(config["task"], config["task_settings"]),
            )
        except (SettingsError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"{self.path / 'config.json'}: {one_line(error)}") from error

    def start_session(self, iteration: int) -> None:
        """Records that this process goes on after `iteration`."""
        self.config["sessions"].append({"iteration": iteration, **provenance()})
        write_json(self.path / "config.json", self.config)

    @property
    def seeds(self) -> list[int]:
        """The seeds trained here."""
        settings = self.config["run_settings"]
        return list(range(settings["seed"], settings["seed"] + settings["seeds"]))

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def policy_path(self) -> Path:
        """The policy file."""
        return self.path / "policy.npz"

    @property
    def moments(self) -> Path:
        """Directory of the policies at moments of the training."""
        return self.path / "policies"

    @property
    def metrics_path(self) -> Path:
        """The table of metrics."""
        return self.path / "metrics.csv"

    def metrics(self) -> Table:
        """Columns of `metrics.csv` by name, one entry per iteration and seed."""
        return read_metrics(self.metrics_path)

    def evaluation(self) -> dict[str, Any] | None:
        """Contents of `evaluation.json`, None if there is none yet."""
        path = self.path / "evaluation.json"
        if not path.exists():
            return None
        contents: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return contents

    def add_selection(
        self,
        iteration: int,
        env_steps: int,
        numbers: Int[np.ndarray, "seeds candidates"],
        scores: Float[np.ndarray, "seeds candidates"],
        race: Race,
    ) -> None:
        """Adds to `candidates.json` that the run goes on with some of the candidates.

        Args:
            iteration: finished iterations.
            env_steps: of each seed so far.
            numbers: of the candidates so far.
            scores: theirs; NaN is written as null.
            race: with those that are left.

        Raises:
            OSError: if it cannot be written.
        """
        path = self.path / "candidates.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        rounds = [one for one in known if one["iteration"] < iteration]
        for k, seed in enumerate(self.seeds):
            returns = {
                str(number): None if np.isnan(score) else float(score)
                for number, score in zip(numbers[k], scores[k], strict=True)
            }
            kept = race.numbers[k].tolist()
            one = {"iteration": iteration, "env_steps": env_steps, "seed": seed}
            rounds.append(one | {"returns": returns, "kept": kept})
        write_json(path, rounds)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training in this directory; a killed process lets go.

        Raises:
            RunError: if another process trains here.
        """
        with (self.path / "in_use.lock").open("w") as file:
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


def write_json(path: Path, contents: Any) -> None:
    """Replaces a file at once: a reader sees the old contents or the new, never a part.

    Raises:
        OSError: if it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(contents, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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
