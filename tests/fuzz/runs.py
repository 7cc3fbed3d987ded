"""Run directories with flips, truncations, swaps and settings that cannot be."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from rpo import algorithms, envs
from rpo.errors import CheckpointError
from rpo.training.array_file import read_arrays, write_arrays
from rpo.training.settings import RunSettings

EVIL = "evil.py"
"""Written beside the run, which is where everything happens; executing it leaves a mark."""

odd_numbers = st.one_of(
    st.sampled_from((0, 1, -1, 2**31, 2**53 + 1, 10**30, 10**400, 1e308, 1e30, 0.5, 1.0)),
    st.integers(),
    st.floats(),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), odd_numbers, st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def settings() -> st.SearchStrategy[tuple[str, str, dict[str, Any]]]:
    """A task, a method, and settings of any kind: of theirs, of others, and unknown ones."""

    @st.composite
    def given(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
        task = draw(st.sampled_from((*envs.names(), "nope", "", "a.py", "a.py:B")))
        method = draw(st.sampled_from((*algorithms.names(), "rpoo")))
        names = ["odd"]
        for owner in (
            RunSettings,
            algorithms.config_class(method if method != "rpoo" else "rpo"),
            envs.settings_class(task if task in envs.names() else "ant"),
        ):
            names += [field.name for field in dataclasses.fields(owner)]
        numbers = st.one_of(values, odd_numbers, st.integers(1, 64), st.floats(0, 1))
        return task, method, draw(st.dictionaries(st.sampled_from(names), numbers, max_size=4))

    return given()


@dataclasses.dataclass(frozen=True)
class Damage:
    """What is done to a copy of a run.

    Args:
        kind: of damage.
        file: which file of the run, by its number.
        other: another one, for swaps.
        place: where in the file, from 0 to 1.
        data: what is put there; for "json" a path through the contents and a value; "facts" the
            same in a file of arrays, whose digest is made to fit, as a forger would; "array" is an
            array of another type, shape or contents.
    """

    kind: str
    file: int
    other: int
    place: float
    data: bytes
    path: tuple[int, ...]
    value: Any


def damages() -> st.SearchStrategy[list[Damage]]:
    """One or two of them."""
    value = st.one_of(values, st.sampled_from((f"{EVIL}:Evil", "hopper", "nan", "../..", "x.xml")))
    one = st.builds(
        Damage,
        kind=st.sampled_from(
            (
                *("flip", "cut", "insert", "remove", "swap", "text", "link"),
                *("json", "json", "json", "facts", "facts", "facts", "array"),
            )
        ),
        file=st.integers(0, 1000),
        other=st.integers(0, 1000),
        place=st.floats(0, 1),
        data=st.binary(min_size=1, max_size=6),
        path=st.lists(st.integers(0, 40), max_size=4).map(tuple),
        value=value,
    )
    return st.lists(one, min_size=1, max_size=2)


def files_of(run: Path) -> list[Path]:
    """Files that a user's program would read; those of text several times, for they matter most."""
    found = sorted(path for path in run.rglob("*") if path.is_file())
    read = [path for path in found if "tensorboard" not in path.parts and path.suffix != ".png"]
    text = [path for path in read if path.suffix in (".json", ".csv")]
    return read + 3 * text


def apply(run: Path, damage: Damage) -> None:
    """Damages a run."""
    files = files_of(run)
    path, other = files[damage.file % len(files)], files[damage.other % len(files)]
    data = path.read_bytes()
    at = int(damage.place * max(len(data) - 1, 0))
    if damage.kind == "flip" and data:
        path.write_bytes(data[:at] + bytes([data[at] ^ (damage.data[0] or 1)]) + data[at + 1 :])
    elif damage.kind == "cut":
        os.truncate(path, at)
    elif damage.kind == "insert":
        path.write_bytes(data[:at] + damage.data + data[at:])
    elif damage.kind == "text":
        words = data.split(b",")
        words[at % len(words)] = str(damage.value).encode("utf-8", "replace")
        path.write_bytes(b",".join(words))
    elif damage.kind == "remove":
        path.unlink()
    elif damage.kind == "swap":
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
    elif damage.kind == "link":
        path.unlink()
        path.symlink_to("/dev/zero")
    elif damage.kind == "json":
        names = [p for p in files if p.suffix == ".json"]
        _edit(names[damage.file % len(names)], lambda contents: _replace(contents, damage))
    elif damage.kind in ("facts", "array"):
        names = [p for p in files if p.suffix == ".npz"]
        _forge(names[damage.file % len(names)], damage)


def _edit(path: Path, change: Any) -> None:
    try:
        contents = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    if isinstance(contents, dict | list):
        change(contents)
        path.write_text(json.dumps(contents, default=str), encoding="utf-8", errors="replace")


def _forge(path: Path, damage: Damage) -> None:
    """Changes facts or an array of a file, and makes its digest fit."""
    kind = "checkpoint" if path.parent.name == "checkpoints" else "policies"
    try:
        facts, arrays, _ = read_arrays(path, kind, "file")
    except CheckpointError:  # damaged already
        return
    try:
        if damage.kind == "facts":
            _replace(facts, dataclasses.replace(damage, file=damage.other // 7))
        else:
            name = sorted(arrays)[damage.other % len(arrays)]
            arrays[name] = ODD_ARRAYS[damage.data[0] % len(ODD_ARRAYS)](arrays[name])
        write_arrays(path, kind, facts, arrays)
    except (ValueError, TypeError):  # a number that JSON does not have, an array forged before
        return


ODD_ARRAYS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda x: x.astype(complex),
    lambda x: x.astype(str),
    lambda x: x.astype(bool),
    lambda x: x.astype(float),
    lambda x: np.zeros(x.shape, "V8"),
    lambda x: np.zeros(x.shape, "M8[s]"),
    lambda x: np.full(x.shape, np.nan, np.float32),
    lambda x: np.full(x.shape, np.inf, np.float32),
    lambda x: x.reshape(-1),
    lambda x: x[:1],
    lambda x: x[..., None],
    lambda x: np.zeros((0, *x.shape), x.dtype),
)
"""What a forger may put in an array's place."""


def _replace(contents: Any, damage: Damage) -> None:
    """Puts the value at the end of a path through lists and tables."""
    for step in (*damage.path, damage.file):
        keys = list(contents) if isinstance(contents, dict) else list(range(len(contents)))
        if not keys:
            return
        key = keys[step % len(keys)]
        if not isinstance(contents[key], dict | list) or not contents[key]:
            break
        inner = contents[key]
        if step % 3 == 0:
            break
        contents = inner
    keys = list(contents) if isinstance(contents, dict) else list(range(len(contents)))
    key = keys[damage.other % len(keys)]
    if damage.place < 0.1:
        del contents[key]
    else:
        contents[key] = damage.value


def copied(run: Path, to: Path) -> Path:
    """A copy without what nobody reads, on which damage can be done."""
    shutil.rmtree(to, ignore_errors=True)
    ignored = shutil.ignore_patterns("tensorboard", "*.png")
    return Path(shutil.copytree(run, to, ignore=ignored))
