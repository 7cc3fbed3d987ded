"""Multilayer perceptrons that take whole batches: Linear, LayerNorm, SiLU in every hidden layer."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LAYER_NORM_EPSILON = 1e-5


class Linear(eqx.Module):
    """Affine map of the last axis. Batches are matrix products, not vmapped vector products."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, key: Array, gain: float = 1.0) -> None:
        """Orthogonal weight scaled by `gain`, zero bias.

        Args:
            inputs: size of the last axis of what it is applied to.
            outputs: size of the last axis of the result.
            key: a JAX random key.
            gain: scale of the orthogonal weight.
        """
        self.weight = jax.nn.initializers.orthogonal(gain)(key, (inputs, outputs))
        self.bias = jnp.zeros(outputs)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Applies the map to the last axis of `x`."""
        return x @ self.weight + self.bias


class LayerNorm(eqx.Module):
    """Normalises the last axis to zero mean and unit variance, then scales and shifts it."""

    scale: Float[Array, " features"]
    offset: Float[Array, " features"]

    def __init__(self, features: int) -> None:
        """Unit scale, zero offset, for a last axis of length `features`."""
        self.scale = jnp.ones(features)
        self.offset = jnp.zeros(features)

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        """Normalises the last axis of `x`."""
        mean = jnp.mean(x, axis=-1, keepdims=True)
        centred = x - mean
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON) * self.scale + self.offset


class Trunk(eqx.Module):
    """The hidden layers of a network: Linear, LayerNorm, SiLU each."""

    linears: tuple[Linear, ...]
    norms: tuple[LayerNorm, ...]

    def __init__(
        self, inputs: int, hidden_sizes: Sequence[int], key: Array, gain: float = 1.0
    ) -> None:
        """Builds one layer per entry of `hidden_sizes`; `gain` as in `Linear`."""
        sizes = (inputs, *hidden_sizes)
        keys = jax.random.split(key, len(hidden_sizes))
        self.linears = tuple(
            Linear(before, after, layer_key, gain)
            for before, after, layer_key in zip(sizes[:-1], sizes[1:], keys, strict=True)
        )
        self.norms = tuple(LayerNorm(size) for size in hidden_sizes)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch features"]:
        """Features of the last hidden layer."""
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = jax.nn.silu(norm(linear(x)))
        return x


class MLP(eqx.Module):
    """Hidden layers followed by a linear output."""

    trunk: Trunk
    head: Linear

    def __init__(
        self,
        inputs: int,
        hidden_sizes: Sequence[int],
        outputs: int,
        key: Array,
        *,
        gain: float = 1.0,
    ) -> None:
        """Builds the network.

        Args:
            inputs: size of the last axis of the input.
            hidden_sizes: widths of the hidden layers, at least one.
            outputs: size of the last axis of the output.
            key: a JAX random key.
            gain: scale of the orthogonal weights of the hidden layers.
        """
        trunk_key, head_key = jax.random.split(key)
        self.trunk = Trunk(inputs, hidden_sizes, trunk_key, gain)
        self.head = Linear(hidden_sizes[-1], outputs, head_key)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Output for the last axis of `x`."""
        return self.head(self.trunk(x))
