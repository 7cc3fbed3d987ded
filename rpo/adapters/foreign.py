"""Environments of other JAX packages as tasks, by names such as `brax:ant`.

A name's first part says which package: `brax_tasks.py` and `playground_tasks.py` know how to make
its environments. What they have in common is here: both keep one environment in one pytree, with
`reset(rng)` and `step(state, action)`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rpo import runtime
from rpo.envs.base import EnvSpec, EpisodicEnv
from rpo.errors import SettingsError, TaskError

_HOMES = {"brax": "rpo.adapters.brax_tasks", "playground": "rpo.adapters.playground_tasks"}

MAX_EPISODE_LENGTH = 10**8
"""Steps, which are counted in 32 bits."""

Packed = tuple[Array, ...]
"""A foreign state's arrays, without those that have no entries (checkpoints cannot hold them)."""


@runtime_checkable
class ForeignEnv(Protocol):
    """One environment as Brax and Playground have it."""

    @property
    def action_size(self) -> int:
        """Length of one action."""

    def reset(self, rng: Array) -> Any:
        """A state: any pytree with `obs`, `reward` and `done`."""

    def step(self, state: Any, action: Array) -> Any:
        """The next state."""


def is_foreign(task: str) -> bool:
    """Whether a task's name means an environment of another package."""
    return task.partition(":")[0] in _HOMES and ":" in task


def require_length(episode_length: int) -> None:
    """Refuses a time limit that cannot be.

    Raises:
        SettingsError: by name and range.
    """
    if not 1 <= episode_length <= MAX_EPISODE_LENGTH:
        bound = "at least 1" if episode_length < 1 else f"at most {MAX_EPISODE_LENGTH:,}"
        raise SettingsError(f"episode_length is {episode_length}, must be {bound}")


def prepare(task: object) -> None:
    """Readies XLA for a foreign task, if this is the name of one and JAX has not started yet."""
    if isinstance(task, str) and is_foreign(task):
        runtime.without_fusion()


def settings_class(task: str) -> type[Any]:
    """The frozen dataclass of a foreign task's settings.

    Raises:
        SettingsError: if its package is not installed, or has no such environment.
    """
    home, _ = _home(task)
    require_known(task, home.names())
    chosen: type[Any] = home.SETTINGS
    return chosen


def make(task: str, **settings: Any) -> ForeignTask:
    """A foreign environment as a task.

    Args:
        task: such as `brax:ant`.
        settings: fields of `settings_class(task)` that differ from their defaults.

    Raises:
        SettingsError: if its package is not installed or has no such environment, or the
            environment cannot serve as a task.
    """
    kind = settings_class(task)
    if not runtime.without_fusion():
        raise SettingsError(
            f"XLA aborts on {task} with a compiler option of rpo's, and JAX has started with it; "
            "set the environment variable RPO_FUSION=0 before Python starts (and take "
            f"{runtime.FUSION_OPTION} out of XLA_FLAGS)"
        )
    home, name = _home(task)
    try:
        made: ForeignTask = home.make(name, kind(**settings))
    except SettingsError:
        raise
    except Exception as error:  # whatever the other package comes up with
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = f"{type(error).__name__}: {lines[0] if lines else '(no message)'}"
        raise SettingsError(f"{task} cannot be made: {said}") from error
    return made


def require_known(task: str, names: Iterable[str]) -> None:
    """Refuses a name that a package does not know; lists those that are near.

    Args:
        task: as the user gave it.
        names: of the package's environments.

    Raises:
        SettingsError: in one line.
    """
    package, _, name = task.partition(":")
    by_letters = {one.lower(): one for one in names}
    if name in by_letters.values():
        return
    near = difflib.get_close_matches(name.lower(), by_letters, n=5, cutoff=0.5)
    near += [one for one in by_letters if name and name.lower() in one and one not in near][:5]
    listed = [by_letters[one] for one in near] or sorted(by_letters.values())
    heading = "near ones" if near else "known"
    told = ", ".join(f"{package}:{one}" for one in listed)
    raise SettingsError(f"{package} has no environment {name!r}; {heading}: {told}")


def imported(module: str, extra: str) -> Any:
    """A module of another package.

    Args:
        module: its name.
        extra: of ours, which installs the package.

    Raises:
        SettingsError: naming the extra to install, if it is not there.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"tasks of {extra} need its package ({error}): pip install 'rpo-jax[{extra}]'"
        ) from error


def _home(task: str) -> tuple[Any, str]:
    package, _, name = task.partition(":")
    return importlib.import_module(_HOMES[package]), name


class ForeignTask(EpisodicEnv):
    """An environment of another package, in batches, with our own time limit and restarts.

    Actions are clipped to [-1, 1], which is what both packages' own agents give. Of the state only
    the observation and the reward must be finite: such states hold infinities on purpose.
    """

    spec: EnvSpec = eqx.field(static=True)
    simulator: Simulator = eqx.field(static=True)

    def initial_state(self, key: Array) -> Packed:
        """A random start of one environment."""
        rng = jax.random.key_data(key)  # a raw key, which both packages expect
        return self.simulator.pack(self.simulator.env.reset(rng))

    def dynamics(self, state: Packed, action: Float[Array, "envs action"]) -> Packed:
        """The package's own step, as often as the environment repeats an action."""
        return jax.vmap(self.simulator.step)(state, action)

    def observe(self, state: Packed) -> Float[Array, "envs observation"]:
        """What the package's own agents see."""
        return jax.vmap(lambda one: self.simulator.observation(self.simulator.unpack(one)))(state)

    def reward(
        self, state: Packed, action: Float[Array, "envs action"], next_state: Packed
    ) -> Float[Array, " envs"]:
        """As the package has put it into its state."""
        rewards: Array = jax.vmap(lambda one: self.simulator.unpack(one).reward)(next_state)
        return rewards.astype(jnp.float32)

    def is_terminal(self, state: Packed) -> Bool[Array, " envs"]:
        """Where the package says `done`."""
        done: Array = jax.vmap(lambda one: self.simulator.unpack(one).done)(state)
        return done > 0.5

    def diverged(self, state: Packed) -> Bool[Array, " envs"]:
        """Never by its state alone."""
        return jnp.zeros(len(state[0]), bool)


class Simulator:
    """A foreign environment and the shape of its state; hashable, so that it can be static."""

    def __init__(self, task: str, env: ForeignEnv, action_repeat: int = 1) -> None:
        """Traces `env.reset` once.

        Args:
            task: its name, for messages.
            env: of the other package.
            action_repeat: steps of the environment per action; rewards are summed.

        Raises:
            SettingsError: if its observation is not a vector.
        """
        self.task, self.env, self.action_repeat = task, env, action_repeat
        rng = jax.ShapeDtypeStruct((2,), jnp.uint32)
        state = jax.eval_shape(env.reset, rng)
        leaves, structure = jax.tree.flatten(state)
        self._structure: Any = structure
        self._shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
        shape = jax.eval_shape(lambda r: self.observation(env.reset(r)), rng).shape
        if len(shape) != 1:
            raise SettingsError(f"{task} observes arrays of shape {shape}; rpo reads vectors only")
        self.observation_size = int(shape[0])

    def observation(self, state: Any) -> Array:
        """The observation in a state; of several, the one called `state`.

        Raises:
            SettingsError: if there are several and none is called so.
        """
        seen = state.obs
        if hasattr(seen, "keys"):
            if "state" not in seen:
                raise SettingsError(
                    f"{self.task} has the observations {', '.join(sorted(seen))}; rpo reads one "
                    "that is called state"
                )
            seen = seen["state"]
        return jnp.asarray(seen, jnp.float32)

    def step(self, packed: Packed, action: Float[Array, " action"]) -> Packed:
        """One action of one environment."""
        state = self.unpack(packed)
        reward: Any = 0.0
        for _ in range(self.action_repeat):
            state = self.env.step(state, action)
            reward = reward + state.reward
        return self.pack(state.replace(reward=jnp.asarray(reward)))

    def pack(self, state: Any) -> Packed:
        """A state's arrays that have entries.

        Raises:
            TaskError: if the state is not of the kind that `reset` gives.
        """
        leaves, structure = jax.tree.flatten(state)
        if structure != self._structure:
            raise TaskError(f"{self.task} gives states of different structures in reset and step")
        arrays = zip(leaves, self._shapes, strict=True)
        return tuple(
            jnp.asarray(leaf).astype(dtype) for leaf, (shape, dtype) in arrays if np.prod(shape)
        )

    def unpack(self, packed: Packed) -> Any:
        """A state from its arrays."""
        given = iter(packed)
        leaves = [
            next(given) if np.prod(shape) else jnp.zeros(shape, dtype)
            for shape, dtype in self._shapes
        ]
        return jax.tree.unflatten(self._structure, leaves)


def as_task(task: str, env: Any, episode_length: int, action_repeat: int = 1) -> ForeignTask:
    """An environment of another package as a task; see `Simulator`.

    Raises:
        SettingsError: if it cannot serve.
    """
    simulator = Simulator(task, env, action_repeat)
    spec = EnvSpec(
        name=task.replace(":", "_"),  # can be part of a file's
        observation_size=simulator.observation_size,
        action_size=int(env.action_size),
        episode_length=episode_length,
        control_dt=float(env.dt) * action_repeat,
    )
    return ForeignTask(spec=spec, simulator=simulator)
