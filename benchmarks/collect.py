"""Gather finished runs into a folder small enough to commit: table, curves, where they came from.

    python benchmarks/collect.py runs/ant-* --output results/ant

writes `README.md` (returns of every seed, interquartile mean, mean, deviation and range over seeds,
commands, versions, hardware, date), `curves.png` and `curves.csv` (200 points per run).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import trim_mean

from rpo.errors import RunError
from rpo.show.curves import curves_of, plot_runs
from rpo.training import Run

POINTS = 200
FEWEST_FOR_RANGE = 5
"""Seeds from which on the range and the interquartile mean are shown."""


def returns_of(run: Run, kind: str) -> list[float]:
    """Mean return of each seed in the run's evaluation of its last checkpoint.

    Raises:
        RunError: if the run has no such evaluation yet.
    """
    evaluation = (run.evaluation() or {}).get(kind)
    if evaluation is None:
        raise RunError(f"{run.path} has no {kind} evaluation; finish it first")
    return [float(value) for value in evaluation["mean_return_per_seed"]]


def rows_of(run: Run) -> list[dict[str, Any]]:
    """One row per seed: evaluation and how long the training took."""
    stochastic, deterministic = (returns_of(run, k) for k in ("stochastic", "deterministic"))
    return [
        {
            "run": run.path.name + (f", seed {run.seeds[k]}" if len(run.seeds) > 1 else ""),
            "key": (run.config["task"], run.config["algorithm"], run.config["preset"]),
            "steps": int(curve.steps[-1]),
            "minutes": float(curve.seconds[-1]) / 60 / len(run.seeds),  # they share the program
            "stochastic": stochastic[k],
            "deterministic": deterministic[k],
        }
        for k, curve in enumerate(curves_of(run))
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table: one line per seed, then a summary of each method.

    The interquartile mean leaves out the lowest and the highest quarter of the seeds.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["key"]].append(row)
    lines = [
        "| run | steps | minutes | stochastic return | deterministic return |",
        "|---|---|---|---|---|",
    ]
    for key, members in groups.items():
        for row in members:
            lines.append(
                f"| {row['run']} | {row['steps']:,} | {row['minutes']:.1f} | "
                f"{row['stochastic']:.0f} | {row['deterministic']:.0f} |"
            )
        minutes = np.mean([row["minutes"] for row in members])
        kinds = [[row[kind] for row in members] for kind in ("stochastic", "deterministic")]
        name = f"{' '.join(key)}, {len(members)} seeds"
        lines.append(f"| **{name}: mean ± std** | | **{minutes:.1f}** | {_cells(kinds, _spread)} |")
        if len(members) >= FEWEST_FOR_RANGE:
            lines.append(f"| **interquartile mean** | | | {_cells(kinds, _middle)} |")
            lines.append(f"| **lowest to highest** | | | {_cells(kinds, _range)} |")
    return "\n".join(lines)


def _cells(kinds: list[list[float]], show: Callable[[list[float]], str]) -> str:
    return " | ".join(f"**{show(values)}**" for values in kinds)


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.0f} ± {np.std(values):.0f}"


def _middle(values: list[float]) -> str:
    return f"{trim_mean(values, 0.25):.0f}"


def _range(values: list[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}"


def origin(runs: list[Run]) -> str:
    """Commands, and what they ran on."""
    session = runs[0].config["sessions"][-1]
    versions = ", ".join(f"{name} {number}" for name, number in session["versions"].items())
    hardware = ", ".join(f"{name} {value}" for name, value in session["hardware"].items())
    commits = {s["git"]["commit"][:12] for r in runs for s in r.config["sessions"] if s["git"]}
    commands = [s["command"] for run in runs for s in run.config["sessions"]]
    dates = sorted(s["date"] for run in runs for s in run.config["sessions"])
    return "\n".join(
        [
            "```sh",
            *commands,
            "```",
            "",
            f"- dates: {dates[0]} to {dates[-1]}",
            f"- versions: {versions}",
            f"- hardware: {hardware}",
            f"- commits: {', '.join(sorted(commits)) or 'unknown'}",
        ]
    )


def write_curves(runs: list[Run], path: Path) -> None:
    """CSV of every run's curve, thinned."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "seed", "env_steps", "seconds", "episode_return"])
        for run in runs:
            for seed, curve in zip(run.seeds, curves_of(run), strict=True):
                last = len(curve.steps) - 1
                for k in np.unique(np.linspace(0, last, POINTS).astype(int)):
                    point = (int(curve.steps[k]), f"{curve.seconds[k]:.1f}")
                    writer.writerow([run.path.name, seed, *point, f"{curve.returns[k]:.1f}"])


def main() -> None:
    """Parse, gather, write."""
    parser = argparse.ArgumentParser(description="Gather finished runs into a small folder.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--title", default="Training runs")
    args = parser.parse_args()
    try:
        runs = [Run.load(path) for path in args.runs]
        rows = [row for run in runs for row in rows_of(run)]
        args.output.mkdir(parents=True, exist_ok=True)
        plot_runs(runs, args.output / "curves.png")
    except (RunError, OSError) as error:
        sys.exit(f"collect: {error}")
    write_curves(runs, args.output / "curves.csv")
    text = f"# {args.title}\n\n![curves](curves.png)\n\n{table(rows)}\n\n{origin(runs)}\n"
    (args.output / "README.md").write_text(text)
    print(table(rows))


if __name__ == "__main__":
    main()
