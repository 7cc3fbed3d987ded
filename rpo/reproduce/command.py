"""The command `rpo reproduce`."""

from __future__ import annotations

import dataclasses
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rpo.errors import SettingsError
from rpo.reproduce.cells import make_plan
from rpo.reproduce.executors import LocalExecutor, RayExecutor, require_shares
from rpo.reproduce.run import dry_run, reproduce


@dataclasses.dataclass(frozen=True)
class ReproduceArguments:
    """Trains what a table or figure of the paper needs, and writes it; the same command goes on.

    Args:
        target: table1, table6, or one of figure1 and figure3 to figure13.
        budget: smoke shows in minutes that everything runs, short compares, paper is the full one.
        tasks: instead of the paper's.
        seeds: instead of the budget's.
        executor: one training after the other on this machine, or all on a Ray cluster.
        cpus_per_cell: cores that Ray sets aside for each training, from 1 to 4,096.
        gpus_per_cell: the same for GPUs, at most 1,024; below 1 a share of one.
        output: directory of runs, tables, figures and the page that shows them.
        dry_run: only say what would be trained, how long it takes and what disk it needs.
    """

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TARGET")]
    budget: str = "smoke"
    tasks: tuple[str, ...] = ()
    seeds: int | None = None
    executor: Literal["local", "ray"] = "local"
    cpus_per_cell: int = 1
    gpus_per_cell: float = 0
    output: Path = Path("reproduction")
    dry_run: bool = False


def run(given: ReproduceArguments) -> int:
    """Does what was asked for, and prints what happens.

    Returns:
        the exit status: 0 all well, 1 a cell failed.

    Raises:
        SettingsError: if a name is unknown or a value out of range.
        KeyboardInterrupt: if interrupted; the same command continues.
        OSError: if something cannot be written.
    """
    require_shares(given.executor, given.cpus_per_cell, given.gpus_per_cell)  # of a dry run, too
    plan = make_plan(
        given.target, given.output, budget=given.budget, tasks=given.tasks, seeds=given.seeds
    )
    if not given.dry_run and find_spec("rliable") is None:
        raise SettingsError("statistics need rliable: pip install 'rpo-jax[reproduce]'")
    if given.dry_run:
        return 0 if dry_run(plan) else 1
    if given.executor == "local":
        executor = LocalExecutor(given.output / "logs")
    else:
        executor = RayExecutor(cpus_per_cell=given.cpus_per_cell, gpus_per_cell=given.gpus_per_cell)
    outcome = reproduce(plan, executor, lambda line: print(line, flush=True))
    for name, why in outcome.failed.items():
        print(f"error: {name}: {why}", file=sys.stderr)
    return 1 if outcome.failed else 0
