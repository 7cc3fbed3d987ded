"""Checkpoints: complete or absent, and checked when they are read.

A checkpoint is a directory `iteration_<number>` that orbax writes under another name and renames
when it is complete. It holds the arrays, and their names, shapes, types and a digest of their
contents. `last.json` names the newest one, with the size and a digest of each of its files; the
one before it is deleted only then.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np

from rpo.errors import CheckpointError, RunError, SettingsError
from rpo.training.memory import require_memory
from rpo.training.run_files import read_json, write_json

T = TypeVar("T")
Arrays = dict[str, np.ndarray]

_NAME = re.compile(r"iteration_[0-9]{1,12}")
_HASHED_BYTES = 1_000_000
"""Larger files hold arrays, which have a digest of their own."""
_ATTEMPTS = 100
"""At reading a checkpoint, each after a newer one has taken the place of that before."""


def save_checkpoint(directory: Path, state: Any, facts: dict[str, Any]) -> Path:
    """Writes a checkpoint, and deletes older ones once it is complete.

    Args:
        directory: of the run's checkpoints.
        state: a pytree of arrays.
        facts: further facts, ready for JSON; `iteration` among them.

    Returns:
        the checkpoint.

    Raises:
        OSError: if it cannot be written; earlier checkpoints are untouched.
    """
    import orbax.checkpoint as ocp

    arrays = named_arrays(state)
    facts = facts | {"arrays": describe(state), "digest": digest(arrays)}
    path = (directory / f"iteration_{facts['iteration']:08d}").absolute()
    directory.mkdir(parents=True, exist_ok=True)
    _remove_remains(directory)
    try:
        _require_room(directory, sum(array.nbytes for array in arrays.values()))
        with _checkpointer() as checkpointer:
            checkpointer.save(
                path,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays), facts=ocp.args.JsonSave(facts)
                ),
                force=True,
            )
        write_json(
            directory / "last.json", {"checkpoint": path.name, "files": _describe_files(path)}
        )
    except Exception as error:
        _remove_remains(directory)
        if isinstance(error, OSError):
            raise
        # Tensorstore reports what the system refused as errors of its own kind.
        raise OSError(f"cannot write {path.name}: {_first_line(error)}") from error
    for other in directory.iterdir():
        if _NAME.fullmatch(other.name) and other.name != path.name:
            shutil.rmtree(other, ignore_errors=True)
    return path


def last_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint, None if there is none yet.

    Raises:
        CheckpointError: if it is named but missing.
    """
    pointer = directory / "last.json"
    contents = _pointer(directory)
    if contents is None:
        return None
    path: Path = directory / contents["checkpoint"]
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} is missing, though {pointer.name} names it")
    return path


def restore_last(
    directory: Path, like: Callable[[int], T]
) -> tuple[Path, T, dict[str, Any]] | None:
    """Reads the newest checkpoint; if a training replaces it meanwhile, the next one.

    Args:
        directory: of the run's checkpoints.
        like: gives the expected structure, shapes and types after so many iterations.

    Returns:
        the checkpoint, a pytree of numpy arrays and the facts stored beside it; None if there is
        no checkpoint yet.

    Raises:
        CheckpointError: in one line, if it cannot be read.
    """
    for attempt in range(_ATTEMPTS):
        before = _pointer(directory)
        if before is None:
            return None
        path = directory / before["checkpoint"]
        try:
            if not path.is_dir():
                raise CheckpointError(f"checkpoint {path} is missing, though last.json names it")
            state, facts = restore_checkpoint(path, like(iteration_of(path)))
            return path, state, facts
        except CheckpointError:
            if _pointer(directory) == before or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _pointer(directory: Path) -> dict[str, Any] | None:
    """Contents of `last.json`, None if there is none.

    Raises:
        CheckpointError: if it is damaged.
    """
    pointer = directory / "last.json"
    try:
        contents = read_json(pointer)
        name = contents["checkpoint"]
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:40]!r} is no name of a checkpoint")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except RunError as error:
        raise CheckpointError(str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{pointer} cannot be read: {_first_line(error)}") from error
    found: dict[str, Any] = contents
    return found


def iteration_of(path: Path) -> int:
    """The finished iterations of a checkpoint, from its name."""
    return int(path.name.removeprefix("iteration_"))


def restore_checkpoint(path: Path, like: T) -> tuple[T, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
        path: from `last_checkpoint`.
        like: a pytree with the expected structure, shapes and types.

    Returns:
        a pytree of numpy arrays, and the facts stored beside it.

    Raises:
        CheckpointError: in one line, if it is truncated, or its arrays are not the expected ones.
    """
    import orbax.checkpoint as ocp

    _hush_closed_loops()
    expected = describe(like)
    require_memory_for(path, expected)
    try:
        _require_same_files(path)
        with _checkpointer() as checkpointer:
            read = checkpointer.restore(
                path.absolute(), args=ocp.args.Composite(facts=ocp.args.JsonRestore())
            )
            facts: dict[str, Any] = read["facts"]
            _require_facts(path, facts)
            _require_same_arrays(path, facts["arrays"], expected)
            template = {name: np.zeros(shape, dtype) for name, (dtype, shape) in expected.items()}
            read = checkpointer.restore(
                path.absolute(), args=ocp.args.Composite(state=ocp.args.StandardRestore(template))
            )
        arrays: Arrays = {name: np.asarray(value) for name, value in read["state"].items()}
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged or not one of ours: {_first_line(error)}"
        ) from error
    if describe(arrays) != expected or digest(arrays) != facts["digest"]:
        raise CheckpointError(f"checkpoint {path} is damaged: its contents do not match its digest")
    leaves = [arrays[name] for name in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), facts


def named_arrays(tree: Any) -> Arrays:
    """Leaves of a pytree by the path that leads to them, in the order of the tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def describe(tree: Any) -> dict[str, list[Any]]:
    """Type and shape of each leaf by name, ready for JSON; the leaves may be mere shapes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): [str(leaf.dtype), list(leaf.shape)] for path, leaf in leaves}


def digest(arrays: Arrays) -> str:
    """SHA-256 of all contents."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode())
        total.update(np.ascontiguousarray(arrays[name]).data)
    return total.hexdigest()


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _require_same_arrays(
    path: Path, stored: dict[str, list[Any]], expected: dict[str, list[Any]]
) -> None:
    for name in [*expected, *stored]:
        if name not in stored:
            raise CheckpointError(f"checkpoint {path} is of another kind of run: it lacks {name}")
        if name not in expected:
            raise CheckpointError(
                f"checkpoint {path} is of another kind of run: nothing here is called {name}"
            )
        if stored[name] != expected[name]:
            raise CheckpointError(
                f"checkpoint {path} is of another kind of run: {name} is "
                f"{_shape(stored[name])} there and {_shape(expected[name])} here"
            )


def require_memory_for(path: Path, arrays: dict[str, list[Any]]) -> None:
    """Refuses a checkpoint whose arrays, as its settings have them, do not fit into memory."""
    size = sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in arrays.values())
    try:
        require_memory(2 * size, f"reading the checkpoint {path} needs", "is it yours?")
    except SettingsError as error:
        raise CheckpointError(str(error)) from error


def _describe_files(path: Path) -> dict[str, list[Any]]:
    """Size and digest of every file of a checkpoint, by its path in it; no digest of large ones."""
    described: dict[str, list[Any]] = {}
    for file in sorted(path.rglob("*")):
        if file.is_file():
            size = file.stat().st_size
            small = size <= _HASHED_BYTES
            hashed = hashlib.sha256(file.read_bytes()).hexdigest() if small else None
            described[file.relative_to(path).as_posix()] = [size, hashed]
    return described


def _require_same_files(path: Path) -> None:
    """Compares a checkpoint with its description in `last.json`.

    The library that reads the arrays would fail, too, but later, and with many words.
    """
    pointer = _pointer(path.parent)
    if pointer is None or pointer["checkpoint"] != path.name:
        return
    expected = pointer.get("files")
    if expected is None:  # of an earlier version
        return
    found = _describe_files(path)
    for name in (expected if isinstance(expected, dict) else {}) | found:
        if found.get(name) != expected.get(name):
            what = "lost" if name not in found else "not as it was written"
            raise ValueError(f"its file {str(name)[:100]} is {what}")


def _require_facts(path: Path, facts: Any) -> None:
    """Refuses facts that do not hold together."""
    if not isinstance(facts, dict):
        raise ValueError("its facts are no table")
    iteration, arrays = facts.get("iteration"), facts.get("arrays")
    if isinstance(iteration, bool) or iteration != iteration_of(path):
        raise ValueError(f"its facts are of iteration {str(iteration)[:20]}")
    seconds = facts.get("seconds", 0.0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise ValueError("its facts name no training time")
    if not isinstance(facts.get("digest"), str):
        raise ValueError("its facts hold no digest")
    if not isinstance(arrays, dict) or not all(
        isinstance(one, list) and len(one) == 2 and isinstance(one[1], list)
        for one in arrays.values()
    ):
        raise ValueError("its facts describe no arrays")


def _shape(described: list[Any]) -> str:
    return f"{described[0]}{described[1]}"


def _require_room(directory: Path, size: int) -> None:
    """Fails now where orbax would fail in the middle, in several threads that each say so."""
    file = directory / "iteration_room"
    try:
        with file.open("wb") as reserved:
            reserved.write(bytes(size + 65536))
    finally:
        file.unlink(missing_ok=True)


def _remove_remains(directory: Path) -> None:
    """Deletes what a killed or failed save has left."""
    for path in directory.glob("iteration_*"):
        if not _NAME.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
            if path.is_file():
                path.unlink()


_hushed = False


def _hush_closed_loops() -> None:
    """Keeps the array library from printing a traceback per array that it does not read any more.

    When one array cannot be read, the others' errors go to nobody, or to an event loop that has
    ended. The first error is raised as any other.
    """
    global _hushed
    if _hushed:
        return
    _hushed = True
    raised, unraisable = sys.excepthook, sys.unraisablehook

    def closed(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not closed(error):
            raised(kind, error, trace)

    def unraisable_hook(told: Any) -> None:
        if not closed(told.exc_value):
            unraisable(told)

    def wanted(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not (closed(error) or "tensorstore" in str(error))

    sys.excepthook, sys.unraisablehook = hook, unraisable_hook
    logging.getLogger("asyncio").addFilter(wanted)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    # Orbax logs what it also raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # What is saved is whole: this process needs none of its partners.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)
