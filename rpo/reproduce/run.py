"""`rpo reproduce`: train what a target of the paper needs, then write its tables and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from rpo.errors import one_line
from rpo.reproduce.cells import Cell, Plan, State
from rpo.reproduce.estimates import Measurements, describe
from rpo.reproduce.executors import Executor, Result
from rpo.training import Run, RunError, SettingsError

MEASURED = Path("results")
"""Where committed evidence lies, beside the output directory."""

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a plan.

    Args:
        finished: runs of all finished cells, by cell.
        failed: one line on every other cell.
        page: the page that shows everything reproduced in the output directory so far.
    """

    finished: dict[str, Run]
    failed: dict[str, str]
    page: Path


def dry_run(plan: Plan, say: Say = print) -> bool:
    """Says what would be trained, how long it would take and how much disk it would need.

    Args:
        plan: what to do.
        say: told one line at a time.

    Returns:
        whether every cell could be trained.
    """
    measurements = Measurements([plan.output, MEASURED])
    cells, good = [], True
    _announce(plan, say)
    for cell in plan.cells:
        try:
            state = cell.state()
        except (RunError, SettingsError) as error:
            say(f"{cell.name}: cannot be trained: {error}")
            good = False
            continue
        cells.append((cell, state, measurements.estimate(cell, state)))
    for line in describe(cells):
        say(line)
    return good


def reproduce(plan: Plan, executor: Executor, say: Say = print) -> Outcome:
    """Trains what is missing of a plan, and writes its tables, figures and page.

    Finished cells are skipped and interrupted ones continued; the failure of one cell is reported
    and does not stop the others.

    Args:
        plan: what to do.
        executor: where cells are trained.
        say: told one line at a time.

    Raises:
        KeyboardInterrupt: if interrupted; the same plan continues.
        OSError: if something cannot be written.
    """
    from rpo.reproduce.page import write_page
    from rpo.reproduce.tables import write_report

    _announce(plan, say)
    failed: dict[str, str] = {}
    pending: list[Cell] = []
    for cell in plan.cells:
        try:
            state = cell.state()
        except (RunError, SettingsError) as error:
            failed[cell.name] = one_line(error)
            say(f"{cell.name}: failed: {failed[cell.name]}")
            continue
        if state is State.FINISHED:
            say(f"{cell.name}: finished before")
        else:
            say(f"{cell.name}: {'to be continued' if state is State.INTERRUPTED else 'new'}")
            pending.append(cell)
    for count, result in enumerate(_results(executor, pending, say), 1):
        trouble = result.error or _unfinished(result.cell)
        if trouble is not None:
            failed[result.cell.name] = trouble
        what = "finished" if trouble is None else f"failed: {trouble}"
        say(f"[{count} of {len(pending)}] {result.cell.name}: {what}")
    finished = _readable(plan, failed, say)
    write_report(plan, finished, failed)
    page = write_page(plan.output)
    say(f"tables and figures: {plan.report}")
    say(f"page: {page}")
    return Outcome(finished, failed, page)


def _readable(plan: Plan, failed: dict[str, str], say: Say) -> dict[str, Run]:
    """Runs of the cells whose results can be read; the others are entered into `failed`."""
    from rpo.reproduce.tables import results_of

    finished = {}
    for cell in plan.cells:
        if cell.name in failed:
            continue
        try:
            run = Run.load(cell.path)
            results_of(run, plan.target.mode)
            finished[cell.name] = run
        except RunError as error:
            failed[cell.name] = one_line(error)
            say(f"{cell.name}: failed: {failed[cell.name]}")
    return finished


def _results(executor: Executor, cells: list[Cell], say: Say) -> Iterator[Result]:
    try:
        yield from executor.run(cells)
    except KeyboardInterrupt:
        say("interrupted; the same command continues")
        raise


def _announce(plan: Plan, say: Say) -> None:
    say(f"{plan.name} ({plan.target.title}), budget {plan.budget}: {len(plan.cells)} cells")


def _unfinished(cell: Cell) -> str | None:
    """What is wrong with a cell that is said to be finished."""
    try:
        state = cell.state()
    except (RunError, SettingsError) as error:
        return one_line(error)
    return None if state is State.FINISHED else "the training ended without being finished"
