"""Tasks: differentiable batches of environments, and how to write one of your own."""

from rpo.envs.base import Env, EnvSpec, EnvState, EpisodicEnv, Transition
from rpo.envs.markers import Marker
from rpo.envs.randomization import Randomization
from rpo.envs.registry import describe, is_known, make, names, settings_class

__all__ = [
    "Env",
    "EnvSpec",
    "EnvState",
    "EpisodicEnv",
    "Marker",
    "Randomization",
    "Transition",
    "describe",
    "is_known",
    "make",
    "names",
    "settings_class",
]
