"""The squashed Gaussian policy of the first-order methods."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rpo.nets.distributions import Gaussian
from rpo.nets.mlp import Linear, Trunk
from rpo.nets.normalizer import Normalizer

LOG_STD_RANGE = (-5.0, 2.0)


class TanhGaussianPolicy(eqx.Module):
    """u = mean(o) + std(o) * noise, action = tanh(u); log-std depends on the state, in [-5, 2]."""

    trunk: Trunk
    mean_head: Linear
    log_std_head: Linear

    def __init__(
        self, observation_size: int, action_size: int, hidden_sizes: Sequence[int], key: Array
    ) -> None:
        """Orthogonal weights of gain 1 everywhere, zero biases.

        Args:
            observation_size: length of one observation.
            action_size: length of one action.
            hidden_sizes: widths of the hidden layers, at least one.
            key: a JAX random key.
        """
        trunk_key, mean_key, std_key = jax.random.split(key, 3)
        self.trunk = Trunk(observation_size, hidden_sizes, trunk_key)
        self.mean_head = Linear(hidden_sizes[-1], action_size, mean_key)
        self.log_std_head = Linear(hidden_sizes[-1], action_size, std_key)

    def __call__(self, observation: Float[Array, "*batch observation"]) -> Gaussian:
        """Distribution of the pre-squash action u for normalised observations."""
        features = self.trunk(observation)
        log_std = jnp.clip(self.log_std_head(features), *LOG_STD_RANGE)
        return Gaussian(self.mean_head(features), log_std)

    @staticmethod
    def squash(pre_squash: Float[Array, "*batch action"]) -> Float[Array, "*batch action"]:
        """The action that the environment receives."""
        return jnp.tanh(pre_squash)


def policy_action(
    policy: TanhGaussianPolicy,
    normalizer: Normalizer,
    observation: Float[Array, "*batch observation"],
    key: Array | None,
) -> Float[Array, "*batch action"]:
    """What a trained policy does.

    Args:
        policy: from a training state.
        normalizer: from the same training state.
        observation: as the environment gives it, not normalised.
        key: a JAX random key to sample an action, or None for the deterministic action
            squash(mean).

    Returns:
        the action for `Env.step`.
    """
    distribution = policy(normalizer(observation))
    if key is None:
        return policy.squash(distribution.mean)
    mean = distribution.mean
    return policy.squash(distribution.sample(jax.random.normal(key, mean.shape, mean.dtype)))
