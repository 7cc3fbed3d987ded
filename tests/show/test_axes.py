"""Names and ticks that all plots share."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from rpo.show.axes import MOST_INTERVALS, frame, name_of_method, name_of_task, show_time
from rpo.show.curves import Curve, plot_runs


@pytest.mark.parametrize(
    ("longest", "last", "words"),
    [
        (3, "0:03", "time (min:s)"),
        (95, "1:30", "time (min:s)"),
        (1720, "25:00", "time (min:s)"),
        (2 * 3600, "2:00", "time (h:min)"),
        (9 * 3600 + 1800, "8:00", "time (h:min)"),
        (9e6, "2500:00", "time (h:min)"),
    ],
)
def test_ticks_stand_at_round_times(longest, last, words):
    axes = Figure().subplots()
    axes.plot([0, longest], [0, 1])
    frame(axes)
    axes.set_xlim(right=longest)
    show_time(axes, "time")
    ticks = [tick for tick in axes.get_xticks() if 0 <= tick <= longest]
    assert axes.xaxis.get_major_formatter()(ticks[-1], 0) == last
    assert axes.get_xlabel() == words
    assert 3 <= len(ticks) <= MOST_INTERVALS + 1


def test_names_are_written_as_their_owners_write_them():
    tasks = ("ant", "anymal", "tasks/slope.py:Slope", "brax:reacher")
    assert [name_of_task(task) for task in tasks] == ["Ant", "ANYmal", "Slope", "Reacher"]
    assert [name_of_method(name) for name in ("rpo", "gippo")] == ["RPO", "GI-PPO"]


def test_a_method_has_one_colour_in_all_rows(monkeypatch, tmp_path):
    def run(task, algorithm):
        config = {"task": task, "algorithm": algorithm, "preset": "fast"}
        return SimpleNamespace(path=tmp_path / f"{task}-{algorithm}", config=config)

    figures = []
    curve = Curve(np.arange(3.0), np.arange(3.0), np.arange(3.0))
    monkeypatch.setattr("rpo.show.curves.curves_of", lambda run, metric: [curve])
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: figures.append(self))
    monkeypatch.setattr("rpo.show.curves.replacing", nullcontext)
    runs = [run("hopper", "rpo"), run("hopper", "shac"), run("ant", "shac")]
    plot_runs(runs, tmp_path / "curves.png")
    hopper, _, ant, _ = figures[0].axes
    assert hopper.lines[1].get_color() == ant.lines[0].get_color() != hopper.lines[0].get_color()
