"""One training run in several processes, on one machine or on many.

JAX connects the processes (`jax.distributed`) and moves all data between them: NCCL between GPUs,
gloo between CPUs. Every process runs the same program on the same settings. The first one, process
0, owns the run directory: it alone reads, writes, reports and evaluates, and what it reads it
shares, so that the others need not see its disk.

In a program of a single process, every function here does nothing, at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from rpo.errors import RunError, SettingsError, TrainingError, one_line
from rpo.runtime import Processes
from rpo.training.settings import Resolved

T = TypeVar("T")

MAX_PROCESSES = 2**20
CONNECTION_SECONDS = 300
"""So long a process waits for the others at the start."""

_GRACE_SECONDS = 3
_EVALUATION_SECONDS = 7 * 24 * 3600
"""So long a process waits for the first one at the end; one that has died is noticed sooner."""


def join(given: Processes, timeout: int = CONNECTION_SECONDS) -> None:
    """Connects this process with the others; to be called before anything runs in JAX.

    Args:
        given: where and who; nothing happens if it says nothing.
        timeout: seconds to wait for the others. Then the process ends, with one line on standard
            error and status 1: JAX leaves no way to go on.

    Raises:
        SettingsError: if a value cannot be, or there is no cluster to ask.
    """
    if given == Processes():
        return
    _check(given)
    # Its handler of SIGTERM would take the place of ours, which saves the run.
    jax.config.update("jax_enable_preemption_service", False)
    where = given.coordinator if given.coordinator != "auto" else "the cluster's coordinator"
    try:
        with _last_words(
            timeout,
            f"the processes did not find each other at {where} within {timeout} s; "
            "were all of them started, and does process 0 run there?",
        ):
            jax.distributed.initialize(
                None if given.coordinator == "auto" else given.coordinator,
                given.num_processes,
                given.process_id,
                # JAX itself must not end first: it would abort with a trace of its own
                initialization_timeout=timeout + 60,
                shutdown_timeout_seconds=_EVALUATION_SECONDS,
            )
    except (ValueError, RuntimeError) as error:
        raise SettingsError(f"cannot join the processes of this run: {one_line(error)}") from error


def is_first() -> bool:
    """Whether this process owns the run directory."""
    return jax.process_index() == 0


def require_equal_devices() -> None:
    """Refuses processes with different numbers of devices.

    Raises:
        SettingsError: in every process.
    """
    counts = [0] * jax.process_count()
    for device in jax.devices():
        counts[device.process_index] += 1
    if len(set(counts)) > 1:
        raise SettingsError(
            f"the processes have different numbers of devices, {counts}; "
            "on CPUs, start all of them with the same RPO_CPU_DEVICES"
        )


def require_alike(resolved: Resolved) -> None:
    """Refuses processes that were started with different settings.

    Raises:
        SettingsError: in every process.
    """
    if jax.process_count() == 1:
        return
    settings = {
        "task": resolved.task.rsplit(":", 1)[-1],  # the file may lie elsewhere on each machine
        "algorithm": resolved.algorithm,
        "settings": [vars(resolved.config), resolved.task_settings, vars(resolved.run_settings)],
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).digest()
    everyones = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
    for number, other in enumerate(everyones):
        if not np.array_equal(other, everyones[0]):
            raise SettingsError(f"process {number} was started with other settings than process 0")


def share(compute: Callable[[], T]) -> T:
    """What `compute` gives in the first process, in all of them; the others do not call it.

    Args:
        compute: gives something ready for JSON.

    Raises:
        RunError: if `compute` raised one, or an OSError; the first process raises that itself.
    """
    if jax.process_count() == 1:
        return compute()
    told: dict[str, Any] = {}
    trouble: Exception | None = None
    if is_first():
        try:
            told = {"value": compute()}
        except (RunError, OSError) as error:
            trouble, told = error, {"trouble": one_line(error)}
    text = np.frombuffer(json.dumps(told).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.uint32(text.size)))
    padded = text if is_first() else np.zeros(size, np.uint8)
    told = json.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())
    if trouble is not None:
        raise trouble
    if "trouble" in told:
        raise RunError(f"process 0 says: {told['trouble']}")
    value: T = told["value"]
    return value


def share_arrays(tree: T | None, like: T) -> T:
    """The arrays of the first process, bit for bit, in all of them.

    Args:
        tree: of arrays that this process can see; matters in the first one only.
        like: the same structure, with shapes and types.
    """
    if jax.process_count() == 1:
        assert tree is not None
        return tree
    # As bytes, because JAX broadcasts by adding zeros.
    structure = jax.tree.structure(like)
    kinds = jax.tree.leaves(like)
    if is_first():
        arrays = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(tree)]
        mine = [array.reshape(-1).view(np.uint8) for array in arrays]
    else:
        mine = [np.zeros(kind.size * kind.dtype.itemsize, np.uint8) for kind in kinds]
    shared = multihost_utils.broadcast_one_to_all(mine)
    leaves = [
        np.asarray(data).view(kind.dtype).reshape(kind.shape)
        for data, kind in zip(shared, kinds, strict=True)
    ]
    everyones: T = jax.tree.unflatten(structure, leaves)
    return everyones


def gather(tree: T) -> T:
    """Arrays that lie on the devices of all processes, whole, as numpy arrays, in all of them."""

    def whole(x: Any) -> np.ndarray:
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    if jax.process_count() == 1:
        host: T = jax.device_get(tree)
    else:
        host = jax.tree.map(whole, tree)
    return host


def agree(stop: bool, save: bool) -> tuple[bool, bool]:
    """Whether any process wants to stop, and whether the first one wants to save."""
    if jax.process_count() == 1:
        return stop, save
    everyones = multihost_utils.process_allgather(np.array([stop, save], np.uint8))
    return bool(everyones[:, 0].any()), bool(everyones[0, 1])


@contextmanager
def partners_needed() -> Iterator[None]:
    """Turns JAX's error about a partner that has gone into one of ours.

    Raises:
        TrainingError: if a partner has gone.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if jax.process_count() == 1 or not re.search("gloo|nccl|peer|UNAVAIL", str(error), re.I):
            raise
        raise TrainingError(
            f"another process of this run has ended ({one_line(error)[:200]}); the run goes on "
            "from its last checkpoint with rpo train --resume"
        ) from error


def leave(status: int) -> int:
    """Ends this process at once if it is one of several and has failed.

    An orderly end would wait for the others, which wait for this one.

    Returns:
        the exit status, where the process may end as usual.
    """
    if jax.distributed.is_initialized():
        if is_first():
            # JAX aborts the others as soon as this one is gone. What they have to say themselves,
            # often the same, is clearer.
            time.sleep(_GRACE_SECONDS)
        _end(status)
    return status


def _check(given: Processes) -> None:
    if given.coordinator is None:
        raise SettingsError("several processes need --coordinator HOST:PORT, or auto")
    if given.coordinator != "auto":
        if not re.fullmatch(r"\S+:\d{1,5}", given.coordinator):
            raise SettingsError(f"coordinator is {given.coordinator!r}, must be HOST:PORT or auto")
        if given.num_processes is None or given.process_id is None:
            raise SettingsError("--coordinator HOST:PORT needs --num-processes and --process-id")
        port = given.coordinator.rpartition(":")[2]
        if not 1 <= int(port) <= 65535:
            raise SettingsError(f"coordinator is at port {port}, must lie between 1 and 65535")
    count = given.num_processes
    if count is not None and not 1 <= count <= MAX_PROCESSES:
        raise SettingsError(f"num_processes is {count}, must lie between 1 and {MAX_PROCESSES:,}")
    number = given.process_id
    if number is not None and not 0 <= number < (count or number + 1):
        last = "" if count is None else f" and {count - 1}"
        raise SettingsError(f"process_id is {number}, must lie between 0{last}")


@contextmanager
def _last_words(seconds: float, words: str) -> Iterator[None]:
    """Ends the process with one line if the body takes longer."""

    def end() -> None:
        print(f"error: {words}", file=sys.stderr)
        _end(1)

    watch = threading.Timer(seconds, end)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _end(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed: nobody reads on
            stream.flush()
    os._exit(status)
