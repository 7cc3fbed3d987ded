"""An environment's methods compile themselves when they are called outside of a program."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import jax

_PROGRAMS: dict[int, dict[str, Callable[..., Any]]] = {}


def run_compiled(owner: object, name: str, *arguments: Any, static: tuple[int, ...] = ()) -> Any:
    """`owner.name(*arguments)`, compiled unless the call is part of a program already.

    The owner's arrays are constants of the program, as they are in training. The program lives as
    long as its owner.

    Args:
        owner: an immutable object that can be weakly referenced.
        name: of its method; positional arguments only.
        arguments: pytrees of arrays, and whatever `static` points at.
        static: positions of arguments that are not arrays: each value is compiled for.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((owner, arguments))):
        return getattr(owner, name)(*arguments)
    programs = _PROGRAMS.get(id(owner))
    if programs is None:
        programs = _PROGRAMS[id(owner)] = {}
        weakref.finalize(owner, _PROGRAMS.pop, id(owner), None)
    if name not in programs:
        reference = weakref.ref(owner)  # a program that held its owner would keep it alive

        def call(*values: Any) -> Any:
            return getattr(reference(), name)(*values)

        programs[name] = jax.jit(call, static_argnums=static)
    return programs[name](*arguments)
