"""Metrics of a run: a table with one row per iteration and seed, and TensorBoard events."""

from __future__ import annotations

import csv
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

KEY_COLUMNS = ("iteration", "seed", "env_steps")
WALL_CLOCK_COLUMNS = ("seconds", "steps_per_second")
"""The only columns that differ between two equal runs."""

Table = dict[str, np.ndarray]


class MetricsTable:
    """The file `metrics.csv`, in which every finished iteration is on disk."""

    def __init__(self, path: Path, iteration: int) -> None:
        """Opens the table to go on after `iteration`; later rows, cut short ones too, are dropped.

        Raises:
            OSError: if it cannot be written.
        """
        self.path = path
        self._columns = _truncate(path, iteration)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)

    def write(
        self,
        iteration: int,
        env_steps: int,
        wall_clock: Mapping[str, float],
        seeds: Sequence[int],
        metrics: Mapping[str, np.ndarray],
    ) -> None:
        """Appends one row per seed and hands them to the operating system.

        Args:
            iteration: finished iterations.
            env_steps: environment steps of each seed.
            wall_clock: values of `WALL_CLOCK_COLUMNS`.
            seeds: by row.
            metrics: by name, one value per seed.

        Raises:
            OSError: if the disk is full.
        """
        columns = [*KEY_COLUMNS, *WALL_CLOCK_COLUMNS, *sorted(metrics)]
        if self._columns is None:
            self._columns = columns
            self._writer.writerow(columns)
        times = [f"{wall_clock[name]:.6g}" for name in WALL_CLOCK_COLUMNS]
        for k, seed in enumerate(seeds):
            values = [f"{metrics[name][k]:.9g}" for name in self._columns[len(columns[:5]) :]]
            self._writer.writerow([iteration, seed, env_steps, *times, *values])
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_metrics(path: Path) -> Table:
    """The columns of a `metrics.csv`.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows:
        return {name: np.zeros(0) for name in (*KEY_COLUMNS, *WALL_CLOCK_COLUMNS)}
    complete = [row for row in rows[1:] if len(row) == len(rows[0])]
    table: Table = {}
    for k, name in enumerate(rows[0]):
        kind = np.int64 if name in KEY_COLUMNS else np.float64
        table[name] = np.array([row[k] for row in complete], dtype=kind)
    return table


def _truncate(path: Path, iteration: int) -> list[str] | None:
    """Drops the rows after `iteration`, at once or not at all; returns the column names."""
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if iteration == 0 or not lines:
        path.unlink()
        return None
    kept = [lines[0]]
    for line in lines[1:]:
        number = line.split(",", 1)[0]
        if line.endswith("\n") and number.isdigit() and int(number) <= iteration:
            kept.append(line)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8", newline="")
    os.replace(temporary, path)
    return next(csv.reader(kept[:1]))


class EventFile:
    """TensorBoard events, written at once: a full disk is noticed here, not in a thread."""

    def __init__(self, directory: Path, iteration: int, env_steps: int) -> None:
        """Opens a new event file.

        Args:
            directory: where event files go; created if missing.
            iteration: the run goes on after it. If it is not 0, viewers drop later events of
                earlier files.
            env_steps: steps taken so far.

        Raises:
            OSError: if it cannot be written.
        """
        directory.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.iteration_{iteration}"
        self._records = RecordWriter(str(directory / name))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        restart = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=env_steps + 1, session_log=restart))

    def write(
        self, env_steps: int, seeds: Sequence[int], metrics: Mapping[str, np.ndarray]
    ) -> None:
        """Appends every finite value, tagged by name, and by seed where there are several.

        Raises:
            OSError: if the disk is full.
        """
        for k, seed in enumerate(seeds):
            suffix = f"/seed_{seed}" if len(seeds) > 1 else ""
            for name, values in metrics.items():
                value = float(values[k])
                if math.isfinite(value):
                    summary = scalar(name + suffix, value)
                    self._write(Event(wall_time=time.time(), step=env_steps, summary=summary))
        self._records.flush()

    def close(self) -> None:
        """Closes the file."""
        self._records.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())


class Records:
    """Both records of a run, to be used as a context."""

    def __init__(self, table: Path, events: Path, iteration: int, env_steps: int) -> None:
        """Opens both.

        Args:
            table: see `MetricsTable`.
            events: directory, see `EventFile`.
            iteration: the run goes on after it.
            env_steps: steps taken so far.

        Raises:
            OSError: if one cannot be written.
        """
        self._table = MetricsTable(table, iteration)
        self._events = EventFile(events, iteration, env_steps)

    def write(
        self,
        iteration: int,
        env_steps: int,
        wall_clock: Mapping[str, float],
        seeds: Sequence[int],
        metrics: Mapping[str, np.ndarray],
    ) -> None:
        """See `MetricsTable.write`."""
        self._table.write(iteration, env_steps, wall_clock, seeds, metrics)
        self._events.write(env_steps, seeds, metrics)

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes both; on a full disk that fails again, and the first error is to be reported."""
        for file in (self._table, self._events):
            try:
                file.close()
            except OSError as trouble:
                warnings.warn(str(trouble), stacklevel=2)
