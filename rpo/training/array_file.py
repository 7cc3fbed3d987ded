"""Named arrays and facts in one file that can run no code: policies and checkpoints.

The file is an uncompressed zip archive (numpy's `.npz`) of plain arrays and `metadata.json`. It is
written beside its name, flushed to the disk and renamed, so it is complete or absent, and carries a
format number and a SHA-256 digest of its contents. Reading takes no more memory than the file is
long, whatever its headers claim.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rpo.errors import CheckpointError, one_line
from rpo.training.files import replacing

Arrays = dict[str, np.ndarray]
Description = dict[str, list[Any]]
"""Type and shape of each array by name, ready for JSON."""

FORMAT = 1
METADATA = "metadata.json"
MAX_METADATA_BYTES = 16_000_000

_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # equal contents give equal files


def write_arrays(path: Path, kind: str, facts: Mapping[str, Any], arrays: Arrays) -> None:
    """Writes a file, at once or not at all.

    Args:
        path: of the file.
        kind: of contents: the name that the facts have in the metadata.
        facts: ready for JSON.
        arrays: contiguous or not.

    Raises:
        OSError: if it cannot be written; an older file of this name is untouched.
    """
    metadata = {"format": FORMAT, "digest": digest(facts, arrays), kind: facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        text = json.dumps(metadata, indent=2, allow_nan=False)
        archive.writestr(zipfile.ZipInfo(METADATA, _LONG_AGO), text)
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", _LONG_AGO)
            with archive.open(info, "w", force_zip64=True) as entry:
                ordered = np.asarray(array, order="C")  # keeps the shape () of a number
                np.lib.format.write_array(entry, ordered, version=(1, 0), allow_pickle=False)


def read_arrays(
    path: Path, kind: str, noun: str, check: Callable[[dict[str, Any]], None] = lambda facts: None
) -> tuple[dict[str, Any], Arrays, str]:
    """Reads a file.

    Args:
        path: of the file.
        kind: see `write_arrays`.
        noun: what a message calls it: "checkpoint", "policy file".
        check: refuses facts, before any array is read, by raising an error.

    Returns:
        facts, arrays and the digest of both.

    Raises:
        CheckpointError: in one line, if it is missing, damaged, or of another program or version.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no {noun} {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = _metadata(archive)
            if metadata["format"] != FORMAT:
                raise CheckpointError(
                    f"{noun} {path} has format {str(metadata['format'])[:20]}, this program reads "
                    f"format {FORMAT}"
                )
            facts: dict[str, Any] = metadata[kind]
            check(facts)
            arrays = {
                info.filename.removesuffix(".npy"): _read(archive, info)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
        if digest(facts, arrays) != metadata["digest"]:
            raise CheckpointError(f"{noun} {path} is damaged: it does not match its digest")
    except CheckpointError:
        raise
    except Exception as error:  # whatever zip, JSON, numpy and a foreign archive come up with
        raise CheckpointError(
            f"{noun} {path} is damaged or not one of ours: {reason(error)}"
        ) from error
    return facts, arrays, metadata["digest"]


def _metadata(archive: zipfile.ZipFile) -> dict[str, Any]:
    info = archive.getinfo(METADATA)
    _require_stored(info)
    if info.file_size > MAX_METADATA_BYTES:
        raise ValueError("its metadata is too large")
    metadata: dict[str, Any] = json.loads(archive.read(info))
    return metadata


def _require_stored(info: zipfile.ZipInfo) -> None:
    """Unpacking takes the memory that the packed bytes ask for, whatever their header says."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename[:80]} is compressed")


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array, if it is as long as its header says."""
    _require_stored(info)
    with archive.open(info) as entry:
        if np.lib.format.read_magic(entry) != (1, 0):
            raise ValueError(f"{info.filename[:80]} has a header of another version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(entry)
        size = dtype.itemsize * math.prod(shape)
        if dtype.hasobject or fortran or entry.tell() + size != info.file_size:
            raise ValueError(f"{info.filename[:80]} is not what its header says")
        array = np.empty(shape, dtype)
        view = array.reshape(-1).view(np.uint8)
        done = 0
        while done < size and (piece := entry.read(min(size - done, 1 << 24))):
            view[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        entry.read()  # compares the checksum
    if done != size:
        raise ValueError(f"{info.filename[:80]} ends early")
    return array


def digest(facts: Mapping[str, Any], arrays: Arrays) -> str:
    """SHA-256 of the facts and of every array's name, type, shape and contents."""
    total = hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype.str} {arrays[name].shape}".encode())
        total.update(array.data)
    return total.hexdigest()


def named_arrays(tree: Any) -> Arrays:
    """Leaves of a pytree by the path that leads to them, in the order of the tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def describe(tree: Any) -> Description:
    """Type and shape of each leaf by name; the leaves may be mere shapes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): [str(leaf.dtype), list(leaf.shape)] for path, leaf in leaves}


def difference(found: Description, wanted: Description) -> str | None:
    """The first array that is not as it should be, in words; None if all are.

    Args:
        found: what a file gives, "there" in these words.
        wanted: what the program takes, "here".
    """
    for name in [*wanted, *found]:
        if name not in found:
            return f"it lacks {name}"
        if name not in wanted:
            return f"nothing here is called {name}"
        if found[name] != wanted[name]:
            return f"{name} is {_shape(found[name])} there and {_shape(wanted[name])} here"
    return None


def reason(error: BaseException) -> str:
    """Why a file cannot be read, in a few words."""
    return one_line(error)[:200] or type(error).__name__


def _shape(described: list[Any]) -> str:
    return f"{described[0]}{described[1]}"


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
