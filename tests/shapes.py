"""Shapes and kinds of numbers in `rpo`'s annotations, checked while the tests call it.

What an annotation says of arrays is checked, on the way in and out, with the same name the same
length within a call. The rest of it is not: tests act with policies of one line, pass settings that
must be refused, and hand in numpy's arrays, or mere shapes, where `rpo` is passed JAX's.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook

ARRAYS = np.ndarray | jax.Array | jax.ShapeDtypeStruct


def check_annotations() -> None:
    """From now on every module of `rpo` that is imported is checked."""
    install_import_hook("rpo", "tests.shapes.checked")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises jaxtyping's TypeCheckError if arrays are not as annotated."""
    hints = typing.get_type_hints(function)
    arrays = {name: of_arrays(hint) for name, hint in hints.items()}
    if all(hint is Any for hint in arrays.values()):
        return function
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    functools.update_wrapper(copy, function)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = arrays
    return beartype(copy)


def of_arrays(hint: Any) -> Any:
    """What an annotation says of arrays; Any if it is nothing."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        either = ARRAYS if hint.array_type is jax.Array else hint.array_type
        return hint.dtype[either, hint.dim_str]
    parts = typing.get_args(hint)
    if not any(of_arrays(part) is not Any for part in parts):
        return Any
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [(of_arrays(part), part) for part in parts]
        return typing.Union[tuple(part if a is Any else a for a, part in found)]  # noqa: UP007
    if hint.__origin__ in (tuple, list, dict):
        return hint.__origin__[tuple(of_arrays(part) if part is not ... else ... for part in parts)]
    return Any  # callables and the like are not called here
