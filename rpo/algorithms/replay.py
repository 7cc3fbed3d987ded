"""Replay of past experience in bounded memory on the device, and n-step windows out of it."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from rpo.algorithms.base import Experience, Steps


class Windows(eqx.Module):
    """Sampled n-step windows. Every leaf leads with (samples per environment, environments).

    Args:
        observation: at the start.
        action: taken there.
        reward: discounted sum over the window, which stops where an episode ends.
        discount: of the value of `final_observation`; zero where the episode terminated.
        final_observation: that the last step of the window led to, before any reset.
    """

    observation: Float[Array, "samples envs observation"]
    action: Float[Array, "samples envs action"]
    reward: Float[Array, "samples envs"]
    discount: Float[Array, "samples envs"]
    final_observation: Float[Array, "samples envs observation"]


class Replay(eqx.Module):
    """Ring buffer: row t % capacity holds step t of every environment.

    Args:
        steps: what is stored, (capacity, environments).
        written: steps per environment since the start of the run.
    """

    steps: Steps
    written: Int[Array, ""]

    @property
    def capacity(self) -> int:
        """Steps per environment that are kept."""
        rows: int = self.steps.reward.shape[0]
        return rows

    def add(self, experience: Experience) -> Replay:
        """Overwrites the oldest steps.

        Raises:
            ValueError: if the number of new steps does not divide the capacity.
        """
        rows = experience.reward.shape[0]
        if self.capacity % rows:
            raise ValueError(f"{rows} steps do not divide the capacity of {self.capacity}")
        start = self.written % self.capacity
        fresh = Steps(**{f.name: getattr(experience, f.name) for f in dataclasses.fields(Steps)})
        steps = jax.tree.map(lambda old, new: _write(old, new, start), self.steps, fresh)
        return Replay(steps, self.written + rows)

    def sample(
        self, keys: UInt32[Array, "envs 2"], count: int, length: int, discount: float
    ) -> Windows:
        """Windows that start anywhere in the stored steps, with equal probability.

        Args:
            keys: raw random key of each environment, so that the sample does not depend on how
                environments are split over devices.
            count: windows per environment.
            length: n; no more than have been written.
            discount: gamma.
        """
        filled = jnp.minimum(self.written, self.capacity)

        def draw(key: Array) -> Array:
            return jax.random.randint(key, (count,), 0, filled - length + 1)

        first = self.written - filled + jax.vmap(draw, out_axes=1)(keys)
        rows = (first + jnp.arange(length)[:, None, None]) % self.capacity
        envs = jnp.arange(keys.shape[0])
        steps = self.steps
        reward, bootstrap, taken = n_step_return(
            steps.reward[rows, envs],
            steps.terminated[rows, envs],
            steps.truncated[rows, envs],
            discount,
        )
        last = (first + taken - 1) % self.capacity
        return Windows(
            observation=steps.observation[rows[0], envs],
            action=steps.action[rows[0], envs],
            reward=reward,
            discount=bootstrap,
            final_observation=steps.final_observation[last, envs],
        )


@jax.custom_batching.custom_vmap
def _write(buffer: Array, rows: Array, start: Array) -> Array:
    """Overwrites consecutive rows of a buffer, in place where its memory may be reused."""
    return lax.dynamic_update_slice_in_dim(buffer, rows, start, axis=0)


@_write.def_vmap
def _write_each(
    size: int, batched: list[bool], buffers: Array, rows: Array, starts: Array
) -> tuple[Array, bool]:
    """The same for several seeds, one after the other.

    JAX would make a scatter of it, and jaxlib 0.10.2 aborts while compiling that for a CPU.
    """
    buffers, rows, starts = (
        x if mapped else jnp.broadcast_to(x, (size, *x.shape))
        for x, mapped in zip((buffers, rows, starts), batched, strict=True)
    )
    for i in range(size):
        corner: list[int | Array] = [i, starts[i], *[0] * (buffers.ndim - 2)]
        buffers = lax.dynamic_update_slice(buffers, rows[i : i + 1], corner)
    return buffers, True


def empty_replay(capacity: int, num_envs: int, observation_size: int, action_size: int) -> Replay:
    """A buffer without experience.

    Args:
        capacity: steps per environment.
        num_envs: environments.
        observation_size: length of one observation.
        action_size: length of one action.
    """
    shape = (capacity, num_envs)
    steps = Steps(
        observation=jnp.zeros((*shape, observation_size)),
        action=jnp.zeros((*shape, action_size)),
        reward=jnp.zeros(shape),
        terminated=jnp.zeros(shape, bool),
        truncated=jnp.zeros(shape, bool),
        final_observation=jnp.zeros((*shape, observation_size)),
    )
    return Replay(steps, jnp.zeros((), jnp.int32))


def n_step_return(
    reward: Float[Array, "steps *batch"],
    terminated: Bool[Array, "steps *batch"],
    truncated: Bool[Array, "steps *batch"],
    discount: float,
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"], Int[Array, "*batch"]]:
    """Discounted reward of windows along axis 0 that stop with the first end of an episode.

    Returns:
        the sum of discounted rewards; the discount of the value beyond the last step of the window,
        zero if that terminated; and the number of steps up to it.
    """
    ended = terminated | truncated
    before = jnp.cumsum(ended, axis=0) - ended  # ends before each step
    inside = before == 0
    powers = discount ** jnp.arange(reward.shape[0], dtype=reward.dtype)
    weights = jnp.where(inside, powers.reshape(-1, *[1] * (reward.ndim - 1)), 0)
    taken = jnp.sum(inside, axis=0)
    stopped = jnp.any(inside & terminated, axis=0)
    beyond = jnp.where(stopped, 0, discount ** taken.astype(reward.dtype))
    return jnp.sum(weights * reward, axis=0), beyond, taken
