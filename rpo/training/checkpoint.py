"""Checkpoints: complete or absent, and checked when they are read.

A checkpoint is a directory `iteration_<number>` that orbax writes under another name and renames
when it is complete. It holds the arrays, and their names, shapes, types and a digest of their
contents. `last.json` names the newest one; the one before it is deleted only then.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from rpo.errors import CheckpointError
from rpo.training.run import write_json

T = TypeVar("T")
Arrays = dict[str, np.ndarray]

_NAME = re.compile(r"iteration_\d+")


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
        write_json(directory / "last.json", {"checkpoint": path.name})
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
    if not pointer.exists():
        return None
    try:
        path = directory / str(json.loads(pointer.read_text(encoding="utf-8"))["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{pointer} cannot be read: {_first_line(error)}") from error
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} is missing, though {pointer.name} names it")
    return path


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

    expected = describe(like)
    try:
        with _checkpointer() as checkpointer:
            read = checkpointer.restore(
                path.absolute(), args=ocp.args.Composite(facts=ocp.args.JsonRestore())
            )
            facts: dict[str, Any] = read["facts"]
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
    if digest(arrays) != facts["digest"]:
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
