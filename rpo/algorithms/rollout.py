"""Rollouts, and the gradient of their return with respect to every action.

Environments are processed in blocks small enough that what a block's rollout leaves behind for its
backward pass stays in cache.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree, UInt32

from rpo.algorithms.base import Environments, Experience
from rpo.algorithms.chunks import largest_divisor
from rpo.algorithms.devices import environment_noise
from rpo.envs.base import Env
from rpo.nets import Gaussian, GaussianPolicy, Normalizer


class Segment(Experience):
    """What a rollout records.

    Args:
        distribution: that the action u, before squashing, was drawn from.
        entropy_noise: behind the entropy sample.
        entropy: one-sample estimate of the squashed policy's entropy, in nats.
    """

    distribution: Gaussian
    entropy_noise: Float[Array, "*batch action"]
    entropy: Float[Array, "*batch"]


Objective = Callable[[Segment], tuple[Float[Array, " envs"], PyTree]]
"""Maps a segment to what is differentiated per environment, and to arrays (steps, envs, ...)."""


class Rollout(eqx.Module):
    """Result of `rollout_with_action_gradients`.

    Args:
        environments: after the rollout.
        segment: what was recorded.
        action_gradient: of an environment's objective with respect to its u at each step; all zero
            for an environment in which any entry was not finite.
        gradient_finite: which environments kept their gradient.
        auxiliary: what the objective returned beside its value.
    """

    environments: Environments
    segment: Segment
    action_gradient: Float[Array, "steps envs action"]
    gradient_finite: Bool[Array, " envs"]
    auxiliary: PyTree


def run_segment(
    env: Env,
    policy: GaussianPolicy,
    normalizer: Normalizer,
    environments: Environments,
    noise: Float[Array, "2 steps envs action"],
    perturbation: Float[Array, "steps envs action"],
) -> tuple[Environments, Segment]:
    """Lets the policy act for as many steps as there is noise.

    Args:
        env: the task.
        policy: maps normalised observations to a distribution of u.
        normalizer: frozen observation statistics.
        environments: to start from; no gradient goes back beyond them.
        noise: standard normal; row 0 makes the actions, row 1 the entropy samples.
        perturbation: added to u.
    """

    def step(
        carry: Environments, inputs: tuple[Array, Array, Array]
    ) -> tuple[Environments, Segment]:
        action_noise, entropy_noise, shift = inputs
        observation = carry.state.observation
        distribution = policy(normalizer(observation))
        action = distribution.sample(action_noise) + shift
        carry, record = carry.step(env, policy.squash(action))
        return carry, Segment(
            observation=observation,
            action=action,
            distribution=distribution,
            entropy_noise=entropy_noise,
            entropy=distribution.squashed_entropy_sample(entropy_noise),
            **record,
        )

    return lax.scan(step, environments, (noise[0], noise[1], perturbation))


def rollout_with_action_gradients(
    env: Env,
    policy: GaussianPolicy,
    normalizer: Normalizer,
    environments: Environments,
    keys: UInt32[Array, "envs 2"],
    *,
    horizon: int,
    block_size: int,
    objective: Objective,
) -> Rollout:
    """Rolls out the policy and differentiates `objective` with respect to every action.

    The derivative is total: through the states that follow and the actions which the policy, with
    its parameters held constant, takes there. It is taken with respect to a zero perturbation of u.

    Args:
        env: the task.
        policy: maps normalised observations to a distribution of u.
        normalizer: frozen observation statistics.
        environments: to start from.
        keys: raw random key per environment; all of its noise comes from it.
        horizon: number of steps.
        block_size: environments per block; the largest divisor of their number up to this is used.
        objective: must treat environments independently.
    """
    shape = (2, horizon, env.spec.action_size)

    def block(inputs: tuple[Environments, Array]) -> Rollout:
        start, block_keys = inputs
        noise = environment_noise(block_keys, shape)

        def total(perturbation: Array) -> tuple[Array, tuple[Environments, Segment, PyTree]]:
            after, segment = run_segment(env, policy, normalizer, start, noise, perturbation)
            value, auxiliary = objective(segment)
            return jnp.sum(value), (after, segment, auxiliary)

        zero = jnp.zeros_like(noise[0])
        gradient, (after, segment, auxiliary) = jax.grad(total, has_aux=True)(zero)
        finite = jnp.isfinite(gradient).all(axis=(0, 2))
        gradient = jnp.where(finite[:, None], gradient, 0)
        return Rollout(after, segment, gradient, finite, auxiliary)

    return map_blocks(block, (environments, keys), largest_divisor(keys.shape[0], block_size))


def map_blocks(
    function: Callable[[PyTree], Rollout], environments: PyTree, block_size: int
) -> Rollout:
    """Applies `function` to blocks of environments one after the other and joins the results."""
    count = jax.tree.leaves(environments)[0].shape[0]
    if count == block_size:
        return function(environments)
    blocks = jax.tree.map(lambda x: x.reshape(-1, block_size, *x.shape[1:]), environments)
    result = lax.map(function, blocks)

    def join(x: Array) -> Array:
        return x.reshape(count, *x.shape[2:])

    def join_steps(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], count, *x.shape[3:])

    return Rollout(
        environments=jax.tree.map(join, result.environments),
        segment=jax.tree.map(join_steps, result.segment),
        action_gradient=join_steps(result.action_gradient),
        gradient_finite=join(result.gradient_finite),
        auxiliary=jax.tree.map(join_steps, result.auxiliary),
    )
