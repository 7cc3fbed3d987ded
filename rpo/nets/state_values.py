"""Critics of state values whose networks work near 1, whatever the level of returns.

A value is `mean + std * output`, with units (mean, std) that no optimiser moves. AdamW takes steps
of a bounded length: a network whose output is the value itself (units 0 and 1) needs hundreds of
iterations to rise to a level of 700, and while the level is wrong the slope dV/do, all that the
actor of a first-order method learns from, is not learned either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rpo.mirror import SignedPermutation
from rpo.nets.critic import CriticEnsemble
from rpo.nets.mlp import MLP

Critic = Literal["plain", "scaled", "normalized", "popart", "categorical"]
CRITICS: tuple[Critic, ...] = get_args(Critic)

UNITS_RATE = 0.1
"""Weight of the newest iteration's targets in running units."""
SMALLEST_STD = 1.0
"""Of running units, in those of the return: targets that are all alike have none."""
BINS = 101
"""Of a categorical critic."""
SUPPORT = 8.0
"""How many standard deviations a categorical critic's outermost bins lie from the mean."""
SMOOTHING = 0.75
"""Standard deviation of HL-Gauss's target distribution, in bins."""


class ValueUnits(eqx.Module):
    """The affine map from a network's output to a value.

    Args:
        mean: value of output 0.
        std: value of output 1, relative to that of 0.
        square: running mean of the targets' squares; 0 for constant units.
        weight: that the running means have gathered, in [0, 1]; 0 for constant units.
    """

    mean: Float[Array, ""]
    std: Float[Array, ""]
    square: Float[Array, ""]
    weight: Float[Array, ""]

    def following(self, mean: Float[Array, ""], square: Float[Array, ""]) -> ValueUnits:
        """Units after targets with this mean and mean square: exponential means, unbiased."""
        weight = self.weight + UNITS_RATE * (1.0 - self.weight)
        share = UNITS_RATE / weight
        mean = self.mean + share * (mean - self.mean)
        square = self.square + share * (square - self.square)
        variance = jnp.maximum(square - mean * mean, SMALLEST_STD**2)
        return ValueUnits(mean, jnp.sqrt(variance), square, weight)


def constant_units(scale: float) -> ValueUnits:
    """value = scale * output."""
    dtype = jax.dtypes.canonicalize_dtype(float)
    zero = jnp.zeros((), dtype)
    return ValueUnits(mean=zero, std=jnp.asarray(scale, dtype), square=zero, weight=zero)


class StateValues(eqx.Module):
    """Independent critics of state values, in units of their own.

    Args:
        networks: what an optimiser moves.
        units: what it does not.
        critic: how outputs relate to values and what their units are: "plain", the value itself;
            "scaled", in units of 1 / (1 - discount); "normalized", in those of the targets' running
            mean and standard deviation, which moves all values along with the targets' level;
            "popart", the same with output layers adjusted so that no value moves (van Hasselt et
            al. 2016); "categorical", "normalized" with a distribution over bins for an output,
            fitted by cross entropy (HL-Gauss, Farebrother et al. 2024).
    """

    networks: CriticEnsemble
    units: ValueUnits
    critic: Critic = eqx.field(static=True)

    def __call__(
        self, observation: Float[Array, "*batch observation"]
    ) -> Float[Array, "critics *batch"]:
        """Values of normalised observations, in units of the return, one row per critic."""
        return jnp.stack([self.value(member, observation) for member in self.networks.members])

    def value(
        self, member: MLP, observation: Float[Array, "*batch observation"]
    ) -> Float[Array, "*batch"]:
        """Value by one of the networks."""
        output = member(observation)
        if self.critic == "categorical":
            relative = jax.nn.softmax(output) @ jnp.linspace(-SUPPORT, SUPPORT, BINS)
        else:
            relative = output[..., 0]
        return self.units.mean + self.units.std * relative

    def loss(
        self,
        networks: CriticEnsemble,
        observation: Float[Array, "samples observation"],
        target: Float[Array, " samples"],
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """What `networks` minimise, and the mean over critics and samples of the squared error.

        The two are the same (eq. 15) unless the critics are categorical.
        """
        critics = StateValues(networks, self.units, self.critic)
        if self.critic != "categorical":
            error = jnp.mean((critics(observation) - target) ** 2)
            return error, error
        wanted = histogram((target - self.units.mean) / self.units.std)
        outputs = [member(observation) for member in networks.members]
        entropies = [-jnp.sum(wanted * jax.nn.log_softmax(x), axis=-1).mean() for x in outputs]
        values = [jax.nn.softmax(x) @ jnp.linspace(-SUPPORT, SUPPORT, BINS) for x in outputs]
        error = self.units.mean + self.units.std * jnp.stack(values) - target
        return jnp.mean(jnp.stack(entropies)), jnp.mean(error**2)

    def following(self, mean: Float[Array, ""], square: Float[Array, ""]) -> StateValues:
        """Critics whose units, if they run, also cover targets with this mean and mean square."""
        if self.critic in ("plain", "scaled"):
            return self
        units = self.units.following(mean, square)
        networks = self.networks
        if self.critic == "popart":
            networks = _with_equal_values(networks, self.units, units)
        return StateValues(networks, units, self.critic)


def new_state_values(
    observation_size: int,
    hidden_sizes: Sequence[int],
    count: int,
    key: Array,
    *,
    critic: Critic,
    discount: float,
    mirror: SignedPermutation | None = None,
) -> StateValues:
    """Fresh critics.

    Args:
        observation_size: length of one observation.
        hidden_sizes: widths of the hidden layers, at least one.
        count: independent networks.
        key: a JAX random key.
        critic: see `StateValues`.
        discount: below 1 for "scaled".
        mirror: of an observation, which changes no value; see `rpo.nets.mirror`.
    """
    outputs = BINS if critic == "categorical" else 1
    networks = CriticEnsemble(
        observation_size, hidden_sizes, count, key, outputs=outputs, mirror=mirror
    )
    scale = 1.0 / (1.0 - discount) if critic == "scaled" else 1.0
    return StateValues(networks, constant_units(scale), critic)


def histogram(relative: Float[Array, "*batch"]) -> Float[Array, "*batch bins"]:
    """Probabilities of the bins under a normal distribution around each target.

    A target beyond the outermost bins counts as being there.
    """
    width = 2.0 * SUPPORT / (BINS - 1)
    edges = jnp.linspace(-SUPPORT - 0.5 * width, SUPPORT + 0.5 * width, BINS + 1)
    centre = jnp.clip(relative, -SUPPORT, SUPPORT)[..., None]
    below = jax.scipy.special.erf((edges - centre) / (math.sqrt(2.0) * SMOOTHING * width))
    mass = below[..., 1:] - below[..., :-1]
    return mass / (below[..., -1:] - below[..., :1])


def _with_equal_values(
    networks: CriticEnsemble, old: ValueUnits, new: ValueUnits
) -> CriticEnsemble:
    """Output layers that give in new units the values that they gave in the old ones."""

    def outputs(ensemble: CriticEnsemble) -> list[Any]:
        heads = [member.head for member in ensemble.members]
        return [head.weight for head in heads] + [head.bias for head in heads]

    ratio = old.std / new.std
    shift = (old.mean - new.mean) / new.std
    count = len(networks.members)
    adjusted = [x * ratio + (shift if k >= count else 0.0) for k, x in enumerate(outputs(networks))]
    moved: CriticEnsemble = eqx.tree_at(outputs, networks, adjusted)
    return moved
