"""Training methods, by name."""

from __future__ import annotations

from typing import Any

from rpo.algorithms.base import Algorithm, Metrics, TrainState
from rpo.algorithms.gippo import GIPPO, GIPPOConfig
from rpo.algorithms.ppo import PPO, PPOConfig
from rpo.algorithms.rpo import RPO, RPOConfig
from rpo.algorithms.sac import SAC, SACConfig
from rpo.algorithms.sapo import SAPO, SAPOConfig
from rpo.algorithms.shac import SHAC, SHACConfig
from rpo.errors import unknown

_METHODS: dict[str, tuple[type[Any], type[Any]]] = {
    "rpo": (RPO, RPOConfig),
    "sapo": (SAPO, SAPOConfig),
    "shac": (SHAC, SHACConfig),
    "gippo": (GIPPO, GIPPOConfig),
    "ppo": (PPO, PPOConfig),
    "sac": (SAC, SACConfig),
}


def names() -> tuple[str, ...]:
    """Names of all methods."""
    return tuple(_METHODS)


def config_class(name: str) -> type[Any]:
    """The dataclass of a method's settings.

    Raises:
        ValueError: if there is no such method.
    """
    return _find(name)[1]


def make(name: str, config: Any, axis: str | None = None) -> Algorithm:
    """A method with its settings.

    Args:
        name: one of `names()`.
        config: an instance of `config_class(name)`.
        axis: name of the mapped device axis if environments are split over devices.

    Raises:
        ValueError: if there is no such method.
        TypeError: if `config` belongs to another method.
    """
    method, expected = _find(name)
    if not isinstance(config, expected):
        raise TypeError(
            f"{name} needs a {expected.__name__}, but was given a {type(config).__name__}"
        )
    algorithm: Algorithm = method(config=config, axis=axis)
    return algorithm


def _find(name: str) -> tuple[type[Any], type[Any]]:
    if name not in _METHODS:
        raise ValueError(unknown("algorithm", name, _METHODS))
    return _METHODS[name]


__all__ = [
    "GIPPO",
    "PPO",
    "RPO",
    "SAC",
    "SAPO",
    "SHAC",
    "Algorithm",
    "GIPPOConfig",
    "Metrics",
    "PPOConfig",
    "RPOConfig",
    "SACConfig",
    "SAPOConfig",
    "SHACConfig",
    "TrainState",
    "config_class",
    "make",
    "names",
]
