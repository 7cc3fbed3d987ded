"""Tables of a target: our results beside the paper's, in Markdown and CSV."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rpo.reproduce.cells import Cell, Plan
from rpo.reproduce.statistics import Estimate, Summary, probability_of_improvement, summarize
from rpo.training import Run, RunError
from rpo.training.run_files import write_json

Table = list[list[str]]
"""Rows of cells; the first row is the heading."""

UNKNOWN = "-"
BASELINE = "RPO"


@dataclasses.dataclass(frozen=True)
class Results:
    """What a finished run has come to.

    Args:
        scores: mean return of each seed's evaluation, finite.
        episodes: per seed.
        steps: environment steps of each seed.
        minutes: of training per seed.
    """

    scores: Float[np.ndarray, " seeds"]
    episodes: int
    steps: int
    minutes: float


def results_of(run: Run, mode: str) -> Results:
    """The results of a finished run, whose policies acted in this way.

    Raises:
        RunError: if its evaluation or its metrics are not what they should be.
    """
    try:
        evaluation = (run.evaluation() or {})[mode]
        scores = np.array(evaluation["mean_return_per_seed"], dtype=float)
        if scores.shape != (len(run.seeds),) or not np.isfinite(scores).all():
            raise ValueError(f"{scores.size} returns of {len(run.seeds)} seeds, or not finite")
        table = run.metrics()
        return Results(
            scores,
            int(evaluation["episodes_per_seed"]),
            int(table["env_steps"][-1]),
            float(table["seconds"][-1]) / len(run.seeds) / 60,
        )
    except (OSError, LookupError, ValueError, TypeError, ZeroDivisionError) as error:
        raise RunError(f"{run.path}: results cannot be read: {error!r}") from error


@dataclasses.dataclass(frozen=True)
class Row:
    """Results of one variant on one task.

    Args:
        cell: its training.
        results: of its run.
        summary: of the scores.
        paper: the paper's mean and standard deviation.
    """

    cell: Cell
    results: Results
    summary: Summary
    paper: tuple[float, float] | None


def rows_of(plan: Plan, finished: Mapping[str, Run]) -> list[Row]:
    """Results of all finished cells, in the order of the plan.

    Raises:
        RunError: if a run's evaluation is not what it should be.
    """
    rows = []
    for cell in plan.cells:
        if cell.name not in finished:
            continue
        results = results_of(finished[cell.name], plan.target.mode)
        paper = plan.target.paper.get(cell.task, {}).get(cell.label)
        rows.append(Row(cell, results, summarize(results.scores[:, None]), paper))
    return rows


def comparison(plan: Plan, rows: Sequence[Row]) -> Table:
    """Mean and standard deviation over seeds by variant and task, the paper's beside ours."""
    with_paper = bool(plan.target.paper)
    heading = [""]
    for task in plan.tasks:
        heading += [f"{_name(task)}, ours"] + [f"{_name(task)}, paper"] * with_paper
    table = [heading]
    found = {(row.cell.task, row.cell.label): row for row in rows}
    for label in dict.fromkeys(variant.label for variant in plan.target.variants):
        line = [label]
        for task in plan.tasks:
            row = found.get((task, label))
            line.append(_plus_minus((row.summary.mean.value, row.summary.std)) if row else UNKNOWN)
            if with_paper:
                line.append(_plus_minus(plan.target.paper.get(task, {}).get(label)))
        table.append(line)
    return table


def details(rows: Sequence[Row]) -> Table:
    """Interquartile means, bootstrap intervals, seeds, steps and time."""
    table = [
        [
            *("task", "variant", "mean (95 %)", "interquartile mean (95 %)", "std"),
            *("seeds", "episodes", "steps", "minutes per seed"),
        ]
    ]
    for row in rows:
        results, summary = row.results, row.summary
        table.append(
            [
                _name(row.cell.task),
                row.cell.label,
                _interval(summary.mean),
                _interval(summary.interquartile_mean),
                f"{summary.std:,.1f}" if summary.seeds > 1 else UNKNOWN,
                str(summary.seeds),
                str(results.episodes),
                f"{results.steps:,}",
                f"{results.minutes:,.1f}",
            ]
        )
    return table


def improvement(plan: Plan, rows: Sequence[Row]) -> Table:
    """Over all tasks: normalised scores, and the probability that a seed of RPO beats another's.

    Scores are divided by the magnitude of RPO's mean on the task. A variant is compared on the
    tasks that both it and RPO were trained on.
    """
    scores: dict[str, dict[str, Any]] = {}
    for row in rows:
        scores.setdefault(row.cell.label, {})[row.cell.task] = row.results.scores
    base = scores.get(BASELINE, {})
    table = [
        [
            *("variant", "tasks", "normalised mean (95 %)", "normalised interquartile mean (95 %)"),
            f"probability that {BASELINE} is better (95 %)",
        ]
    ]
    for label, by_task in scores.items():
        tasks = [task for task in plan.tasks if task in by_task and task in base]
        if not tasks or not all(base[task].mean() for task in tasks):
            continue
        own = np.stack([by_task[task] / abs(base[task].mean()) for task in tasks], axis=1)
        other = np.stack([base[task] / abs(base[task].mean()) for task in tasks], axis=1)
        summary = summarize(own)
        better = "" if label == BASELINE else _better(other, own)
        table.append(
            [
                label,
                ", ".join(map(_name, tasks)),
                _interval(summary.mean, 3),
                _interval(summary.interquartile_mean, 3),
                better,
            ]
        )
    return table if len(table) > 2 else []


def _better(first: np.ndarray, second: np.ndarray) -> str:
    if min(len(first), len(second)) < 2:  # of two seeds one is better, which says little
        return UNKNOWN
    return _interval(probability_of_improvement(first, second), 2)


def orders(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """One line per task: whether the order of the methods is the paper's."""
    lines = []
    for task in plan.tasks:
        both = [row for row in rows if row.cell.task == task and row.paper is not None]
        if len(both) < 2:
            continue
        ours = sorted(both, key=lambda row: -row.summary.mean.value)
        papers = sorted(both, key=lambda row: -(row.paper or (0.0, 0.0))[0])
        here, there = (" > ".join(row.cell.label for row in order) for order in (ours, papers))
        if here == there:
            lines.append(f"{_name(task)}: the order is the paper's: {here}")
        else:
            lines.append(f"{_name(task)}: the order differs: {here}; the paper's: {there}")
    return lines


def write_report(plan: Plan, finished: Mapping[str, Run], failed: Mapping[str, str]) -> None:
    """Writes a target's tables and figures, and what the page needs to show them.

    Args:
        plan: what was asked for.
        finished: runs by the name of their cell.
        failed: one line for each other cell.

    Raises:
        RunError: if a run's results cannot be read.
        OSError: if something cannot be written.
    """
    from rpo.reproduce.figures import draw

    plan.report.mkdir(parents=True, exist_ok=True)
    rows = rows_of(plan, finished)
    tables = {
        f"Final return, {plan.target.mode}: mean ± std over seeds": comparison(plan, rows),
        "Statistics": details(rows),
        "Over all tasks": improvement(plan, rows),
    }
    tables = {title: table for title, table in tables.items() if len(table) > 1}
    lines = orders(plan, rows)
    (plan.report / "table.md").write_text(_markdown(plan, tables, lines, failed), encoding="utf-8")
    _write_csv(plan.report / "table.csv", plan, rows)
    figures = draw(plan, finished, plan.report)
    facts = {
        "target": plan.name,
        "budget": plan.budget,
        "title": plan.target.title,
        "claim": plan.target.claim,
        "note": plan.target.note,
        "command": plan.command(),
        "figures": [path.name for path in figures],
        "tables": tables,
        "orders": lines,
        "failed": dict(failed),
        "cells": {cell.name: cell.command() for cell in plan.cells},
    }
    write_json(plan.report / "report.json", facts)


def _markdown(
    plan: Plan, tables: Mapping[str, Table], orders: Sequence[str], failed: Mapping[str, str]
) -> str:
    parts = [f"# {plan.target.title} ({plan.name}, budget {plan.budget})"]
    parts += [f"The paper: {plan.target.claim}", plan.target.note, f"`{plan.command()}`"]
    for title, table in tables.items():
        parts += [f"## {title}", markdown_table(table)]
    parts.append("\n".join(f"- {line}" for line in orders))
    parts.append("\n".join(f"- failed: {name}: {line}" for name, line in failed.items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table) -> str:
    """A table in Markdown, columns aligned."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in table]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])


def _write_csv(path: Path, plan: Plan, rows: Sequence[Row]) -> None:
    columns = ["target", "budget", "task", "variant", "evaluation", "seeds", "episodes_per_seed"]
    columns += ["env_steps", "minutes_per_seed", "mean", "std", "mean_low", "mean_high"]
    columns += ["interquartile_mean", "interquartile_mean_low", "interquartile_mean_high"]
    columns += ["paper_mean", "paper_std", "scores", "command"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            cell, results, summary = row.cell, row.results, row.summary
            figures = [results.minutes, summary.mean.value, summary.std]
            figures += [summary.mean.low, summary.mean.high]
            figures += dataclasses.astuple(summary.interquartile_mean)
            texts = [f"{x:.6g}" if math.isfinite(x) else "" for x in figures]
            paper = [f"{x:g}" for x in row.paper] if row.paper else ["", ""]
            scores = " ".join(f"{x:.6g}" for x in results.scores)
            writer.writerow(
                [
                    *(plan.name, plan.budget, _name(cell.task), cell.label, plan.target.mode),
                    *(summary.seeds, results.episodes, results.steps),
                    *(*texts, *paper, scores, cell.command()),
                ]
            )


def _name(task: str) -> str:
    return task.rsplit(":", 1)[-1].lower()


def _plus_minus(figures: tuple[float, float] | None) -> str:
    if figures is None:
        return UNKNOWN
    mean, std = figures
    return f"{mean:,.1f} ± {std:,.1f}" if math.isfinite(std) else f"{mean:,.1f}"


def _interval(estimate: Estimate, digits: int = 1) -> str:
    value = f"{estimate.value:,.{digits}f}"
    if not math.isfinite(estimate.low):
        return value
    return f"{value} ({estimate.low:,.{digits}f} to {estimate.high:,.{digits}f})"
