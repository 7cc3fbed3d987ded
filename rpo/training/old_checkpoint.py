"""Checkpoints as they were before they became single files; to be dropped after one release.

Such a checkpoint is a directory that orbax wrote, and `last.json` names the newest one. Reading it
needs orbax-checkpoint, which nothing else does any more.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rpo.errors import CheckpointError, RunError
from rpo.training.array_file import Arrays, reason
from rpo.training.run_files import read_json


def last_old_checkpoint(directory: Path) -> Path:
    """The directory that `last.json` names.

    Raises:
        CheckpointError: if it is damaged or the checkpoint missing.
    """
    pointer = directory / "last.json"
    try:
        name = str(read_json(pointer)["checkpoint"])
        if not re.fullmatch(r"iteration_[0-9]{1,12}", name):
            raise ValueError(f"{name[:40]!r} is no name of a checkpoint")
    except (RunError, ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{pointer} cannot be read: {reason(error)}") from error
    path: Path = directory / name
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} is missing, though {pointer.name} names it")
    return path


def read_old_checkpoint(path: Path, check: Callable[[Any], None]) -> tuple[dict[str, Any], Arrays]:
    """Facts and arrays.

    Args:
        path: of the directory.
        check: refuses facts, before any array is read, by raising an error.

    Raises:
        CheckpointError: in one line, if orbax is not installed or the checkpoint is damaged.
    """
    try:
        import orbax.checkpoint as ocp
    except ImportError:
        raise CheckpointError(
            f"checkpoint {path} is of an earlier version; reading it needs one package more: "
            "pip install 'rpo-jax[old-checkpoints]'"
        ) from None
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs what it also raises
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:

            def restore(**what: Any) -> Any:
                return checkpointer.restore(path.absolute(), args=ocp.args.Composite(**what))

            facts: dict[str, Any] = restore(facts=ocp.args.JsonRestore())["facts"]
            check(facts)
            template = {
                name: np.zeros(shape, dtype) for name, (dtype, shape) in facts["arrays"].items()
            }
            state = restore(state=ocp.args.StandardRestore(template))["state"]
        arrays = {name: np.asarray(value) for name, value in state.items()}
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged or not one of ours: {reason(error)}"
        ) from error
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode())
        total.update(np.ascontiguousarray(arrays[name]).data)
    if total.hexdigest() != facts.get("digest"):
        raise CheckpointError(f"checkpoint {path} is damaged: its contents do not match its digest")
    return facts, arrays
