"""How long cells will take and how much disk they need, from runs that were measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rpo.reproduce.cells import Cell, State
from rpo.reproduce.targets import tuples
from rpo.training import Run, RunError
from rpo.training.logging import duration
from rpo.training.provenance import hardware

COST = (
    *("num_envs", "horizon", "actor_hidden_sizes", "critic_hidden_sizes"),
    *("critic_passes", "actor_epochs", "epochs", "minibatches", "gradient_steps", "batch_size"),
)
"""Settings that a speed depends on, where a method has them."""

_DAMAGE = (ValueError, LookupError, TypeError, AttributeError)
MACHINE = ("processor", "cores", "jax_platform", "jax_devices")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a run has cost.

    Args:
        startup: seconds before the first iteration, for compilation.
        steps_per_second: environment steps after that, all seeds together.
        bytes_per_row: of metrics and events, per iteration and seed.
        bytes_per_seed: of everything else.
    """

    startup: float
    steps_per_second: float
    bytes_per_row: float
    bytes_per_seed: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a cell will cost; None where nothing comparable was measured.

    Args:
        seconds: of training that are left.
        bytes: of disk when finished.
    """

    seconds: float | None
    bytes: float | None


class Measurements:
    """Speeds and sizes of runs on this kind of machine."""

    def __init__(self, directories: Iterable[Path]) -> None:
        """Reads every run below the directories; what cannot be read is passed over.

        Args:
            directories: such as an output directory; missing ones hold nothing.
        """
        here = hardware()
        self._measured: dict[tuple[Any, ...], Measured] = {}
        for directory in dict.fromkeys(path.resolve() for path in directories):
            for config in sorted(directory.rglob("config.json")):
                self._read(config.parent, here)

    def _read(self, path: Path, here: dict[str, Any]) -> None:
        try:
            run = Run.load(path)
            there = run.config["sessions"][-1]["hardware"]
            if any(there.get(name) != here[name] for name in MACHINE):
                return
            measured = measure(run)
            key = _key(
                run.config["task"], run.config["algorithm"], run.config["algorithm_settings"]
            )
            if measured is not None:
                self._measured[key] = measured
        except (RunError, OSError, ArithmeticError, *_DAMAGE):
            return

    def estimate(self, cell: Cell, state: State) -> Estimate:
        """What is left to do for a cell.

        Args:
            cell: which.
            state: how far it is.
        """
        config = cell.resolved().config
        measured = self._measured.get(_key(cell.task, cell.algorithm, vars(config)))
        seeds = cell.settings["seeds"]
        if state is State.FINISHED:
            return Estimate(0.0, float(_size(cell.path)))
        if measured is None:
            return Estimate(None, None)
        steps = config.total_iterations * config.num_envs * config.horizon
        left = (steps - _steps_done(cell.path)) * seeds
        rows = config.total_iterations * seeds
        return Estimate(
            measured.startup + left / measured.steps_per_second,
            rows * measured.bytes_per_row + seeds * measured.bytes_per_seed,
        )


def measure(run: Run) -> Measured | None:
    """What a run has cost so far, None if it has not finished two iterations.

    Raises:
        OSError: if its metrics cannot be read.
    """
    table = run.metrics()
    rows = len(table["env_steps"])
    if rows == 0 or table["iteration"][-1] == table["iteration"][0]:
        return None
    seeds = len(run.seeds)
    steps, seconds = table["env_steps"].astype(float), table["seconds"]
    if not (steps[-1] > steps[0] and seconds[-1] > seconds[0] and seeds):
        return None
    rate = float((steps[-1] - steps[0]) / (seconds[-1] - seconds[0]))
    growing = run.metrics_path.stat().st_size + _size(run.path / "tensorboard")
    return Measured(
        startup=float(seconds[0] - steps[0] / rate),
        steps_per_second=rate * seeds,
        bytes_per_row=growing / rows,
        bytes_per_seed=(_size(run.path) - growing) / seeds,
    )


def describe(cells: Sequence[tuple[Cell, State, Estimate]]) -> list[str]:
    """One line per cell, and the sum."""
    lines = []
    for cell, state, estimate in cells:
        steps = cell.resolved().config.total_steps
        seeds = cell.settings["seeds"]
        todo = "done" if state is State.FINISHED else _about_time(estimate.seconds)
        lines.append(
            f"{cell.name}: {state.value}, {seeds} x {steps:,} steps, "
            f"time {todo}, disk {_about_size(estimate.bytes)}"
        )
    estimates = [estimate for _, _, estimate in cells]
    times = [each.seconds for each in estimates if each.seconds is not None]
    sizes = [each.bytes for each in estimates if each.bytes is not None]
    unknown = len(estimates) - len(times)
    total = f"{len(cells)} cells: time {_about_time(sum(times) if times else None)}"
    total += f", disk {_about_size(sum(sizes) if sizes else None)}"
    if unknown:
        total += (
            f"; not counted: {unknown} cells whose speed is unknown, because no run like them was "
            "measured on a machine like this"
        )
    lines.append(total)
    return lines


def _key(task: str, algorithm: str, settings: Any) -> tuple[Any, ...]:
    return task, algorithm, *(tuples(settings.get(name)) for name in COST)


def _steps_done(path: Path) -> int:
    try:
        steps = Run.load(path).metrics()["env_steps"]
    except (RunError, OSError, ValueError, LookupError):
        return 0
    return int(steps[-1]) if len(steps) else 0


def _size(path: Path) -> int:
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())


def _about_time(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return "unknown"
    return f"about {duration(math.ceil(seconds))}"


def _about_size(size: float | None) -> str:
    return "unknown" if size is None else f"about {size / 1e6:,.1f} MB"
