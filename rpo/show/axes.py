"""What every plot's axes have in common: names as their owners write them, ticks at round times."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, MultipleLocator

SPELLINGS = {"anymal": "ANYmal", "gippo": "GI-PPO"}
INTERVALS = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),  # up to half an hour
    *(hours * 3600 for hours in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
)
"""Seconds between two ticks of a time axis."""
MOST_INTERVALS = 7


def name_of_task(task: str) -> str:
    """Its name in a title; of a file's task its class, of a foreign one without the simulator."""
    name = task.rsplit(":", 1)[-1]
    return SPELLINGS.get(name, name[:1].upper() + name[1:])


def name_of_method(algorithm: str) -> str:
    """Its name in a legend."""
    return SPELLINGS.get(algorithm, algorithm.upper())


def frame(axes: Axes) -> None:
    """From zero on, with a quiet grid below the lines; call it after everything is drawn."""
    axes.set_xlim(left=0)
    axes.grid(color="#e3e6e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def show_steps(axes: Axes) -> None:
    """The horizontal axis counts environment steps."""
    axes.set_xlabel("environment steps")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))


def show_time(axes: Axes, words: str) -> None:
    """The horizontal axis is time in seconds; call it after everything is drawn.

    Args:
        axes: with a lower end of 0.
        words: what time it is.
    """
    longest = axes.get_xlim()[1]
    fitting = [seconds for seconds in INTERVALS if longest <= MOST_INTERVALS * seconds]
    hours = longest >= 2 * 3600
    axes.xaxis.set_major_locator(MultipleLocator(fitting[0] if fitting else INTERVALS[-1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda s, _: _clock(s, 3600 if hours else 60)))
    axes.set_xlabel(f"{words} ({'h:min' if hours else 'min:s'})")


def _clock(seconds: float, unit: int) -> str:
    whole, rest = divmod(round(seconds), unit)
    return f"{whole}:{rest * 60 // unit:02}"
