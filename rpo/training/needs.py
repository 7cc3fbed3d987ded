"""What some commands need beyond the ordinary installation, named in one line if it is missing."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from rpo.errors import RunError


def need(module: str, extra: str) -> ModuleType:
    """Imports a module that an extra of this package installs.

    Raises:
        RunError: in one line, if it is missing; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RunError(
            f"{module} is not installed ({error}); pip install 'rpo-jax[{extra}]' installs it"
        ) from error


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Keeps a library's own log to itself."""
    log = logging.getLogger(logger)
    level, handled = log.level, log.propagate
    log.setLevel(logging.CRITICAL)
    log.propagate = False
    try:
        yield
    finally:
        log.setLevel(level)
        log.propagate = handled
