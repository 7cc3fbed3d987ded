"""Gaussian policies: squashed by tanh, or clipped by the environment."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rpo.mirror import Mirror
from rpo.nets.distributions import Gaussian
from rpo.nets.mirror import Tied, halves, tied_linear, tied_trunk
from rpo.nets.mlp import Linear, Trunk
from rpo.nets.normalizer import Normalizer

LOG_STD_RANGE = (-5.0, 2.0)


@jax.custom_vjp
def bounded_log_std(
    head: Linear, features: Float[Array, "*batch features"]
) -> Float[Array, "*batch action"]:
    """The head's output, clipped to LOG_STD_RANGE, from beyond which descent leads back.

    Where the output lies beyond a bound, the clipped value does not depend on it, and its
    derivative is zero: with it, a standard deviation that once got there would stay for good. Here
    the head's parameters, and they alone, receive such a gradient as if nothing were clipped if a
    step *against* it, which lowers a loss, moves the output back inside. That by the features
    stays exact, for derivatives through the states of a rollout in which parameters are constant.
    """
    return jnp.clip(head(features), *LOG_STD_RANGE)


def _bounded_forward(
    head: Linear, features: Float[Array, "*batch features"]
) -> tuple[Float[Array, "*batch action"], tuple[Linear, Array, Array]]:
    output = head(features)
    return jnp.clip(output, *LOG_STD_RANGE), (head, features, output)


def _bounded_backward(
    saved: tuple[Linear, Array, Array], gradient: Float[Array, "*batch action"]
) -> tuple[Linear, Float[Array, "*batch features"]]:
    head, features, output = saved
    low, high = LOG_STD_RANGE
    inside = (output >= low) & (output <= high)
    returns = ((output < low) & (gradient < 0)) | ((output > high) & (gradient > 0))
    _, pull_back = jax.vjp(lambda head, features: head(features), head, features)
    by_head, _ = pull_back(jnp.where(inside | returns, gradient, 0))
    _, by_features = pull_back(jnp.where(inside, gradient, 0))
    return by_head, by_features


bounded_log_std.defvjp(_bounded_forward, _bounded_backward)


class GaussianPolicy(Tied):
    """A network that maps normalised observations to a Gaussian over u, from which actions come."""

    gain: ClassVar[float] = 1.0
    """Scale of the hidden layers' weights."""
    head_gain: ClassVar[float] = 1.0
    """The same of the two heads."""
    trunk: Trunk
    mean_head: Linear
    log_std_head: Linear
    mirror: Mirror | None = eqx.field(static=True)

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        key: Array,
        *,
        mirror: Mirror | None = None,
        initial_std: float = 1.0,
    ) -> None:
        """Orthogonal weights; biases are zero but for those of log_std, log(initial_std).

        Args:
            observation_size: length of one observation.
            action_size: length of one action.
            hidden_sizes: widths of the hidden layers, at least one.
            key: a JAX random key.
            mirror: of a policy that does in the mirrored situation the mirror of what it does in
                this one; see `rpo.nets.mirror`.
            initial_std: about which standard deviations start; the heads' weights are scaled by
                it, so that small ones are alike everywhere, and means small, too.

        Raises:
            SettingsError: if there is a mirror and a hidden layer's width is odd.
        """
        trunk_key, mean_key, std_key = jax.random.split(key, 3)
        self.trunk = Trunk(observation_size, hidden_sizes, trunk_key, self.gain)
        gain = self.head_gain * initial_std
        self.mean_head = Linear(hidden_sizes[-1], action_size, mean_key, gain)
        self.log_std_head = Linear(hidden_sizes[-1], action_size, std_key, gain)
        if initial_std != 1.0:
            bias = self.log_std_head.bias + math.log(initial_std)
            self.log_std_head = eqx.tree_at(lambda head: head.bias, self.log_std_head, bias)
        self.mirror = mirror
        tied = self.tied(math.sqrt(2.0))  # outputs as large as of independent weights
        self.trunk = tied.trunk
        self.mean_head = tied.mean_head
        self.log_std_head = tied.log_std_head

    def tied(self, scale: float = 1.0) -> GaussianPolicy:
        """See `Tied`. Standard deviations have no direction: they are exchanged without signs."""
        if self.mirror is None:
            return self
        action = self.mirror.action
        last = halves(self.mean_head.weight.shape[0])
        parts = (
            tied_trunk(self.trunk, self.mirror.observation, scale),
            tied_linear(self.mean_head, last, action, scale),
            tied_linear(self.log_std_head, last, action.unsigned(), scale),
        )
        result: GaussianPolicy = eqx.tree_at(
            lambda x: (x.trunk, x.mean_head, x.log_std_head), self, parts
        )
        return result

    @abc.abstractmethod
    def __call__(self, observation: Float[Array, "*batch observation"]) -> Gaussian:
        """Distribution of u for normalised observations."""

    @staticmethod
    @abc.abstractmethod
    def squash(pre_squash: Float[Array, "*batch action"]) -> Float[Array, "*batch action"]:
        """The action that the environment receives for u."""


class TanhGaussianPolicy(GaussianPolicy):
    """u = mean(o) + std(o) * noise, action = tanh(u); log-std depends on the state, in [-5, 2]."""

    __init__ = GaussianPolicy.__init__

    def __call__(self, observation: Float[Array, "*batch observation"]) -> Gaussian:
        """Distribution of the pre-squash action u for normalised observations."""
        features = self.trunk(observation)
        log_std = bounded_log_std(self.log_std_head, features)
        return Gaussian(self.mean_head(features), log_std)

    @staticmethod
    def squash(pre_squash: Float[Array, "*batch action"]) -> Float[Array, "*batch action"]:
        """The action that the environment receives."""
        return jnp.tanh(pre_squash)


class ClippedGaussianPolicy(GaussianPolicy):
    """The policy of PPO: u = mean(o) + std(o) * noise is the action, which environments clip.

    The mean is a tanh; the standard deviation 0.9 * sigmoid(x + 2) + 0.1 lies in [0.1, 1].
    """

    gain: ClassVar[float] = math.sqrt(2)
    head_gain: ClassVar[float] = 0.01  # the mean starts near zero
    __init__ = GaussianPolicy.__init__

    def __call__(self, observation: Float[Array, "*batch observation"]) -> Gaussian:
        """Distribution of the action, before environments clip it."""
        features = self.trunk(observation)
        std = 0.9 * jax.nn.sigmoid(self.log_std_head(features) + 2.0) + 0.1
        return Gaussian(jnp.tanh(self.mean_head(features)), jnp.log(std))

    @staticmethod
    def squash(pre_squash: Float[Array, "*batch action"]) -> Float[Array, "*batch action"]:
        """The same: its density is that of the Gaussian, whatever the environment makes of it."""
        return pre_squash


class Actor(eqx.Module):
    """What acts: a policy and the observation statistics it was trained with."""

    policy: GaussianPolicy
    normalizer: Normalizer

    def __call__(
        self, observation: Float[Array, "*batch observation"], key: Array | None = None
    ) -> Float[Array, "*batch action"]:
        """The action for `Env.step`.

        Args:
            observation: as the environment gives it, not normalised.
            key: a JAX random key to sample an action, or None for the deterministic action
                squash(mean).
        """
        distribution = self.policy(self.normalizer(observation))
        mean = distribution.mean
        if key is None:
            return self.policy.squash(mean)
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return self.policy.squash(distribution.sample(noise))
