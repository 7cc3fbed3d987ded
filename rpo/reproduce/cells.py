"""Cells: the trainings that a target needs, each an ordinary run directory."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rpo.errors import unknown
from rpo.reproduce.targets import BUDGETS, TARGETS, Budget, Target, Variant, tuples
from rpo.show import draw_curve
from rpo.training import Run, RunError, SettingsError, train
from rpo.training.provenance import running
from rpo.training.settings import Resolved, resolve, task_settings_class
from rpo.training.task_files import is_task_file
from rpo.training.typed import typed

RUNS = "runs"
"""Directory of all cells below the output directory; targets share it."""

MATTERS_NOT = ("devices", "checkpoint_interval")
"""Settings of a run that change nothing but its speed and its safety."""


class State(enum.Enum):
    """How far a cell is."""

    NEW = "new"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training program to be run.

    Args:
        task: name of the task, or `file.py:Class`.
        label: of the variant.
        algorithm: name of the method.
        preset: settings to start from.
        settings: what differs from it, seeds and number of evaluation episodes included.
        path: its run directory.
    """

    task: str
    label: str
    algorithm: str
    preset: str
    settings: dict[str, Any]
    path: Path

    @property
    def name(self) -> str:
        """What the cell is called: the name of its directory."""
        return self.path.name

    def resolved(self) -> Resolved:
        """Every setting that is asked for.

        Raises:
            SettingsError: if one is unknown or out of range.
        """
        return resolve(self.task, self.algorithm, self.preset, self.settings)

    def train_arguments(self) -> list[str]:
        """Arguments of `rpo` that start the cell."""
        words = ["train", self.task, "--algorithm", self.algorithm, "--preset", self.preset]
        words += ["--run-dir", str(self.path)]
        for name, value in self.settings.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{flag}", *map(str, values)]
        return words

    @property
    def begun(self) -> bool:
        """Whether there is something to continue."""
        return (self.path / "config.json").exists()

    @property
    def own_task(self) -> str | None:
        """The user's file, which is named again to continue: it runs on his word only."""
        return self.task if is_task_file(self.task) else None

    def arguments(self) -> list[str]:
        """Arguments of `rpo` that start the cell, or continue it."""
        if self.begun:
            own = [] if self.own_task is None else [self.own_task]
            return ["train", *own, "--resume", str(self.path)]
        return self.train_arguments()

    def train(self) -> Run:
        """Trains it in this process, from the start or from where it was interrupted.

        Raises:
            Whatever `rpo.training.train` does.
        """
        with running(["rpo", *self.arguments()]):
            quiet: dict[str, Any] = {"callbacks": [draw_curve], "verbose": False}
            if self.begun:
                return train(self.own_task, resume=self.path, **quiet)
            settings = self.settings | quiet
            return train(
                self.task, self.algorithm, preset=self.preset, run_dir=self.path, **settings
            )

    def command(self) -> str:
        """What a person would type to start it."""
        return shlex.join(["rpo", *self.train_arguments()])

    def state(self) -> State:
        """How far it is.

        Raises:
            RunError: if its directory holds something else, such as a run with other settings.
            SettingsError: if a setting is unknown or out of range.
        """
        if not self.begun:
            self._clear_remains()
            return State.NEW
        run = Run.load(self.path)
        asked = self.resolved()
        different = differences(run.resolved(self.own_task), asked)
        if different:
            raise RunError(
                f"{self.path} holds a run with other settings ({', '.join(different)}); "
                "move it away, or choose another --output"
            )
        return State.FINISHED if _is_finished(run, asked) else State.INTERRUPTED

    def _clear_remains(self) -> None:
        """Deletes what a run that was killed in its very first moment has left."""
        if not self.path.exists():
            return
        remains = list(self.path.iterdir()) if self.path.is_dir() else [self.path]
        if {entry.name for entry in remains} - {"config.tmp.json", "config.json.tmp"}:
            raise RunError(f"{self.path} is in the way: it is not a run directory")
        for entry in remains:
            entry.unlink()


def differences(found: Resolved, asked: Resolved) -> list[str]:
    """Settings in which two runs differ, each as `name: found there, asked here`."""
    one, other = _flat(found), _flat(asked)
    return [
        f"{name} is {one.get(name)} there and {other.get(name)} here"
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name) and name not in MATTERS_NOT
    ]


def _flat(resolved: Resolved) -> dict[str, Any]:
    """All settings by name. Those that a run is older than have their defaults."""
    task_settings = tuples(resolved.task_settings)
    task_class = task_settings_class(resolved.task)
    if task_class is not None:
        task_settings = dataclasses.asdict(task_class(**typed(task_class, task_settings)))
    flat: dict[str, Any] = {"task": resolved.task, "algorithm": resolved.algorithm}
    for settings in (task_settings, vars(resolved.run_settings), vars(resolved.config)):
        flat |= settings
    return flat


def _is_finished(run: Run, asked: Resolved) -> bool:
    """Whether the policies of the last iteration have been evaluated in both ways."""
    evaluation = run.evaluation() or {}
    last = f"iteration_{asked.config.total_iterations:08d}"
    modes = ("stochastic", "deterministic")
    return all(evaluation.get(mode, {}).get("checkpoint_name") == last for mode in modes)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a target needs.

    Args:
        name: of the target.
        target: its declaration.
        budget: name of the budget.
        seeds: per cell.
        tasks: rows of its figure.
        cells: trainings, in the order in which they are run.
        output: directory of everything.
    """

    name: str
    target: Target
    budget: str
    seeds: int
    tasks: tuple[str, ...]
    cells: tuple[Cell, ...]
    output: Path

    @property
    def report(self) -> Path:
        """Directory of its tables and figures."""
        return self.output / f"{self.name}-{self.budget}"

    def command(self) -> str:
        """What reproduces it."""
        words = ["rpo", "reproduce", self.name, "--budget", self.budget, "--tasks", *self.tasks]
        return shlex.join([*words, "--seeds", str(self.seeds), "--output", str(self.output)])


def make_plan(
    name: str,
    output: Path,
    *,
    budget: str = "smoke",
    tasks: Sequence[str] = (),
    seeds: int | None = None,
) -> Plan:
    """Expands a target to its cells.

    Args:
        name: of the target.
        output: directory of everything.
        budget: its name.
        tasks: instead of the paper's, each once.
        seeds: per cell, instead of the budget's.

    Raises:
        SettingsError: if a name is unknown or a value out of range.
    """
    target = _find(TARGETS, name, "target")
    spending = _find(BUDGETS, budget, "budget")
    if seeds is not None and seeds < 1:
        raise SettingsError(f"seeds is {seeds}, must be at least 1")
    chosen = tuple(tasks or target.tasks)
    for task in chosen:
        if chosen.count(task) > 1:
            raise SettingsError(f"tasks names {task} twice")
    cells = []
    for task, variant in itertools.product(chosen, target.variants):
        cell = _cell(task, variant, budget, spending, seeds or spending.seeds, output)
        cell.resolved()  # refuses what cannot be before anything is trained
        cells.append(cell)
    return Plan(
        name=name,
        target=target,
        budget=budget,
        seeds=seeds or spending.seeds,
        tasks=chosen,
        cells=tuple(cells),
        output=output,
    )


def _find(known: dict[str, Any], name: str, kind: str) -> Any:
    if name not in known:
        raise SettingsError(unknown(kind, name, known))
    return known[name]


def _cell(
    task: str, variant: Variant, budget: str, spending: Budget, seeds: int, output: Path
) -> Cell:
    settings: dict[str, Any] = dict(spending.settings.get("", {}))
    settings |= spending.settings.get(variant.algorithm, {})
    if task in spending.steps or "" in spending.steps:
        settings["total_steps"] = spending.steps.get(task) or spending.steps[""]
    settings |= variant.settings
    if variant.factors:
        base = vars(resolve(task, variant.algorithm, spending.preset, settings).config)
        for name, factor in variant.factors.items():
            settings[name] = type(base[name])(base[name] * factor)
    settings |= {"seed": 0, "seeds": seeds, "evaluation_episodes": spending.episodes}
    settings["candidates"] = 1  # methods are compared training by training
    words = [task.rsplit(":", 1)[-1].lower(), variant.algorithm, variant.slug, budget]
    words.append(f"seeds0-{seeds - 1}" if seeds > 1 else "seed0")
    path = output / RUNS / "-".join(word for word in words if word)
    return Cell(task, variant.label, variant.algorithm, spending.preset, settings, path)
