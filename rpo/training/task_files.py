"""Tasks in a Python file of the user's, `FILE.py:CLASS`: loaded on his word only, and checked.

Loading such a file executes it. So a run that was trained on one does not load it by itself: the
user names the file, or says that he trusts the run. What is wrong in the file is told in three
lines: what, where, and what to do.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import linecache
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rpo.adapters.foreign import is_foreign
from rpo.envs.base import Env
from rpo.errors import RunError, SettingsError, TaskError
from rpo.training.task_check import check_env

MAX_FILE_BYTES = 10_000_000
_PREFIX = "_rpo_task_"


def is_task_file(task: str) -> bool:
    """Whether a task's name means a file."""
    return (":" in task and not is_foreign(task)) or task.endswith(".py")


def parse_task_file(task: str) -> tuple[Path, str]:
    """`FILE.py:CLASS` in its parts: path of the file, and name of the class in it.

    Raises:
        SettingsError: if there is no such file, or no class is named (lists those in the file).
    """
    file, colon, name = task.rpartition(":")
    if not colon:
        file, name = task, ""
    path = Path(file)
    contents = _contents(path)
    if not name:
        classes = _classes(contents)
        known = f"; it has {', '.join(classes)}" if classes else ""
        example = f"{file}:{classes[0] if classes else 'CLASS'}"
        raise SettingsError(f"name the class in {file}, as in {example}{known}")
    return path, name


def load_task(task: str) -> Env:
    """An environment from `FILE.py:CLASS`. Executes the file.

    Raises:
        SettingsError: if there is no such file or class.
        TaskError: if the file or its class fails, or what it computes has wrong shapes.
    """
    file, class_name = parse_task_file(task)
    path = file.absolute()
    spec = importlib.util.spec_from_file_location(_PREFIX + path.stem, path)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:  # as for a script: it may import modules beside it
        sys.path.insert(0, str(path.parent))
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise explained(error, file) from error
    env_class = getattr(module, class_name, None)
    if not (isinstance(env_class, type) and issubclass(env_class, Env)):
        classes = [
            name
            for name, one in vars(module).items()
            if isinstance(one, type) and issubclass(one, Env) and one.__module__ == spec.name
        ]
        known = f"; it has {', '.join(classes)}" if classes else ""
        raise SettingsError(f"{file} defines no environment class {class_name}{known}")
    build: Callable[..., Env] = env_class
    try:
        env = build()
        check_env(env)
    except TaskError:
        raise
    except Exception as error:
        raise explained(error, file, doing=f"making {class_name}()") from error
    return env


def explained(error: BaseException, path: Path, doing: str = "") -> TaskError:
    """An error in a user's file, in three lines: what, where, and what to do.

    Args:
        error: raised by the file, or by a library that it called.
        path: of the file; modules beside it count as the user's, too.
        doing: what the program did, for an error that no line of the file belongs to.
    """
    what = _first_line(error)
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}, line {error.lineno}"
        return TaskError(f"{what}\n  {where}: {(error.text or '').strip()}\n{_REMEDY}")
    place = _place(error.__traceback__, path)
    if place is None:
        return TaskError(f"{what}\n  while {doing or f'loading {path}'}\n{_REMEDY}")
    line = (place.line or "").strip()
    return TaskError(
        f"{what}\n  {place.filename}, line {place.lineno}, in {place.name}: {line}\n{_REMEDY}"
    )


def blamed_on_task(error: Exception) -> TaskError | None:
    """The error as one of the user's task, if it arose in a file that was loaded here as one.

    Of several loaded tasks one that was running is at fault, before one beside which code ran:
    a task in a project's root has the whole project beside it.
    """
    frames = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    loaded = [
        Path(path)
        for name, module in list(sys.modules.items())
        if name.startswith(_PREFIX) and (path := getattr(module, "__file__", None))
    ]
    for path in sorted(loaded, key=lambda path: str(path.absolute()) not in frames):
        if _place(error.__traceback__, path):
            return explained(error, path)
    return None


def trusted_task(path: Path, config: Mapping[str, Any], task: str | None, trust: bool) -> str:
    """The file to load for a run that was trained on a user's own.

    Args:
        path: of the run.
        config: its `config.json`.
        task: `FILE.py:CLASS` as the user names it, or None.
        trust: whether the user wants the file that the run names to be executed.

    Raises:
        RunError: if the user has said neither, or the file is not the one it was trained with.
    """
    digest, place = _recorded(config)
    named: str = config["task"]
    if isinstance(place, str):
        named = f"{place}:{named.rpartition(':')[2]}"
    if task is not None:
        if digest is not None and _digest(parse_task_file(task)[0]) != digest:
            warnings.warn(
                f"{task} is not the same as when {path} was trained (its sha256 differs)",
                stacklevel=3,
            )
        return task
    if not trust:
        raise RunError(
            f"{path} was trained on {named}, and using it would execute that file; if you trust "
            "it, add --trust, or name the file yourself: --task FILE.py:CLASS (Python: env=...)"
        )
    if digest is not None and _digest(parse_task_file(named)[0]) != digest:
        raise RunError(
            f"{named} is not the file that {path} was trained with (its sha256 differs); if you "
            f"mean it nevertheless, name it: --task {named}"
        )
    return named


def file_facts(path: Path) -> dict[str, str]:
    """What a run records of its task's file, ready for JSON; nothing of what that includes.

    Raises:
        SettingsError: if there is no such file.
    """
    return {"path": str(path.absolute()), "sha256": _digest(path)}


def recorded_description(path: Path, config: Mapping[str, Any]) -> str:
    """The description that a run was trained on: where it was then, else by its name.

    Args:
        path: of the run.
        config: its `config.json`.

    Raises:
        RunError: if the file is another one by now.
    """
    digest, place = _recorded(config)
    found = [one for one in (place, config["task"]) if isinstance(one, str) and _is_file(one)]
    if not found or digest is None:
        return found[-1] if found else str(config["task"])
    same = [one for one in found if _digest(Path(one)) == digest]
    if not same:
        raise RunError(
            f"{found[0]} is not the description that {path} was trained on (its sha256 differs); "
            "put that one back, or give the environment yourself (Python: env=...)"
        )
    return same[0]


def recorded_digest(config: Mapping[str, Any]) -> str | None:
    """SHA-256 of the file that a run's task is, None if it is none or nobody has noted it."""
    digest = _recorded(config)[0]
    return digest if isinstance(digest, str) else None


def _recorded(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Digest and path of a run's file."""
    recorded = config.get("task_file")
    return (
        (recorded.get("sha256"), recorded.get("path"))
        if isinstance(recorded, dict)
        else (None,) * 2
    )


_REMEDY = "The task's own code is at fault; docs/custom-environment.md says what it must define."


def _is_file(path: str | Path) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long for a name
        return False


def _digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(_contents(path)).hexdigest()


def _contents(path: Path) -> bytes:
    if not _is_file(path):
        raise SettingsError(f"there is no file {path} (a task of your own is FILE.py:CLASS)")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise SettingsError(f"{path} is too large to be a task")
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error


def _classes(contents: bytes) -> list[str]:
    """Names of the classes that a file defines, without executing it; those with a base first."""
    try:
        tree = ast.parse(contents)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return [node.name for node in sorted(found, key=lambda node: not node.bases)]


def _place(trace: TracebackType | None, path: Path) -> traceback.FrameSummary | None:
    """The innermost line of the user's: in the file, or in a module beside it."""
    directory, found = str(path.absolute().parent), None
    libraries = (str(Path(__file__).parents[1]), sys.prefix, sys.base_prefix)
    for frame in traceback.extract_tb(trace):
        mine = frame.filename == str(path.absolute()) or (
            frame.filename.startswith(directory + "/")
            and not frame.filename.startswith(libraries)
            and "site-packages" not in frame.filename
        )
        found = frame if mine else found
    if found is not None:
        linecache.checkcache(found.filename)
    return found


def _first_line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else '(no message)'}"[:400]
