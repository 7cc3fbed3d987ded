"""Our tasks as Gymnasium environments, single or in batches that are stepped by one program.

Importing this registers them: `gymnasium.make("rpo/Ant-v0")` and `gymnasium.make_vec("rpo/Ant-v0",
num_envs=64)`, each with the task's settings as keywords. Without the import,
`gymnasium.make("rpo.adapters.gymnasium:rpo/Ant-v0")` does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32
from numpy.typing import NDArray

from rpo import envs
from rpo.envs.base import Env, EnvSpec, EnvState, Transition, select
from rpo.envs.registry import made
from rpo.errors import SettingsError

try:
    import gymnasium
except ModuleNotFoundError as missing:
    raise SettingsError("Gymnasium is not installed: pip install 'rpo-jax[gymnasium]'") from missing
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

Values: TypeAlias = NDArray[Any]
Picture: TypeAlias = NDArray[np.uint8]

PICTURE_SIZE = (640, 480)
"""Width and height in pixels of what `render` gives."""


class TaskEnv(gymnasium.Env[Values, Values]):
    """One environment of a task.

    Observations and actions are float32; actions outside [-1, 1] are clipped. A step that ends the
    episode gives the observation that it led to (zeros where the state was not finite, which
    `info["non_finite"]` says).

    Args:
        task: name of a shipped task, or any environment.
        render_mode: "rgb_array" or None; tasks that show a robot can be drawn.
        settings: of a shipped task, by name.

    Raises:
        ValueError: if the task, a setting or the render mode is unknown.
    """

    def __init__(self, task: str | Env, render_mode: str | None = None, **settings: Any) -> None:
        self.env = made(task, settings)
        self.metadata = _metadata(self.env.spec)
        self.render_mode = _checked(render_mode)
        self.observation_space, self.action_space = _spaces(self.env.spec)
        self._camera = _Camera(self.env)
        self._state: EnvState | None = None
        self._ended = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Values, dict[str, Any]]:
        """Starts an episode. The same seed gives the same one; `options` has no effect."""
        super().reset(seed=seed)
        if seed is not None or not self._ended:  # else the last step has begun an episode already
            self._state = _start(self.env, jnp.asarray(_draw_keys(self.np_random, 1)))
        self._ended = False
        return _numpy(_running(self._state).observation)[0], {}

    def step(self, action: Values) -> tuple[Values, float, bool, bool, dict[str, Any]]:
        """One control step; see `gymnasium.Env.step`.

        Raises:
            gymnasium.error.ResetNeeded: if there is no episode, or it has ended.
        """
        if self._ended:
            raise gymnasium.error.ResetNeeded("the episode has ended: call reset() before step()")
        batch = jnp.asarray(action, jnp.float32)[None]
        self._state, transition = _step(self.env, _running(self._state), batch)
        seen: Transition = jax.device_get(transition)
        terminated, truncated = bool(seen.terminated[0]), bool(seen.truncated[0])
        self._ended = terminated or truncated
        info = {name: values[0].item() for name, values in _infos(self.env, seen).items()}
        observation = _numpy(seen.final_observation)[0]
        return observation, float(seen.reward[0]), terminated, truncated, info

    def render(self) -> Picture | None:
        """A picture (480, 640, 3) of the robot as it stands; after an episode's end, of the next
        start. None without `render_mode`."""
        if self.render_mode is None:
            return None
        return self._camera.pictures(_running(self._state))[0]

    def close(self) -> None:
        """Closes the renderer, if there is one."""
        self._camera.close()


class TaskVectorEnv(gymnasium.vector.VectorEnv[Values, Values, Values]):
    """A batch of environments of a task, stepped by one compiled program.

    An environment whose episode ends starts anew in the same step (`AutoresetMode.SAME_STEP`): the
    observation is of the new start, `info["final_obs"]` holds the one that the step led to.
    Environment i of a batch with seed s goes through the same episodes as `TaskEnv` with seed
    s + i.

    Args:
        task: name of a shipped task, or any environment.
        num_envs: size of the batch.
        render_mode: "rgb_array" or None; tasks that show a robot can be drawn.
        settings: of a shipped task, by name.

    Raises:
        ValueError: if the task, a setting or the render mode is unknown, or `num_envs` below 1.
    """

    def __init__(
        self, task: str | Env, num_envs: int = 1, render_mode: str | None = None, **settings: Any
    ) -> None:
        if num_envs < 1:
            raise SettingsError(f"num_envs is {num_envs}, must be at least 1")
        super().__init__()
        self.env = made(task, settings)
        self.num_envs = num_envs
        self.metadata = _metadata(self.env.spec) | {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = _checked(render_mode)
        self.single_observation_space, self.single_action_space = _spaces(self.env.spec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._camera = _Camera(self.env)
        self._state: EnvState | None = None

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Values, dict[str, Any]]:
        """Starts episodes.

        Args:
            seed: of the first environment (the others' count up from it), or one of each.
            options: `reset_mask`, bool (num_envs,), limits the reset to some environments.

        Raises:
            ValueError: if the number of seeds or the mask's shape is not `num_envs`.
        """
        whole = seed if isinstance(seed, int) else None
        super().reset(seed=whole)
        started = _start(self.env, jnp.asarray(self._keys(seed)))
        mask = (options or {}).get("reset_mask")
        if mask is not None:
            mask = np.asarray(mask, bool)
            if mask.shape != (self.num_envs,):
                raise ValueError(f"reset_mask has shape {mask.shape}, must be ({self.num_envs},)")
            started = select(jnp.asarray(mask), started, _running(self._state))
        self._state = started
        return _numpy(started.observation), {}

    def step(self, actions: Values) -> tuple[Values, Values, Values, Values, dict[str, Any]]:
        """One control step of every environment; see `gymnasium.vector.VectorEnv.step`.

        Raises:
            gymnasium.error.ResetNeeded: before the first `reset`.
        """
        batch = jnp.asarray(actions, jnp.float32)
        self._state, transition = _step(self.env, _running(self._state), batch)
        seen: Transition = jax.device_get(transition)
        terminated, truncated = np.array(seen.terminated), np.array(seen.truncated)
        reward = np.asarray(seen.reward, np.float64)
        infos = self._vector_infos(seen, terminated | truncated)
        return _numpy(seen.observation), reward, terminated, truncated, infos

    def render(self) -> tuple[Picture, ...] | None:
        """A picture (480, 640, 3) of each robot; None without `render_mode`."""
        if self.render_mode is None:
            return None
        return self._camera.pictures(_running(self._state))

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the renderer, if there is one."""
        self._camera.close()

    def _keys(self, seed: int | Sequence[int | None] | None) -> UInt32[np.ndarray, "envs 2"]:
        if seed is None:
            return _draw_keys(self.np_random, self.num_envs)
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds were given for {self.num_envs} environments")
        return np.concatenate([_draw_keys(seeding.np_random(one)[0], 1) for one in seeds])

    def _vector_infos(self, seen: Transition, ended: Bool[np.ndarray, " envs"]) -> dict[str, Any]:
        """What Gymnasium's own vector environments give: arrays, each with a mask `_name`."""
        infos: dict[str, Any] = {}
        values = _infos(self.env, seen)
        for name, array in values.items():
            infos[name], infos[f"_{name}"] = np.where(ended, array.dtype.type(0), array), ~ended
        if ended.any():
            final = np.full(self.num_envs, None, dtype=object)
            for k in np.flatnonzero(ended):
                final[k] = _numpy(seen.final_observation[k])
            last = {name: np.where(ended, x, x.dtype.type(0)) for name, x in values.items()}
            last |= {f"_{name}": ended.copy() for name in values}
            infos |= {"final_obs": final, "_final_obs": ended.copy()}
            infos |= {"final_info": last, "_final_info": ended.copy()}
        return infos


class _Camera:
    """Draws robots; opens the renderer when it is first asked."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._stage: Any = None

    def pictures(self, state: EnvState) -> tuple[Picture, ...]:
        if self._stage is None:
            from rpo.show.episode import markers_of, robot_of
            from rpo.show.scene import Stage

            self._stage = Stage(robot_of(self._env), *PICTURE_SIZE)
            self._markers_of = eqx.filter_jit(markers_of)
        rows = np.asarray(state.physics.q, np.float64)
        markers = jax.device_get(self._markers_of(self._env, state.physics))
        each = [jax.tree.map(lambda x, k=k: x[k], markers).values() for k in range(len(rows))]
        return tuple(
            self._stage.draw(q, self._stage.look_at(q), marked)
            for q, marked in zip(rows, each, strict=True)
        )

    def close(self) -> None:
        if self._stage is not None:
            self._stage.close()
            self._stage = None


@eqx.filter_jit
def _start(env: Env, keys: UInt32[Array, "envs 2"]) -> EnvState:
    """An episode from each key, independent of the other environments."""
    alone = jax.vmap(lambda key: env.reset(key, 1))(keys)
    state: EnvState = jax.tree.map(lambda x: x[:, 0], alone)
    return state


@eqx.filter_jit
def _step(env: Env, state: EnvState, action: Array) -> tuple[EnvState, Transition]:
    return env.step(state, action)


def _running(state: EnvState | None) -> EnvState:
    if state is None:
        raise gymnasium.error.ResetNeeded("there is no episode yet: call reset() first")
    return state


def _metadata(spec: EnvSpec) -> dict[str, Any]:
    return {"render_modes": ["rgb_array"], "render_fps": max(round(1 / spec.control_dt), 1)}


def _checked(render_mode: str | None) -> str | None:
    if render_mode not in (None, "rgb_array"):
        raise SettingsError(f"render_mode is {render_mode!r}, must be 'rgb_array' or None")
    return render_mode


def _spaces(spec: EnvSpec) -> tuple[gymnasium.spaces.Box, gymnasium.spaces.Box]:
    box = gymnasium.spaces.Box
    return (
        box(-np.inf, np.inf, (spec.observation_size,), np.float32),
        box(-1.0, 1.0, (spec.action_size,), np.float32),
    )


def _draw_keys(generator: np.random.Generator, count: int) -> UInt32[np.ndarray, "count 2"]:
    return generator.integers(0, 2**32, (count, 2), np.uint32)


def _infos(env: Env, seen: Transition) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(seen.info[name]) for name in ("non_finite", *env.report_names)}


def _numpy(observation: Array) -> Values:
    return np.array(observation, np.float32)


def _register() -> None:
    for task in envs.names():
        name = f"rpo/{task.capitalize()}-v0"
        if name not in gymnasium.registry:
            gymnasium.register(
                id=name,
                entry_point=f"{__name__}:TaskEnv",
                vector_entry_point=f"{__name__}:TaskVectorEnv",
                kwargs={"task": task},
            )


_register()
