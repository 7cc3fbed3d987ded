"""Tasks: differentiable batches of environments, and how to write one of your own."""

from rpo.envs.base import Env, EnvSpec, EnvState, EpisodicEnv, Transition

__all__ = ["Env", "EnvSpec", "EnvState", "EpisodicEnv", "Transition"]
