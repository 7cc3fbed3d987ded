"""Figures of a target: lines are means over seeds, shades one standard deviation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from rpo.reproduce.cells import Plan
from rpo.reproduce.targets import PANELS, Panel
from rpo.show.axes import frame, name_of_task, show_steps, show_time
from rpo.show.curves import COLORS, Curve, band, by_seed, draw_band
from rpo.training import Run

STYLES = ("-", "--", ":")
FORMATS = ("png", "svg")
SMOOTHING = 0.02
"""Share of the iterations that a smoothed point is the mean of."""


def series(run: Run, panel: Panel) -> dict[int, Curve]:
    """What a panel draws of a run, by seed; seeds without a finite value are left out.

    Args:
        run: with metrics.
        panel: what to draw. Columns that the run lacks are left out of the mean; `Curve.returns`
            holds it, and `Curve.seconds` the time per seed.
    """
    table = run.metrics()
    columns = [table[name] for name in panel.columns if name in table]
    if not columns:
        return {}
    return {
        seed: dataclasses.replace(curve, seconds=curve.seconds / len(run.seeds))
        for seed, curve in by_seed(run, table, np.stack(columns).mean(axis=0)).items()
    }


def largest_fall(returns: Float[np.ndarray, " points"]) -> float:
    """How far a curve fell below what it had reached before."""
    return float((np.maximum.accumulate(returns) - returns).max())


def smoothed(curve: Curve) -> Curve:
    """The running mean over the iterations around each point, fewer at the ends."""
    half = round(SMOOTHING * len(curve.returns) / 2)
    total = np.concatenate([[0.0], np.cumsum(curve.returns)])
    index = np.arange(len(curve.returns))
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(index))
    return Curve(curve.steps, curve.seconds, (total[last] - total[first]) / (last - first))


def draw(plan: Plan, finished: Mapping[str, Run], directory: Path) -> list[Path]:
    """Draws a target's figure, one row per task and one column per panel.

    Args:
        plan: what was asked for.
        finished: runs by the name of their cell.
        directory: where the images go.

    Returns:
        the images, one per format; none if there is nothing to draw.

    Raises:
        OSError: if an image cannot be written.
    """
    tasks = [task for task in plan.tasks if any(_runs(plan, finished, task))]
    panels = plan.target.panels
    if not tasks or not panels:
        return []
    figure = Figure(figsize=(5.0 * len(panels), 3.9 * len(tasks)), layout="constrained")
    grid = figure.subplots(len(tasks), len(panels), squeeze=False)
    labels = dict.fromkeys(cell.label for cell in plan.cells)
    places = {label: k for k, label in enumerate(labels)}  # a method has one colour in all rows
    for task, row in zip(tasks, grid, strict=True):
        runs = dict(_runs(plan, finished, task))
        chosen = {
            label: _chosen_seeds(run, plan.target.unstable_seeds) for label, run in runs.items()
        }
        for axes, panel in zip(row, panels, strict=True):
            _draw_panel(axes, panel, runs, chosen, places, single=plan.target.unstable_seeds > 0)
        row[0].set_title(name_of_task(task), loc="left", fontweight="bold")
    paths = [directory / f"figure.{suffix}" for suffix in FORMATS]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _runs(plan: Plan, finished: Mapping[str, Run], task: str) -> list[tuple[str, Run]]:
    return [
        (cell.label, finished[cell.name])
        for cell in plan.cells
        if cell.task == task and cell.name in finished
    ]


def _chosen_seeds(run: Run, count: int) -> list[int]:
    """All seeds, or the `count` whose return fell furthest."""
    if not count:
        return run.seeds
    falls = {
        seed: largest_fall(curve.returns) for seed, curve in series(run, PANELS["return"]).items()
    }
    return sorted(falls, key=lambda seed: -falls[seed])[:count]


def _draw_panel(
    axes: Axes,
    panel: Panel,
    runs: Mapping[str, Run],
    chosen: Mapping[str, Sequence[int]],
    places: Mapping[str, int],
    *,
    single: bool,
) -> None:
    drawn = 0
    for label, run in runs.items():
        k = places[label]
        curves = {s: c for s, c in series(run, panel).items() if s in chosen[label]}
        if single:
            for j, (seed, curve) in enumerate(curves.items()):
                color = COLORS[(k * 3 + j) % len(COLORS)]
                _draw_seed(axes, panel, curve, f"{label}, seed {seed}", color)
        elif curves:
            style = STYLES[k // len(COLORS) % len(STYLES)]
            _draw_band(axes, panel, list(curves.values()), label, COLORS[k % len(COLORS)], style)
        drawn += len(curves)
    _label(axes, panel)
    if drawn:
        axes.legend(frameon=False, loc="best", fontsize="small")
    else:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="#5a6472")


def _draw_band(
    axes: Axes, panel: Panel, curves: list[Curve], label: str, color: str, style: str
) -> None:
    shown = [smoothed(curve) for curve in curves] if panel.smooth else curves
    floor = -np.inf
    if panel.log:  # the shade may not reach zero
        floor = float(min(curve.returns.min() for curve in shown))
    draw_band(axes, band(shown, panel.axis), label, len(curves), color, style, floor)


def _draw_seed(axes: Axes, panel: Panel, curve: Curve, label: str, color: str) -> None:
    x = getattr(curve, panel.axis)
    if panel.smooth:
        axes.plot(x, curve.returns, color=color, alpha=0.3, linewidth=0.8)
        curve = smoothed(curve)
    axes.plot(x, curve.returns, color=color, linewidth=1.6, label=label)


def _label(axes: Axes, panel: Panel) -> None:
    axes.set_ylabel(panel.title)
    frame(axes)
    if panel.axis == "steps":
        show_steps(axes)
    else:
        show_time(axes, "training time per seed")
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter("{x:g}")
