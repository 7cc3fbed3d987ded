from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from rpo.reproduce import cells, statistics, tables
from rpo.reproduce.cells import Cell, Plan, make_plan
from rpo.reproduce.targets import PANELS, VARIANTS, Budget, Target
from rpo.training import Run
from rpo.training.run_files import write_json
from tests.training.fakes import PENDULUM

T = TypeVar("T")
MODES = ("stochastic", "deterministic")

RPO, SHAC = VARIANTS["RPO"], VARIANTS["SHAC"]
CURVES = (PANELS["return"], PANELS["return over seconds"])
PAIR = Target(
    "A pair", "RPO is better.", (), (RPO, SHAC), panels=(*CURVES, PANELS["largest ratio"])
)
LIGHT = dataclasses.replace(PAIR, variants=(SHAC,))
"""The method of the two that compiles in half of the other's time."""

TINY = Budget(
    preset="fast",
    seeds=2,
    episodes=2,
    steps={"": 64 * 100},  # episodes have 200 steps
    settings={
        "": {
            "num_envs": 8,
            "horizon": 8,
            "actor_hidden_sizes": (8,),
            "critic_hidden_sizes": (8,),
            "critic_passes": 1,
        },
        "rpo": {"actor_epochs": 4},
    },
)


def remembered(statistic: Callable[..., T]) -> Callable[..., T]:
    """The same function, which computes equal questions once."""
    known: dict[tuple, T] = {}

    def ask(*scores: np.ndarray) -> T:
        question = tuple((one.shape, one.tobytes()) for one in scores)
        if question not in known:
            known[question] = statistic(*scores)
        return known[question]

    return ask


STATISTICS = {
    name: remembered(getattr(statistics, name))
    for name in ("summarize", "probability_of_improvement")
}


@pytest.fixture(autouse=True)
def statistics_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bootstrap is most of a report, and these tests report the same few scores."""
    for name, statistic in STATISTICS.items():
        monkeypatch.setattr(tables, name, statistic)


@pytest.fixture
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target and a budget that train in moments."""
    monkeypatch.setitem(cells.TARGETS, "pair", PAIR)
    monkeypatch.setitem(cells.BUDGETS, "tiny", TINY)


@pytest.fixture
def plan_pair(small_world: None, tmp_path: Path) -> Callable[..., Plan]:
    """Plans to compare RPO and SHAC on a pendulum."""

    def plan(tasks: Sequence[str] = (PENDULUM,), **settings) -> Plan:
        settings = {"budget": "tiny"} | settings
        return make_plan("pair", tmp_path / "output", tasks=tasks, **settings)

    return plan


def write_run(
    cell: Cell,
    scores: dict[str, list[float]] | None,
    *,
    iterations: int | None = None,
    seconds_per_iteration: float = 2.0,
    startup: float = 0.0,
    curves: dict[int, Callable[[int], float]] | None = None,
    columns: dict[str, float] | None = None,
) -> Run:
    """Writes the files that training a cell would leave.

    Args:
        cell: which.
        scores: mean return of each seed by way to act; None leaves the evaluation out.
        iterations: finished ones, by default all.
        seconds_per_iteration: of all seeds together.
        startup: seconds before the first iteration.
        curves: return by seed and iteration, by default the number of the iteration.
        columns: further metrics, constant.
    """
    run = Run.create(cell.path, cell.resolved())
    config = cell.resolved().config
    total = config.total_iterations
    columns = columns or {}
    lines = [
        "iteration,seed,env_steps,seconds,steps_per_second,episode_return," + ",".join(columns)
    ]
    lines[0] = lines[0].rstrip(",")
    for k in range(1, (total if iterations is None else iterations) + 1):
        for seed in run.seeds:
            value = curves[seed](k) if curves else float(k)
            seconds = startup + k * seconds_per_iteration
            figures = [k, seed, k * config.num_envs * config.horizon, seconds, 1]
            lines.append(",".join(map(str, [*figures, value, *columns.values()])))
    run.metrics_path.write_text("\n".join(lines) + "\n")
    if scores is not None:
        evaluation = {
            mode: {
                "checkpoint": "last",
                "checkpoint_name": f"iteration_{total:08d}",
                "episodes_per_seed": cell.settings["evaluation_episodes"],
                "mean_return_per_seed": scores[mode],
            }
            for mode in MODES
        }
        write_json(run.path / "evaluation.json", evaluation)
    return run
