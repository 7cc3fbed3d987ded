"""What a user sees while training: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text


@dataclasses.dataclass(frozen=True)
class Status:
    """How far a run is.

    Args:
        env_steps: taken by each seed.
        total_steps: to be taken by each seed.
        steps_per_second: recent rate, all seeds together.
        seconds_left: at that rate.
        episode_return: mean over seeds of the last 100 finished episodes; NaN before the first.
        best_return: the highest of these so far in this session; NaN likewise.
    """

    env_steps: int
    total_steps: int
    steps_per_second: float
    seconds_left: float
    episode_return: float
    best_return: float = math.nan

    def text(self, *, of_total: bool = True) -> str:
        """One line; without the number of steps it leaves room for a bar on 80 columns."""
        share = f"{100 * self.env_steps / self.total_steps:.1f} %"
        if of_total:
            share = f"{self.env_steps:,} of {self.total_steps:,} steps ({share})"
        known = math.isfinite(self.episode_return)
        now = f"{self.episode_return:,.1f}" if known else "none yet"
        best = f", best {self.best_return:,.1f}" if math.isfinite(self.best_return) else ""
        return (
            f"{share}, {self.steps_per_second:,.0f} steps/s, {duration(self.seconds_left)} left, "
            f"return {now}{best}"
        )


class Reporter:
    """Where the training program reports to; by itself it says nothing."""

    def phase(self, what: str) -> None:
        """Says what the program is doing from now on."""

    def message(self, text: str) -> None:
        """Says something that stays."""

    def status(self, status: Status) -> None:
        """Says how far the run is."""

    def close(self) -> None:
        """Ends the display."""


class PlainReporter(Reporter):
    """One line now and then, for pipes and log files."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        """Writes to a stream.

        Args:
            stream: standard output by default.
            interval: seconds between two lines on progress; the first and the last always appear.
        """
        self._stream = stream or sys.stdout
        self._interval = interval
        self._next = 0.0

    def phase(self, what: str) -> None:
        """A line of its own."""
        self.message(what)

    def message(self, text: str) -> None:
        """A line of its own."""
        print(text, file=self._stream, flush=True)

    def status(self, status: Status) -> None:
        """A line, if the last one is long enough ago."""
        now = time.monotonic()
        if now >= self._next or status.env_steps >= status.total_steps:
            self._next = now + self._interval
            self.message(status.text())


class TerminalReporter(Reporter):
    """A live progress bar."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            _Figures(table_column=Column(no_wrap=True)),
            console=console,
            expand=True,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("starting", total=None, figures="")
        self._progress.start()

    def phase(self, what: str) -> None:
        """Shown before the bar."""
        self._progress.update(self._task, description=what)

    def message(self, text: str) -> None:
        """Printed above the bar."""
        self._progress.console.print(text, highlight=False, markup=False)

    def status(self, status: Status) -> None:
        """Moves the bar."""
        self._progress.update(
            self._task,
            completed=status.env_steps,
            total=status.total_steps,
            figures=status.text(of_total=False),
        )

    def close(self) -> None:
        """Leaves the last state of the bar on the screen."""
        self._progress.stop()


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        fields: dict[str, Any] = task.fields
        if task.total is None:
            return Text(f"{duration(task.elapsed or 0.0)}", style="progress.elapsed")
        return Text(fields["figures"], style="progress.data.speed")


def make_reporter(verbose: bool) -> Reporter:
    """The reporter that fits standard output."""
    if not verbose:
        return Reporter()
    console = Console()
    return TerminalReporter(console) if console.is_terminal else PlainReporter()


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`; a dash if unknown."""
    if not math.isfinite(seconds):
        return "-"
    whole = max(round(seconds), 0)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class Speed:
    """Environment steps per second: of the latest iteration, and smoothed."""

    def __init__(self) -> None:
        self._seconds_per_step = 0.0
        self.latest = 0.0

    def add(self, steps: int, seconds: float) -> None:
        """Counts an iteration of so many environment steps of all trainings."""
        self.latest = steps / seconds
        before, now = self._seconds_per_step, seconds / steps
        self._seconds_per_step = 0.9 * before + 0.1 * now if before else now

    @property
    def recent(self) -> float:
        """Smoothed; there must have been an iteration."""
        return 1.0 / self._seconds_per_step
