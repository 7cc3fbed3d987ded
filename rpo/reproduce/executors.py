"""Where cells are trained: one after the other on this machine, or on a Ray cluster.

Either way a cell is an ordinary training in its run directory, and what is left of one that was
killed is continued from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rpo.errors import one_line
from rpo.reproduce.cells import Cell
from rpo.runtime import DEVICES_VARIABLE, MAX_CPU_DEVICES
from rpo.training import Run, SettingsError, TrainingInterrupted
from rpo.training.signals import noted_signals

STOP_SECONDS = 20.0
"""So long an interrupted cell on a cluster has time to finish its iteration and save."""

RETRIES = 3
"""How often a cell is tried again after its worker has died."""

MAX_GPUS = 1024
"""Of a cell."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a cell.

    Args:
        cell: which.
        error: one line, None if all went well.
    """

    cell: Cell
    error: str | None = None


@runtime_checkable
class Executor(Protocol):
    """Trains cells."""

    def run(self, cells: Sequence[Cell]) -> Iterator[Result]:
        """Trains every cell, and yields each result as it comes.

        Raises:
            KeyboardInterrupt: if interrupted. Cells in progress are stopped, and go on from their
                last checkpoint next time; those that can still do so save one first.
        """


class LocalExecutor:
    """One cell after the other, each in a process of its own, so that none takes others along."""

    def __init__(self, logs: Path, show: bool | None = None) -> None:
        """Prepares the executor.

        Args:
            logs: directory for the cells' output.
            show: let cells draw on standard output; by default if it is a terminal.
        """
        self._logs = logs
        self._show = sys.stdout.isatty() if show is None else show

    def run(self, cells: Sequence[Cell]) -> Iterator[Result]:
        """See `Executor`."""
        for cell in cells:
            yield self._train(cell)

    def _train(self, cell: Cell) -> Result:
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{cell.name}.log"
        with log.open("ab") as output, tempfile.TemporaryFile(dir=self._logs) as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "rpo.cli", *cell.arguments()],
                stdin=subprocess.DEVNULL,
                stdout=None if self._show else output,
                stderr=errors,
                start_new_session=True,  # signals of the terminal reach it once, through us
            )
            interrupted = _wait(process)
            errors.seek(0)
            said = errors.read()
            output.write(said)
        if interrupted:
            raise KeyboardInterrupt
        if process.returncode == 0:
            return Result(cell)
        return Result(cell, _reason(process.returncode, said.decode(errors="replace"), log))


def _wait(process: subprocess.Popen[bytes]) -> bool:
    """Waits for a training; hands SIGINT and SIGTERM on. Returns whether one came."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        process.wait()
        return False

    def hand_on(number: int, frame: Any) -> None:
        received.append(number)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return bool(received)


def _reason(status: int, said: str, log: Path) -> str:
    """Why a training ended, in one line."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}; see {log}"
    return f"{_complaint(said)} (exit status {status}, see {log})"


def _complaint(said: str) -> str:
    """The line that names the error: ours, or the last of a traceback that does."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"error: |[\w.]*(Error|Exception)\b: ", line)]
    return [*(lines or ["it said nothing"]), *named][-1].removeprefix("error: ")


class RayExecutor:
    """All cells at once on a Ray cluster, as many as its resources allow.

    The cluster is the one that `RAY_ADDRESS` names, or that runs on this machine, or else a new one
    here. All its machines must share the output directory. A cell whose worker dies is tried again,
    from its checkpoint.
    """

    def __init__(self, *, cpus_per_cell: int = 1, gpus_per_cell: float = 0) -> None:
        """Connects to the cluster.

        Args:
            cpus_per_cell: cores that Ray sets aside for a cell, from 1 to 4,096.
            gpus_per_cell: the same for accelerators, at most 1,024; below 1 a share of one.

        Raises:
            SettingsError: if Ray is not installed, a value is out of range, or there is no cluster.
        """
        require_shares("ray", cpus_per_cell, gpus_per_cell)
        try:
            import ray
        except ImportError:
            raise SettingsError(
                "--executor ray needs Ray; install the extra: pip install 'rpo-jax[ray]'"
            ) from None
        self._ray = ray
        self._cpus = cpus_per_cell
        if not ray.is_initialized():
            _start(ray)
        self._train = ray.remote(
            num_cpus=cpus_per_cell,
            num_gpus=gpus_per_cell,
            max_retries=RETRIES,
            max_calls=1,  # a fresh process for each cell, which frees all memory
        )(train_here)

    def run(self, cells: Sequence[Cell]) -> Iterator[Result]:
        """See `Executor`."""
        ray = self._ray
        here = os.getcwd()
        waiting = {self._submit(cell, here): cell for cell in cells}
        try:
            while waiting:
                done, _ = ray.wait(list(waiting), num_returns=1)
                cell = waiting.pop(done[0])
                try:
                    error = ray.get(done[0])
                except ray.exceptions.RayError as failure:
                    error = f"its worker failed: {one_line(failure)[:300]}"
                yield Result(cell, error)
        finally:
            self._stop(list(waiting))

    def _stop(self, cells: list[Any]) -> None:
        """Ends cells that are not finished: those that train as at Ctrl-C, which saves them."""
        ray = self._ray
        for cell in cells:
            ray.cancel(cell, force=False)
        # Until then the cluster must live: one of this machine ends with this process.
        _, deaf = (
            ray.wait(cells, num_returns=len(cells), timeout=STOP_SECONDS) if cells else ([], [])
        )
        for cell in deaf:  # compiling, or starting; the checkpoint it had stays
            ray.cancel(cell, force=True)

    def _submit(self, cell: Cell, here: str) -> Any:
        """Hands a cell to the cluster, with no more JAX devices than it has cores.

        A cell that was begun needs as many devices as then.
        """
        devices = self._cpus
        if (cell.path / "config.json").exists():
            devices = max(devices, Run.load(cell.path).config["run_settings"]["devices"] or 1)
        environment = {"env_vars": {DEVICES_VARIABLE: str(devices)}}
        absolute = dataclasses.replace(cell, path=cell.path.absolute())
        return self._train.options(runtime_env=environment).remote(absolute, here)


def _start(ray: Any) -> None:
    """Connects to the cluster, or starts one."""
    with warnings.catch_warnings(), noted_signals() as interrupted:
        # JAX warns of forks; Ray's turn into other programs at once.
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
        try:
            ray.init(log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            stale = "if one from before did not end well, `ray stop` forgets it"
            raise SettingsError(f"no Ray cluster: {one_line(error)}; {stale}") from error
        if interrupted():  # only now: Ray crashes where it is interrupted half started
            raise KeyboardInterrupt


def train_here(cell: Cell, directory: str) -> str | None:
    """Trains a cell in this process.

    Args:
        cell: which; it is continued if it was begun.
        directory: to which relative paths of the task refer.

    Returns:
        one line on what went wrong, None if nothing.
    """
    if os.path.isdir(directory):
        os.chdir(directory)
    try:
        cell.train()
    except (Exception, TrainingInterrupted) as error:
        return one_line(error)
    return None


def require_shares(name: str, cpus_per_cell: int, gpus_per_cell: float) -> None:
    """Refuses what cannot be set aside for a cell, or not by the executor of this name.

    Raises:
        SettingsError: in one line, by name and range.
    """
    if not 1 <= cpus_per_cell <= MAX_CPU_DEVICES:
        raise SettingsError(
            f"cpus_per_cell is {cpus_per_cell}, must lie between 1 and {MAX_CPU_DEVICES:,}"
        )
    if not 0 <= gpus_per_cell <= MAX_GPUS:  # nor NaN
        raise SettingsError(
            f"gpus_per_cell is {gpus_per_cell}, must lie between 0 and {MAX_GPUS:,}"
        )
    if gpus_per_cell > 1 and gpus_per_cell != int(gpus_per_cell):
        raise SettingsError(f"gpus_per_cell is {gpus_per_cell}, must be whole where it is above 1")
    if name == "local" and (cpus_per_cell, gpus_per_cell) != (1, 0):
        raise SettingsError(
            "cpus_per_cell and gpus_per_cell are for --executor ray; on this machine one training "
            f"follows the other ({DEVICES_VARIABLE} says how many cores each has)"
        )
