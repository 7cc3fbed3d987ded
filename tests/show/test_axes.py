"""Names and ticks that all plots share."""

import pytest
from matplotlib.figure import Figure

from rpo.show.axes import MOST_INTERVALS, frame, name_of_method, name_of_task, show_time


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
