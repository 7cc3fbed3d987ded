"""Values of critics that are held constant, with a cheap gradient by the observation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rpo.algorithms.chunks import chunked
from rpo.nets import StateValues


@jax.custom_vjp
def frozen_values(
    critics: StateValues, observation: Float[Array, "*batch observation"]
) -> Float[Array, "critics *batch"]:
    """`critics(observation)`, differentiable by the observation only; the critics are constants.

    The backward pass is done chunk by chunk right after the forward pass and leaves behind one
    gradient per observation, not the activations of a whole rollout: at the paper's network sizes
    this is two to three times as fast as differentiating the critics on 4096 samples at once.
    """
    return critics(observation)


def _forward(
    critics: StateValues, observation: Float[Array, "*batch observation"]
) -> tuple[Float[Array, "critics *batch"], tuple[StateValues, Float[Array, "..."]]]:
    shape = observation.shape

    def values_and_gradients(chunk: Array) -> tuple[Array, Array]:
        values, gradients = [], []
        for member in critics.networks.members:
            value, pull_back = jax.vjp(lambda rows, m=member: critics.value(m, rows), chunk)
            values.append(value)
            gradients.append(pull_back(jnp.ones_like(value))[0])  # of each row by its own
        return jnp.stack(values, axis=-1), jnp.stack(gradients, axis=-2)

    chunks = chunked(observation, observation.ndim - 1)
    values, gradients = lax.map(values_and_gradients, chunks)
    count = len(critics.networks.members)
    values = jnp.moveaxis(values.reshape(*shape[:-1], count), -1, 0)
    return values, (critics, gradients.reshape(*shape[:-1], count, shape[-1]))


def _backward(
    saved: tuple[StateValues, Float[Array, "..."]], cotangent: Float[Array, "critics *batch"]
) -> tuple[StateValues, Float[Array, "*batch observation"]]:
    critics, gradients = saved
    weights = jnp.moveaxis(cotangent, 0, -1)
    by_observation = jnp.sum(weights[..., None] * gradients, axis=-2)
    return jax.tree.map(jnp.zeros_like, critics), by_observation


frozen_values.defvjp(_forward, _backward)
