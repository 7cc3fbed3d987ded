"""Physics operation by operation: for one robot and a few steps, compiling costs more."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P, T = ParamSpec("P"), TypeVar("T")


def eagerly(function: Callable[P, T]) -> Callable[P, T]:
    """The same function without `jax.jit`, its loops in Python.

    Single operations on batches of one size are compiled once for all robots of a worker; a whole
    step is compiled for one robot, and its derivative again.
    """

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        with jax.disable_jit():
            return function(*arguments, **named)

    return call
