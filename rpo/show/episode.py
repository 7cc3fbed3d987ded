"""Whole episodes, step by step, to be looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from rpo.algorithms.devices import environment_keys
from rpo.envs.base import Env, EnvState
from rpo.envs.markers import Marker
from rpo.errors import RunError, SettingsError
from rpo.physics.mjcf import parse_description
from rpo.physics.model import JointType, Model
from rpo.training.policies import Policy

FORWARD_VELOCITY = "forward_velocity"
"""The observation that captions and plots show as the robot's speed, where a task has it."""


@runtime_checkable
class ShowsRobot(Protocol):
    """An environment whose robot can be drawn.

    Its physics state has `q` (envs, nq), the coordinates in MuJoCo's order for `mjcf`.
    """

    @property
    def mjcf(self) -> Any:
        """The robot's description: path of an MJCF or URDF file, or its text."""


def robot_of(env: Env) -> mujoco.MjSpec:
    """The description of an environment's robot, to be changed and compiled.

    Raises:
        RunError: if it does not say what its robot looks like.
    """
    if not isinstance(env, ShowsRobot):
        raise RunError(
            f"{env.spec.name} has no robot to show: its environment needs a property mjcf, and "
            "coordinates q in its physics state"
        )
    return parse_description(env.mjcf)


def markers_of(env: Env, physics: PyTree) -> dict[str, Marker]:
    """What a task wants drawn beside its robot in a batch of its states, an entry in each.

    Raises:
        ValueError: if a marker has another number of entries.
    """
    found: dict[str, Marker] = env.markers(physics) if hasattr(env, "markers") else {}
    envs = len(jax.tree.leaves(physics)[0])
    return {name: marker.of_each(envs) for name, marker in found.items()}


class _Step(eqx.Module):
    """What is recorded of a step, everything leading with the environments."""

    state: EnvState
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    figures: dict[str, Array]
    markers: dict[str, Marker]


@dataclasses.dataclass(frozen=True)
class Push:
    """A sudden change of the root's velocity.

    Args:
        forward: m/s.
        sideways: m/s, to the left; robots in a plane know forward only.
        at: seconds after the start.
    """

    forward: float = 0.0
    sideways: float = 0.0
    at: float = 2.0


@dataclasses.dataclass(frozen=True)
class Episodes:
    """The first episode of each of several environments; what follows its end is meaningless.

    Args:
        states: before each step (steps, envs, ...).
        action: taken, as the policy gave it, clipped to [-1, 1].
        reward: of each step.
        length: steps of each episode.
        terminated: whether it ended by itself, before the time limit.
        control_dt: seconds per step.
        speed_column: entry of the observation that holds the speed, None if there is none.
        figures: what the task reports of an episode (`Env.report_names`), after each step.
        markers: what it wants drawn beside the robot, before each step.
    """

    states: EnvState
    action: Float[np.ndarray, "steps envs action"]
    reward: Float[np.ndarray, "steps envs"]
    length: Int[np.ndarray, " envs"]
    terminated: Bool[np.ndarray, " envs"]
    control_dt: float
    speed_column: int | None
    figures: Mapping[str, Shaped[np.ndarray, "steps envs"]] = dataclasses.field(
        default_factory=dict
    )
    markers: Mapping[str, Marker] = dataclasses.field(default_factory=dict)

    @property
    def q(self) -> Float[np.ndarray, "steps envs nq"]:
        """Coordinates before each step."""
        q: np.ndarray = self.states.physics.q
        return q

    def step_at(self, seconds: float, env: int) -> int:
        """The step that an environment takes at a time; its last one after the end."""
        return min(int(seconds / self.control_dt + 1e-6), int(self.length[env]) - 1)

    def q_at(self, seconds: float, env: int) -> Float[np.ndarray, " nq"]:
        """Coordinates at a time, between those of two steps: a film has a rate of its own.

        Quaternions are mixed like everything else; whoever draws them makes them unit again.
        """
        step = self.step_at(seconds, env)
        after = min(step + 1, int(self.length[env]) - 1)
        share = min(max(seconds / self.control_dt - step, 0.0), 1.0)
        q: np.ndarray = (1 - share) * self.q[step, env] + share * self.q[after, env]
        return q

    def return_until(self, step: int, env: int) -> float:
        """Undiscounted return of the steps up to and including this one."""
        return float(self.reward[: step + 1, env].sum(dtype=np.float64))

    def speed(self, step: int, env: int, window: float = 0.5) -> float | None:
        """Mean forward speed over the last half second, m/s; None where the task has none."""
        if self.speed_column is None:
            return None
        first = max(step + 1 - round(window / self.control_dt), 0)
        return float(self.states.observation[first : step + 1, env, self.speed_column].mean())

    def markers_at(self, step: int, env: int) -> dict[str, Marker]:
        """Before a step, of one environment. Not between steps: a goal may jump."""
        found: dict[str, Marker] = jax.tree.map(lambda x: x[step, env], self.markers)
        return found

    def words(self, step: int, env: int) -> list[str]:
        """Return, speed, the task's figures and time up to and including a step."""
        speed = self.speed(step, env)
        words = [f"return {self.return_until(step, env):,.0f}"]
        words += [] if speed is None else [f"{speed:.1f} m/s"]
        words += [
            f"{name.replace('_', ' ')} {float(values[step, env]):,.4g}"
            for name, values in self.figures.items()
        ]
        over = step + 1 == self.length[env]
        ended = ", fell" if over and self.terminated[env] else ""
        return [*words, f"{(step + 1) * self.control_dt:.1f} s{ended}"]

    @property
    def seconds(self) -> float:
        """Duration of the longest episode."""
        return int(self.length.max()) * self.control_dt


def record_episodes(
    policy: Policy,
    num_envs: int = 1,
    *,
    deterministic: bool = True,
    seed: int = 0,
    steps: int | None = None,
    push: Push | None = None,
) -> Episodes:
    """Plays one episode in each of several environments.

    Args:
        policy: what acts.
        num_envs: how many.
        deterministic: act without noise.
        seed: of the starts and of the noise; as in an evaluation.
        steps: at most so many; by default the length of an episode.
        push: changes the robots' velocity on the way.

    Raises:
        SettingsError: if there is nothing to play.
        RunError: if the task has no robot to show.
    """
    spec = policy.env.spec
    steps = spec.episode_length if steps is None else min(steps, spec.episode_length)
    if num_envs < 1 or steps < 1:
        raise SettingsError(f"envs is {num_envs} and steps is {steps}, must be at least 1")
    robot_of(policy.env)
    start_key, noise_key = jax.random.split(jax.random.key(seed), 2)
    state = eqx.filter_jit(policy.env.reset)(start_key, num_envs)
    noise = jax.random.key_data(noise_key)
    push = push or Push()
    kick = jnp.array([push.forward, push.sideways]), jnp.asarray(round(push.at / spec.control_dt))
    quiet = jnp.asarray(deterministic)
    # Always the whole episode, so that there is but one program to compile.
    played: Any = jax.device_get(_play(policy, state, noise, quiet, kick))
    played = jax.tree.map(lambda x: x[:steps], played)
    ended = np.asarray(played.terminated | played.truncated)
    length = np.where(ended.any(axis=0), ended.argmax(axis=0) + 1, steps)
    names = spec.observation_names
    return Episodes(
        states=played.state,
        action=played.action,
        reward=played.reward,
        length=length,
        terminated=played.terminated[length - 1, np.arange(num_envs)],
        control_dt=spec.control_dt,
        speed_column=names.index(FORWARD_VELOCITY) if FORWARD_VELOCITY in names else None,
        figures=played.figures,
        markers=played.markers,
    )


@eqx.filter_jit
def _play(
    policy: Policy,
    state: EnvState,
    key: Array,
    deterministic: Array,
    kick: tuple[Array, Array],
) -> _Step:
    """Compiled once for all policies of a network's sizes, and both ways to act."""

    def step(state: EnvState, number: Array) -> tuple[EnvState, _Step]:
        state = _pushed(policy.env, state, kick[0] * (number == kick[1]))
        observation = state.observation
        keys = environment_keys(jax.random.fold_in(key, number), jnp.arange(len(observation)))
        noisy = jax.vmap(policy)(observation, keys)
        action = jnp.clip(jnp.where(deterministic, policy(observation), noisy), -1, 1)
        following, transition = policy.env.step(state, action)
        return following, _Step(
            state=state,
            action=action,
            reward=transition.reward,
            terminated=transition.terminated,
            truncated=transition.truncated,
            figures={name: transition.info[name] for name in policy.env.report_names},
            markers=markers_of(policy.env, state.physics),
        )

    return lax.scan(step, state, jnp.arange(policy.env.spec.episode_length))[1]


def can_be_pushed(env: Env) -> int:
    """In how many directions: 2 with a free base, 1 in a plane, 0 if the root is fixed."""
    model = getattr(env, "model", None)
    if not isinstance(model, Model):
        return 0
    if model.joint_type[0] is JointType.FREE:
        return 2
    forward = model.joint_type[0] is JointType.SLIDE and abs(model.joint_axis[0, 0]) == 1
    return 1 if forward else 0


def _pushed(env: Env, state: EnvState, change: Float[Array, "2"]) -> EnvState:
    directions = can_be_pushed(env)
    if not directions:
        return state
    physics = state.physics
    qd = physics.qd.at[:, :directions].add(change[:directions].astype(physics.qd.dtype))
    physics = eqx.tree_at(lambda p: p.qd, physics, qd)
    seen: Any = env  # whoever has a model has equations, too
    observation = jnp.where((change != 0).any(), seen.observe(physics), state.observation)
    following: EnvState = eqx.tree_at(
        lambda s: (s.physics, s.observation), state, (physics, observation)
    )
    return following
