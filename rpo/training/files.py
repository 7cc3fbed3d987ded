"""Files that are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what was written there takes its place at the end.

    If the body fails, what it has written is removed and an older file of this name is untouched;
    a reader sees the old contents or the new, never a part.

    Raises:
        OSError: if the file cannot be flushed to the disk or renamed, or `path` is a directory.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f"{path.stem}.tmp{path.suffix}")  # encoders go by the suffix
    temporary.unlink(missing_ok=True)  # a link would lead elsewhere
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an error of the system the name of what could not be written, where it has none: a full
    disk does not say which file was too much."""
    try:
        yield
    except OSError as error:
        if error.strerror and not error.filename:
            error.filename = str(path)
        raise
