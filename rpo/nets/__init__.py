"""Networks: policies, critics, distributions and the observation normaliser."""

from rpo.nets.critic import CriticEnsemble
from rpo.nets.distributions import Gaussian, log_tanh_slope
from rpo.nets.mlp import MLP, LayerNorm, Linear, Trunk
from rpo.nets.normalizer import Normalizer, new_normalizer
from rpo.nets.policy import Actor, ClippedGaussianPolicy, GaussianPolicy, TanhGaussianPolicy
from rpo.nets.state_values import CRITICS, Critic, StateValues, new_state_values

__all__ = [
    "CRITICS",
    "MLP",
    "Actor",
    "ClippedGaussianPolicy",
    "Critic",
    "CriticEnsemble",
    "Gaussian",
    "GaussianPolicy",
    "LayerNorm",
    "Linear",
    "Normalizer",
    "StateValues",
    "TanhGaussianPolicy",
    "Trunk",
    "log_tanh_slope",
    "new_normalizer",
    "new_state_values",
]
