"""Our tasks as Brax environments, for Brax's own agents: PPO, SAC, and APG, which differentiates.

`BraxEnv("ant")` goes to `brax.training.agents.ppo.train.train(environment=...)` and the like.
Importing this also registers the shipped tasks: `brax.envs.get_environment("rpo_ant")`. With JAX
0.10 call `complete_jax` before Brax 0.14.2 trains.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from rpo import envs
from rpo.envs.base import Env, EnvState
from rpo.envs.registry import made
from rpo.errors import SettingsError

try:
    import brax.envs
    from brax.envs.base import Env as BraxBase
    from brax.envs.base import State
except ModuleNotFoundError as missing:
    raise SettingsError("Brax is not installed: pip install 'rpo-jax[brax]'") from missing


class BraxEnv(BraxBase):  # type: ignore[misc]
    """One environment of a task, as Brax wants it: its wrappers make batches, count steps, restart.

    So the task's own time limit does not count here; `episode_length` of Brax's agents does. `done`
    says that an episode ended by itself. Gradients flow through `step`.

    Args:
        task: name of a shipped task, or any environment.
        settings: of a shipped task, by name.

    Raises:
        ValueError: if the task or a setting is unknown.
    """

    def __init__(self, task: str | Env, **settings: Any) -> None:
        self.env = made(task, settings)

    def reset(self, rng: Array) -> State:
        """Starts an episode from a random key."""
        state = self.env.reset(rng, 1)
        zero = jnp.zeros((), state.observation.dtype)
        metrics = dict.fromkeys(self._metrics, zero)
        return State(state, state.observation[0], zero, zero, metrics)

    def step(self, state: State, action: Float[Array, " action"]) -> State:
        """One control step. Where `done` is 1, the observation is the one that the step led to, and
        the state beneath it already a new start."""
        running: EnvState = state.pipeline_state
        following, transition = self.env.step(running, action[None])
        following = dataclasses.replace(following, step_count=jnp.zeros_like(running.step_count))
        dtype = state.reward.dtype
        metrics = {name: transition.info[name][0].astype(dtype) for name in self._metrics}
        return state.replace(
            pipeline_state=following,
            obs=transition.final_observation[0],
            reward=transition.reward[0],
            done=transition.terminated[0].astype(dtype),
            metrics=state.metrics | metrics,  # Brax's wrappers keep theirs there, too
        )

    @property
    def _metrics(self) -> tuple[str, ...]:
        return ("non_finite", *self.env.report_names)

    @property
    def observation_size(self) -> int:
        """Length of one observation."""
        return self.env.spec.observation_size

    @property
    def action_size(self) -> int:
        """Length of one action; each entry is meant to lie in [-1, 1]."""
        return self.env.spec.action_size

    @property
    def backend(self) -> str:
        """The name of our simulator, among those of Brax."""
        return "rpo"

    @property
    def dt(self) -> float:
        """Seconds between two actions."""
        return self.env.spec.control_dt


def complete_jax() -> None:
    """Gives JAX back `device_put_replicated`, if it lacks it.

    JAX 0.10 has removed it, and the agents of Brax 0.14.2 still call it. Call this before they
    train; nothing happens where it is not needed.
    """
    if not hasattr(jax, "device_put_replicated"):
        vars(jax)["device_put_replicated"] = _replicated


def _replicated(tree: PyTree, devices: Sequence[Any]) -> PyTree:
    """A copy of every leaf on each device, led by an axis of devices, as `jax.pmap` takes it."""
    mesh = jax.sharding.Mesh(np.array(devices), ("devices",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))

    def leaf(x: Any) -> Array:
        copies = jnp.broadcast_to(jnp.asarray(x), (len(devices), *jnp.shape(x)))
        placed: Array = jax.device_put(copies, spread)
        return placed

    return jax.tree.map(leaf, tree)


def _register() -> None:
    for task in envs.names():
        brax.envs.register_environment(f"rpo_{task}", functools.partial(BraxEnv, task))


_register()
