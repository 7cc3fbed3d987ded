"""Checkpoints: complete or absent, and checked when they are read.

A checkpoint is one file, `iteration_<number>.npz` (see `rpo.training.array_file`), with every array
of the training state and the facts that its run needs to go on. The newest one has the largest
number; older ones are deleted once it is complete.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax

from rpo.errors import CheckpointError, SettingsError
from rpo.training.array_file import (
    Description,
    describe,
    difference,
    named_arrays,
    read_arrays,
    write_arrays,
)
from rpo.training.memory import bytes_of, require_memory

T = TypeVar("T")

_KIND = "checkpoint"
_NAME = re.compile(r"iteration_([0-9]{1,12})\.npz")
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
    path = directory / f"iteration_{facts['iteration']:08d}.npz"
    write_arrays(path, _KIND, facts | {"arrays": describe(state)}, named_arrays(state))
    for other in directory.iterdir():
        if other.name != path.name:
            with contextlib.suppress(OSError):
                shutil.rmtree(other) if other.is_dir() else other.unlink()
    return path


def last_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint, None if there is none yet."""
    found = [path for path in directory.glob("iteration_*.npz") if _NAME.fullmatch(path.name)]
    return max(found, key=iteration_of, default=None) or _of_old_format(directory)


def iteration_of(path: Path) -> int:
    """The finished iterations of a checkpoint, from its name."""
    return int(path.stem.removeprefix("iteration_"))


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
        path = last_checkpoint(directory)
        if path is None:
            return None
        try:
            state, facts = restore_checkpoint(path, like(iteration_of(path)))
            return path, state, facts
        except CheckpointError:
            if last_checkpoint(directory) == path or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def restore_checkpoint(path: Path, like: T) -> tuple[T, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
        path: from `last_checkpoint`.
        like: a pytree with the expected structure, shapes and types.

    Returns:
        a pytree of numpy arrays, and the facts stored beside it, the digest of all among them.

    Raises:
        CheckpointError: in one line, if it is truncated, or its arrays are not the expected ones.
    """
    expected = describe(like)
    _require_memory(path, like)
    if path.is_dir():
        from rpo.training.old_checkpoint import read_old_checkpoint

        facts, arrays = read_old_checkpoint(path, lambda x: require_facts(path, x, expected))
    else:
        facts, arrays, digest = read_arrays(
            path, _KIND, "checkpoint", lambda x: require_facts(path, x, expected)
        )
        facts = facts | {"digest": digest}
    if describe(arrays) != expected:
        raise CheckpointError(f"checkpoint {path} is damaged: its arrays are not as it says")
    leaves = [arrays[name] for name in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), facts


def require_facts(path: Path, facts: Any, expected: Description) -> None:
    """Refuses facts that do not hold together, or describe other arrays than the expected ones.

    Raises:
        ValueError: if the facts are damaged.
        CheckpointError: if they are those of another kind of run.
    """
    if not isinstance(facts, dict):
        raise ValueError("its facts are no table")
    iteration, arrays = facts.get("iteration"), facts.get("arrays")
    if isinstance(iteration, bool) or iteration != iteration_of(path):
        raise ValueError(f"its facts are of iteration {str(iteration)[:20]}")
    seconds = facts.get("seconds", 0.0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise ValueError("its facts name no training time")
    if not isinstance(arrays, dict) or not all(
        isinstance(one, list) and len(one) == 2 and isinstance(one[1], list)
        for one in arrays.values()
    ):
        raise ValueError("its facts describe no arrays")
    trouble = difference(arrays, expected)
    if trouble is not None:
        raise CheckpointError(f"checkpoint {path} is of another kind of run: {trouble}")


def _require_memory(path: Path, like: Any) -> None:
    """Refuses a checkpoint whose arrays, as its settings have them, do not fit into memory."""
    try:
        require_memory(2 * bytes_of(like), f"reading the checkpoint {path} needs", "is it yours?")
    except SettingsError as error:
        raise CheckpointError(str(error)) from error


def _of_old_format(directory: Path) -> Path | None:
    """The newest checkpoint of a run that began before checkpoints were single files."""
    if not (directory / "last.json").is_file():
        return None
    from rpo.training.old_checkpoint import last_old_checkpoint

    return last_old_checkpoint(directory)
