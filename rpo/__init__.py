"""Reparameterization Proximal Policy Optimization: training through differentiable simulation.

Importing the package sets two XLA options for the CPU (see `rpo.runtime`), so import it before JAX
runs anything. `train` and `evaluate` are the whole program; `rpo.envs`, `rpo.algorithms`,
`rpo.physics` are its parts.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

from rpo import runtime
from rpo.errors import SettingsError

with contextlib.suppress(SettingsError):  # whatever is used first says it in one line
    runtime.configure()

__version__ = runtime.VERSION
__all__ = ["Evaluation", "Run", "__version__", "evaluate", "load_policy", "make", "train"]

_HOMES = {
    "train": "rpo.api",
    "evaluate": "rpo.training",
    "load_policy": "rpo.training",
    "Run": "rpo.training",
    "Evaluation": "rpo.training",
    "make": "rpo.envs",
}


def __getattr__(name: str) -> Any:
    """Load the training program only when it is used: `import rpo` and `rpo --help` stay quick."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rpo' has no attribute {name!r}")
