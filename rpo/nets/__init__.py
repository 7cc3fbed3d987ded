"""Networks: policies, critics, distributions and the observation normaliser."""

from rpo.nets.critic import CriticEnsemble
from rpo.nets.distributions import Gaussian, log_tanh_slope
from rpo.nets.mlp import MLP, LayerNorm, Linear, Trunk, parameter_count
from rpo.nets.normalizer import Normalizer, new_normalizer
from rpo.nets.policy import (
    ClippedGaussianPolicy,
    GaussianPolicy,
    TanhGaussianPolicy,
    policy_action,
)

__all__ = [
    "MLP",
    "ClippedGaussianPolicy",
    "CriticEnsemble",
    "Gaussian",
    "GaussianPolicy",
    "LayerNorm",
    "Linear",
    "Normalizer",
    "TanhGaussianPolicy",
    "Trunk",
    "log_tanh_slope",
    "new_normalizer",
    "parameter_count",
    "policy_action",
]
