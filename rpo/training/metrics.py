"""Metrics of a run: a table with one row per iteration and seed, and TensorBoard events."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import math
import time
import warnings
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from rpo.errors import RunError
from rpo.training.files import replacing
from rpo.training.run_files import set_aside

KEY_COLUMNS = ("iteration", "seed", "env_steps")
WALL_CLOCK_COLUMNS = ("seconds", "steps_per_second")
"""The only columns that differ between two equal runs."""

MAX_LINE_BYTES = 4_000_000

Table = dict[str, np.ndarray]


class MetricsTable:
    """The file `metrics.csv`, in which every finished iteration is on disk."""

    def __init__(self, path: Path, iteration: int, mark: Mark | None = None) -> None:
        """Opens the table to go on after `iteration`; later rows, cut short ones too, are dropped.

        What is damaged or missing of the earlier rows is said in a warning, and a damaged file
        kept under another name: the training itself is in the checkpoint.

        Args:
            path: of the table.
            iteration: finished iterations.
            mark: of the rows up to there, from the checkpoint.

        Raises:
            OSError: if it cannot be written.
        """
        self.path = path
        kept = _truncate(path, iteration, mark)
        self._columns = next(csv.reader(kept[:1])) if kept else None
        self._rows = max(len(kept) - 1, 0)
        self._hash = hashlib.sha256("".join(kept).encode())
        self._file = path.open("a", newline="", encoding="utf-8")

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
        rows: list[list[Any]] = []
        if self._columns is None:
            self._columns = [*KEY_COLUMNS, *WALL_CLOCK_COLUMNS, *sorted(metrics)]
            rows.append(self._columns)
            self._rows -= 1
        names = self._columns[len(KEY_COLUMNS) + len(WALL_CLOCK_COLUMNS) :]
        times = [f"{wall_clock[name]:.6g}" for name in WALL_CLOCK_COLUMNS]
        for k, seed in enumerate(seeds):
            values = [f"{metrics[name][k]:.9g}" if name in metrics else "nan" for name in names]
            rows.append([iteration, seed, env_steps, *times, *values])
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        self._file.write(text.getvalue())
        self._file.flush()
        self._rows += len(rows)
        self._hash.update(text.getvalue().encode())

    @property
    def mark(self) -> Mark:
        """What the file holds so far."""
        return Mark(self._rows, self._hash.hexdigest())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


@dataclasses.dataclass(frozen=True)
class Mark:
    """What a table holds, by which damage is noticed later.

    Args:
        rows: without the head.
        sha256: of everything.
    """

    rows: int
    sha256: str

    @classmethod
    def of(cls, facts: Any) -> Mark | None:
        """From what a checkpoint holds; None if it is of an earlier version."""
        known = isinstance(facts, dict) and isinstance(facts.get("rows"), int)
        return cls(facts["rows"], str(facts.get("sha256"))) if known else None


def read_metrics(path: Path) -> Table:
    """The columns of a `metrics.csv`. A last row that was cut short is left out.

    Raises:
        RunError: in one line, if it is damaged.
        OSError: if it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is not a plain file")
    with path.open("rb") as file:
        return _columns(path, _lines(file))


def _columns(path: Path, lines: Iterator[str]) -> Table:
    first = next(lines, None)
    if first is None:
        return {name: np.zeros(0) for name in (*KEY_COLUMNS, *WALL_CLOCK_COLUMNS)}
    head = _fields(first)
    if not _is_head(head):
        raise RunError(f"{path} is damaged: its first line names no columns")
    keys, values, cut_short = array("q"), array("d"), False
    for number, line in enumerate(lines, 2):
        row = _fields(line)
        numbers = None if cut_short else _numbers(row, head)
        if numbers is not None:
            keys.extend(map(int, row[: len(KEY_COLUMNS)]))
            values.extend(numbers[len(KEY_COLUMNS) :])
        elif cut_short or not _may_be_cut(row, head):
            raise RunError(f"{path} is damaged in line {number - cut_short}")
        else:
            cut_short = True  # if no line follows
    table: Table = {}
    for names, kind, found in (
        (head[: len(KEY_COLUMNS)], np.int64, keys),
        (head[len(KEY_COLUMNS) :], np.float64, values),
    ):
        columns = np.array(found, kind).reshape(-1, len(names))
        table |= {name: columns[:, k].copy() for k, name in enumerate(names)}
    return table


def _lines(file: BinaryIO) -> Iterator[str]:
    """The lines with their ends; one that is too long to be a row is given in part, and the last.

    Some files have no lines: reading on could take all memory.
    """
    while line := file.readline(MAX_LINE_BYTES):
        yield line.decode("utf-8", errors="replace")
        if len(line) == MAX_LINE_BYTES:
            return


def _is_head(row: list[str]) -> bool:
    first = [*KEY_COLUMNS, *WALL_CLOCK_COLUMNS]
    return row[: len(first)] == first and len(set(row)) == len(row)


def _may_be_cut(row: list[str], head: list[str]) -> bool:
    """Whether this can be what a kill has left of a row."""
    return 0 < len(row) <= len(head)


def _numbers(row: list[str], head: list[str]) -> list[float] | None:
    """A row's numbers if it has one for every column, and whole ones where they must be."""
    keys, times = row[: len(KEY_COLUMNS)], row[len(KEY_COLUMNS) :][: len(WALL_CLOCK_COLUMNS)]
    try:
        numbers = [float(value) for value in row]
    except ValueError:
        return None
    whole = all(value.isascii() and value.isdigit() and len(value) < 19 for value in keys)
    sound = whole and len(numbers) == len(head) and all(0 <= float(time) < 1e300 for time in times)
    return numbers if sound else None


def _truncate(path: Path, iteration: int, mark: Mark | None) -> list[str]:
    """Drops the rows after `iteration`, at once or not at all; returns the lines that are left."""
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is not a plain file")
    if iteration == 0:
        path.unlink(missing_ok=True)
        return []
    kept, sound = _earlier(path, iteration)
    rows = max(len(kept) - 1, 0)
    changed = mark is not None and mark != Mark(
        rows, hashlib.sha256("".join(kept).encode()).hexdigest()
    )
    if not path.exists():
        warnings.warn(
            f"{path} is missing: it starts anew with iteration {iteration + 1}; the training "
            "itself goes on from its checkpoint",
            stacklevel=4,
        )
        return []
    if changed or not sound:
        expected = "" if mark is None else f" of {mark.rows}"
        warnings.warn(
            f"{path} is damaged; kept as {set_aside(path).name}; {rows}{expected} rows can be "
            "read and stay, and the training itself goes on from its checkpoint",
            stacklevel=4,
        )
    with replacing(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8", newline="")
    return kept


def _earlier(path: Path, iteration: int) -> tuple[list[str], bool]:
    """Lines up to an iteration that can be read, the head first; whether that is all of them."""
    if not path.exists():
        return [], False
    with path.open("rb") as file:
        lines = _lines(file)
        first = next(lines, "")
        head = _fields(first)
        if not _is_head(head):
            return [], False
        kept, sound, cut = [first], True, False
        for line in lines:
            row = _fields(line)
            sound = sound and not cut
            if line.endswith("\n") and _numbers(row, head) is not None:
                kept += [line] if int(row[0]) <= iteration else []
            else:
                # Cut short at the very end by a kill: computed again.
                cut, sound = True, sound and _may_be_cut(row, head)
    return kept, sound


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r\n")]), [])
    except csv.Error:
        return []


def tagged(seeds: Sequence[int], metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Every finite value, by name, and by seed where there are several."""
    return {
        f"{name}/seed_{seed}" if len(seeds) > 1 else name: float(values[k])
        for k, seed in enumerate(seeds)
        for name, values in metrics.items()
        if math.isfinite(values[k])
    }


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
        """Appends every value that `tagged` gives.

        Raises:
            OSError: if the disk is full.
        """
        for tag, value in tagged(seeds, metrics).items():
            summary = scalar(tag, value)
            self._write(Event(wall_time=time.time(), step=env_steps, summary=summary))
        self._records.flush()

    def close(self) -> None:
        """Closes the file."""
        self._records.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())


class Records:
    """Both records of a run, to be used as a context."""

    def __init__(
        self, table: Path, events: Path, iteration: int, env_steps: int, mark: Mark | None = None
    ) -> None:
        """Opens both; the arguments are those of `MetricsTable` and `EventFile`.

        Raises:
            OSError: if one cannot be written.
        """
        self._table = MetricsTable(table, iteration, mark)
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

    @property
    def mark(self) -> Mark:
        """See `MetricsTable.mark`."""
        return self._table.mark

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        """Closes both; on a full disk that fails again, and the first error is to be reported."""
        for file in (self._table, self._events):
            try:
                file.close()
            except OSError as trouble:
                warnings.warn(str(trouble), stacklevel=2)
