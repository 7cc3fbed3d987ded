"""Settings of the right kind: what the command line, Python or a file gives, by the annotations."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from rpo.errors import SettingsError

LARGEST_FLOAT = 1e30
"""Numbers go into single precision, where larger ones soon overflow."""
LARGEST_INT = 2**53
MAX_LENGTH = 100_000
"""Of a list."""


def typed(settings_class: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of settings, each of the kind that its field is annotated with.

    A whole number may be given as a float (`1e6`), a tuple as a list, or as a lone number if its
    length is free.

    Args:
        settings_class: a dataclass.
        values: by name; names that the class does not have are left alone.

    Raises:
        SettingsError: in one line, if a value is of another kind, not finite, or far too large.
    """
    hints = _hints(settings_class)  # type: ignore[arg-type]  # classes can be hashed
    return {
        name: _convert(name, value, hints[name]) if name in hints else value
        for name, value in values.items()
    }


@functools.cache
def _hints(settings_class: type[Any]) -> dict[str, Any]:
    """Annotations, which are text until they are asked for: read once per class."""
    return typing.get_type_hints(settings_class)


def _convert(name: str, value: Any, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        others = [one for one in arguments if one is not type(None)]
        return None if value is None else _convert(name, value, others[0])
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise _wrong(name, value, "one of " + ", ".join(map(str, arguments)))
        return value
    if origin is tuple:
        return _tuple(name, value, arguments)
    if kind is bool:
        if not isinstance(value, bool):
            raise _wrong(name, value, "true or false")
        return value
    if kind is int:
        return _whole(name, value)
    if kind is float:
        return _finite(name, value)
    if kind is str and not isinstance(value, str):
        raise _wrong(name, value, "text")
    return value


def _tuple(name: str, value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    if kinds[-1] is Ellipsis and isinstance(value, int | float):
        value = (value,)
    if not isinstance(value, (list, tuple)) or len(value) > MAX_LENGTH:
        raise _wrong(name, value, "a list")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise _wrong(name, value, f"{len(kinds)} numbers")
    return tuple(_convert(name, one, kind) for one, kind in zip(value, kinds, strict=True))


def _whole(name: str, value: Any) -> int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= LARGEST_INT or value != int(value):
        raise _wrong(name, value, "a whole number, at most 2^53")
    return int(value)


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, value, "a number")
    if not abs(value) <= LARGEST_FLOAT:
        raise _wrong(name, value, f"finite, and at most {LARGEST_FLOAT:g} in magnitude")
    return float(value)


def _wrong(name: str, value: Any, wanted: str) -> SettingsError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return SettingsError(f"{name} is {shown}, must be {wanted}")
