"""Learning curves: any metric, by default the return, over steps and over seconds."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rpo.errors import RunError
from rpo.show.axes import frame, name_of_method, name_of_task, show_steps, show_time
from rpo.training.files import replacing
from rpo.training.metrics import KEY_COLUMNS, WALL_CLOCK_COLUMNS, Table
from rpo.training.run import Run

RETURN = "episode_return"
COLORS = ("#0b6e99", "#d1603d", "#5b8e3e", "#8a5a9e", "#b08d1e", "#5a6472")
GRID_POINTS = 400


@dataclasses.dataclass(frozen=True)
class Curve:
    """One training with one seed.

    Args:
        steps: environment steps.
        seconds: of training.
        returns: values of the metric; by default the mean return of the last 100 finished episodes.
    """

    steps: Float[np.ndarray, " points"]
    seconds: Float[np.ndarray, " points"]
    returns: Float[np.ndarray, " points"]


@dataclasses.dataclass(frozen=True)
class Band:
    """Mean and standard deviation of several curves on a common axis.

    Args:
        x: common axis, as far as every curve reaches.
        mean: over curves.
        std: over curves.
    """

    x: Float[np.ndarray, " points"]
    mean: Float[np.ndarray, " points"]
    std: Float[np.ndarray, " points"]


def curves_of(run: Run, metric: str = RETURN) -> list[Curve]:
    """One curve per seed, from the metric's first finite value on.

    Args:
        run: whose.
        metric: a column of its metrics.

    Raises:
        RunError: if the run has no metrics, or not this one.
    """
    if not run.metrics_path.exists():
        raise RunError(f"{run.path} has no metrics yet")
    try:
        table = run.metrics()
    except (OSError, ValueError) as error:
        raise RunError(f"{run.metrics_path} cannot be read: {error}") from error
    if metric not in table:
        if not len(table["seed"]):
            return []  # no row yet
        if metric == RETURN:
            raise RunError(f"{run.metrics_path} is damaged: it has no column {RETURN}")
        known = [name for name in table if name not in (*KEY_COLUMNS, *WALL_CLOCK_COLUMNS)]
        close = difflib.get_close_matches(metric, known, n=3) or known
        raise RunError(f"{run.path} has no metric {metric!r}; there is {', '.join(close)}")
    return list(by_seed(run, table, table[metric]).values())


def by_seed(run: Run, table: Table, values: Float[np.ndarray, " rows"]) -> dict[int, Curve]:
    """The curves of a run's seeds; those without a finite value are left out.

    Args:
        run: whose.
        table: its metrics.
        values: one for each row of the table; where one is not finite, the curve has no point.
    """
    curves = {}
    for seed in run.seeds:
        rows = (table["seed"] == seed) & np.isfinite(values)
        if rows.any():
            curves[seed] = Curve(
                table["env_steps"][rows].astype(float), table["seconds"][rows], values[rows]
            )
    return curves


def band(curves: Sequence[Curve], axis: str) -> Band:
    """Mean and standard deviation over curves, interpolated onto a common axis.

    Args:
        curves: at least one.
        axis: "steps" or "seconds".
    """
    axes = [getattr(curve, axis) for curve in curves]
    start, end = max(x[0] for x in axes), min(x[-1] for x in axes)
    grid = np.linspace(start, max(start, end), GRID_POINTS)
    values = np.stack(
        [np.interp(grid, x, curve.returns) for x, curve in zip(axes, curves, strict=True)]
    )
    return Band(grid, values.mean(axis=0), values.std(axis=0))


@matplotlib.rc_context({"text.parse_math": False})  # names are not formulas
def plot_runs(runs: Sequence[Run], output: Path, metric: str = RETURN) -> Path:
    """Draws runs, one row per task; runs that differ only in their seeds become one line.

    A line is the mean over seeds, the shade around it one standard deviation.

    Args:
        runs: at least one, each once.
        output: image file; its suffix decides on the format.
        metric: a column of the runs' metrics.

    Returns:
        `output`.

    Raises:
        RunError: if no run has a finished episode yet, one is named twice, or the format is
            unknown.
        OSError: if the file cannot be written.
    """
    places = [run.path.resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:  # its seeds would count twice in mean and deviation
            raise RunError(f"{run.path} is named twice")
    groups = _grouped(runs, metric)
    if not groups:
        words = "has finished an episode" if metric == RETURN else f"has a value of {metric}"
        raise RunError(f"nothing to plot: no run {words} yet")
    figure = Figure(figsize=(10, 3.9 * len(groups)), layout="constrained")
    if output.suffix.lstrip(".") not in figure.canvas.get_supported_filetypes():
        raise RunError(f"{output} has no image suffix that is known, such as .png or .svg")
    rows = figure.subplots(len(groups), 2, squeeze=False, sharey="row")
    labels = list(dict.fromkeys(label for lines in groups.values() for label in lines))
    for (task, lines), (over_steps, over_seconds) in zip(groups.items(), rows, strict=True):
        for label, curves in lines.items():
            color = COLORS[labels.index(label) % len(COLORS)]  # the same in every row
            draw_band(over_steps, band(curves, "steps"), label, len(curves), color)
            draw_band(over_seconds, band(curves, "seconds"), label, len(curves), color)
        _label(over_steps, over_seconds, task, metric)
    with replacing(output) as temporary:
        figure.savefig(temporary, dpi=150)
    return output


def _grouped(runs: Sequence[Run], metric: str) -> dict[str, dict[str, list[Curve]]]:
    """Curves by task and label; the preset is named only where a method has several."""
    presets: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        key = (run.config["task"], run.config["algorithm"])
        presets.setdefault(key, set()).add(run.config["preset"])
    groups: dict[str, dict[str, list[Curve]]] = {}
    for run in runs:
        task, algorithm = run.config["task"], run.config["algorithm"]
        label = name_of_method(algorithm)
        if len(presets[task, algorithm]) > 1:
            label += f" ({run.config['preset']})"
        curves = curves_of(run, metric)
        if curves:
            groups.setdefault(task, {}).setdefault(label, []).extend(curves)
    return groups


def draw_band(
    axes: Axes,
    line: Band,
    label: str,
    seeds: int,
    color: str,
    style: str = "-",
    floor: float = -np.inf,
) -> None:
    """Draws a mean as a line, and one standard deviation as a shade around it.

    Args:
        axes: where.
        line: of so many seeds; a single one has no shade.
        label: in the legend, to which their number is added.
        seeds: how many.
        color: of line and shade.
        style: of the line.
        floor: below which the shade does not reach.
    """
    words = f"{label}, {seeds} seed{'s' if seeds > 1 else ''}"
    axes.plot(line.x, line.mean, color=color, linestyle=style, linewidth=1.8, label=words)
    if seeds > 1:
        low, high = np.maximum(line.mean - line.std, floor), line.mean + line.std
        axes.fill_between(line.x, low, high, color=color, alpha=0.2, linewidth=0)


def _label(over_steps: Axes, over_seconds: Axes, task: str, metric: str) -> None:
    words = "return (mean of last 100 episodes)"
    over_steps.set_ylabel(words if metric == RETURN else metric.replace("_", " "))
    for axes in (over_steps, over_seconds):
        axes.set_title(name_of_task(task), loc="left", fontweight="bold")
        frame(axes)
    show_steps(over_steps)
    show_time(over_seconds, "training time")
    over_steps.legend(frameon=False, loc="best")
