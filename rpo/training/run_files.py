"""The files of a run directory, checked before anything else reads them.

A run may come from a stranger, or have been damaged. Nothing in it is executed, no link is
followed, and what does not hold together is refused in one line that names the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rpo.errors import RunError, one_line
from rpo.training.files import replacing

MAX_JSON_BYTES = 50_000_000
MAX_TEXT = 4096
"""Length of a name in a config."""
MAX_DEPTH = 10
"""Of directories in a run directory."""

_SECTIONS: dict[str, type] = {
    "task": str,
    "algorithm": str,
    "preset": str,
    "run_settings": dict,
    "algorithm_settings": dict,
    "task_settings": dict,
    "sessions": list,
}


def require_plain(directory: Path) -> None:
    """Refuses a run directory that holds links, devices or pipes, or directories without end.

    A link would let reading hang, and writing reach a file elsewhere.

    Raises:
        RunError: naming the first one.
    """
    for where, directories, files in os.walk(directory, followlinks=False):
        if len(Path(where).parts) - len(directory.parts) > MAX_DEPTH:
            raise RunError(f"{directory} holds directories more than {MAX_DEPTH} deep")
        for name in (*directories, *files):
            path = Path(where) / name
            if path.is_symlink():
                raise RunError(f"{path} is a link; a run directory holds plain files only")
            if not path.is_dir() and not path.is_file() and path.exists():
                raise RunError(f"{path} is not a plain file")
        if Path(where) == directory and "wandb" in directories:
            directories.remove("wandb")  # never read here; that program keeps links in it


def read_json(path: Path) -> Any:
    """Contents of a JSON file.

    Raises:
        FileNotFoundError: if there is none.
        RunError: in one line, if it is damaged, or not a plain file.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a plain file")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {MAX_JSON_BYTES / 1e6:.0f} MB")
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        raise
    except RecursionError:
        raise RunError(f"{path} cannot be read: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {one_line(error)[:300]}") from error


def check_config(path: Path, config: Any, version: int) -> dict[str, Any]:
    """The contents of a `config.json`, if every section is there and of the right kind.

    Raises:
        RunError: in one line.
    """
    if not isinstance(config, dict) or config.get("format") != version:
        raise RunError(f"{path} is not of this program (format {version})")
    for name, kind in _SECTIONS.items():
        if not isinstance(config.get(name), kind):
            raise RunError(f"{path} is damaged: {name} is missing or not what it should be")
        if kind is str and len(config[name]) > MAX_TEXT:
            raise RunError(f"{path} is damaged: {name} is longer than {MAX_TEXT} characters")
    for name in ("seed", "seeds"):
        value = config["run_settings"].get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise RunError(f"{path} is damaged: {name} is not a whole number in its range")
    if config["run_settings"]["seeds"] > 2**20:
        raise RunError(f"{path} is damaged: seeds is out of range")
    if not isinstance(config.get("origin"), (dict, type(None))):
        raise RunError(f"{path} is damaged: origin is not what it should be")
    if not all(isinstance(session, dict) for session in config["sessions"]):
        raise RunError(f"{path} is damaged: a session is not what it should be")
    return config


def read_rows(path: Path, kind: type, what: str, sound: Callable[[dict[str, Any]], bool]) -> Any:
    """Contents of a JSON file that is a list or a table of tables, all of which are sound.

    Raises:
        RunError: in one line, if it is not; it says that the file is not `what`.
    """
    contents = read_json(path)
    rows = contents.values() if isinstance(contents, dict) else contents
    if not isinstance(contents, kind) or not all(isinstance(x, dict) and sound(x) for x in rows):
        raise RunError(f"{path} is damaged: it is not a {what}")
    return contents


def set_aside(path: Path) -> Path:
    """Gives a damaged file another name, so that a new one can take its place.

    Returns:
        the new name.

    Raises:
        OSError: if that is not possible.
    """
    count = 0
    while True:
        aside = path.with_name(f"{path.name}.damaged{f'-{count}' if count else ''}")
        if not aside.exists():
            os.replace(path, aside)
            return aside
        count += 1


def write_json(path: Path, contents: Any) -> None:
    """Replaces a file at once or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("x", encoding="utf-8") as file:
        json.dump(contents, file, indent=2, allow_nan=False)
        file.write("\n")


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")
