"""What every task looks like from outside: a differentiable batch of environments.

`Env` is the interface. `EpisodicEnv` supplies everything that tasks have in common (step counting,
automatic reset, the guard against non-finite states), so that a task is only its equations.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from rpo.envs.compiled import run_compiled
from rpo.envs.markers import Marker
from rpo.envs.randomization import OFF, Randomization, Variation
from rpo.mirror import Mirror
from rpo.physics.factors import NOMINAL, Factors

STATE_BOUND = 1e6
"""Largest absolute value a physics state may hold before it counts as diverged."""

T = TypeVar("T")
E = TypeVar("E", bound="EpisodicEnv")


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """Sizes and timing of a task.

    Args:
        name: what the task is called.
        observation_size: length of one observation.
        action_size: length of one action; each entry is meant to lie in [-1, 1].
        episode_length: steps after which an episode is truncated.
        control_dt: seconds between two actions.
        observation_names: of the entries of an observation; empty where nobody has named them.
        observation_units: what a value of 1 means, such as "m" or "10 rad/s", "" for plain
            numbers; as many as names.
        action_names: of the entries of an action; empty where nobody has named them.
        action_units: what an action of 1 means, such as "200 N m"; as many as names.
        mirror: what exchanging left and right does to observations and actions, if the task is the
            same then; None if it is not, or nobody has said so.

    Raises:
        ValueError: if a size or the time step is not positive, or names do not fit the sizes.
    """

    name: str
    observation_size: int
    action_size: int
    episode_length: int
    control_dt: float
    observation_names: tuple[str, ...] = ()
    observation_units: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    action_units: tuple[str, ...] = ()
    mirror: Mirror | None = None

    def __post_init__(self) -> None:
        for field in ("observation_size", "action_size", "episode_length", "control_dt"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{self.name}: {field} must be positive")
        for kind, size in (("observation", self.observation_size), ("action", self.action_size)):
            names, units = getattr(self, f"{kind}_names"), getattr(self, f"{kind}_units")
            if names and (len(names) != size or len(set(names)) != size):
                raise ValueError(f"{self.name}: {kind}_names must be {size} different names")
            if units and len(units) != len(names):
                raise ValueError(f"{self.name}: {kind}_units must be as many as {kind}_names")
            if self.mirror is not None and len(getattr(self.mirror, kind)) != size:
                raise ValueError(f"{self.name}: the mirror of {kind}s must have {size} entries")


class EnvState(eqx.Module):
    """State of a batch of environments. Every leaf leads with the number of environments.

    Args:
        physics: the task's own state, a pytree.
        observation: what the policy sees in this state, not normalised.
        step_count: steps taken in the current episode.
        key: raw threefry key of each environment, the source of its future random starts.
        variation: what the running episode has of its own; without domain randomisation nothing.
    """

    physics: PyTree
    observation: Float[Array, "*batch observation"]
    step_count: Int[Array, "*batch"]
    key: UInt32[Array, "*batch 2"]
    variation: Variation = Variation()


class Transition(eqx.Module):
    """What one step returns beside the new state.

    Args:
        observation: of the state to act in next; where an episode ended, of the new start.
        reward: of the step just taken.
        terminated: the episode ended by itself: the value beyond is zero.
        truncated: the episode hit the time limit (and did not terminate): the value beyond is that
            of `final_observation`.
        final_observation: of the state that the step led to, before any reset; zeros where
            that state was not finite.
        info: further arrays with one entry per environment. Always holds `non_finite`, and the
            environment's `report_names`.
    """

    observation: Float[Array, "envs observation"]
    reward: Float[Array, " envs"]
    terminated: Bool[Array, " envs"]
    truncated: Bool[Array, " envs"]
    final_observation: Float[Array, "envs observation"]
    info: Mapping[str, Array]


class Env(eqx.Module):
    """A batch of environments; `reset` and `step` are pure and can be traced and differentiated.

    Gradients flow from a transition and the new state to the old state and the action. They never
    cross a reset. An environment's randomness depends on its own key only, so results do not depend
    on which other environments share the batch.
    """

    spec: eqx.AbstractVar[EnvSpec]
    report_names: ClassVar[tuple[str, ...]] = ()
    """Entries of `Transition.info` that are figures of the running episode, worth a metric when it
    ends: their mean over the latest finished episodes is logged under the same names."""

    @abc.abstractmethod
    def reset(self, key: Array, num_envs: int) -> EnvState:
        """Starts `num_envs` episodes.

        Args:
            key: a JAX random key (typed or raw). Environment i uses `fold_in(key, i)`.
            num_envs: how many.
        """

    @abc.abstractmethod
    def step(
        self, state: EnvState, action: Float[Array, "envs action"]
    ) -> tuple[EnvState, Transition]:
        """Takes one control step and restarts the episodes that ended.

        Args:
            state: from `reset` or an earlier `step`.
            action: clipped to [-1, 1] by the environment.
        """


class EpisodicEnv(Env):
    """An environment given by its equations. Subclass it and define

    - `spec`, a static field,
    - `initial_state(key)`: a random start of *one* environment,
    - `dynamics(state, action)`: the next state of a *batch*, differentiable,
    - `observe(state)` and `reward(state, action, next_state)` of a batch,
    - `is_terminal(state)` of a batch, if episodes can end before the time limit,
    - `report(state)` of a batch and `report_names`, if an episode has figures beside its return,
    - `markers(state)` of a batch, if there is more to draw than the robot.

    A state is any pytree of arrays. An environment whose next state is not finite, or beyond
    `STATE_BOUND`, is terminated with reward zero and restarted; the others do not notice.

    Latency of actions and noise of observations can be randomised in any task: by a default of the
    field `randomization`, or `MyTask(randomization=Randomization(...))`. A task whose `dynamics`
    heed `self.factors` names those that they heed in `factor_names`; `RobotEnv` heeds all.

    `reset` and `step` compile themselves when they are called outside of a program; inside of one
    they are part of it.

    Args:
        randomization: what differs from episode to episode.
        factors: while a batch steps, what its episodes have; None in each of them that is not
            randomised, and of everything in `initial_state`.

    Raises:
        ValueError: in one line, if a task cannot be randomised so.
    """

    factor_names: ClassVar[tuple[str, ...]] = ()
    randomization: Randomization = eqx.field(static=True, default=OFF, kw_only=True)
    factors: Factors = eqx.field(default=NOMINAL, kw_only=True)

    def __check_init__(self) -> None:
        if self.randomization.active:  # whatever is wrong with a spec is told elsewhere
            spec, randomization = self.spec, self.randomization
            randomization.require_possible(spec.name, self.factor_names, spec.observation_size)

    @property
    def num_bodies(self) -> int:
        """How many bodies have a mass factor and an inertia factor of their own."""
        return 1

    def with_randomization(self: E, randomization: Randomization) -> E:
        """The same task with another randomisation; its `settings`, if any, stay as they are."""
        other = _changed(self, randomization=randomization)
        other.__check_init__()
        return other

    @abc.abstractmethod
    def initial_state(self, key: Array) -> PyTree:
        """Random start of one environment (no batch axis), from a typed JAX key."""

    @abc.abstractmethod
    def dynamics(self, state: PyTree, action: Float[Array, "envs action"]) -> PyTree:
        """Next state of a batch; `action` is already clipped to [-1, 1]."""

    @abc.abstractmethod
    def observe(self, state: PyTree) -> Float[Array, "envs observation"]:
        """Observation of a batch of states."""

    @abc.abstractmethod
    def reward(
        self, state: PyTree, action: Float[Array, "envs action"], next_state: PyTree
    ) -> Float[Array, " envs"]:
        """Reward for taking `action` (clipped) in `state` and arriving at `next_state`."""

    def is_terminal(self, state: PyTree) -> Bool[Array, " envs"]:
        """Whether an episode ends in this state; by default never."""
        return jnp.zeros(_batch_size(state), bool)

    def diverged(self, state: PyTree) -> Bool[Array, " envs"]:
        """Whether a state is beyond use; by default if any number is not finite or beyond
        `STATE_BOUND`."""
        diverged = jnp.zeros(_batch_size(state), bool)
        for leaf in jax.tree.leaves(state):
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                inside = jnp.abs(leaf) <= STATE_BOUND  # false for NaN too
                diverged |= ~inside.reshape(len(leaf), -1).all(axis=1)
        return diverged

    def commanded(self, state: PyTree, action: Float[Array, "envs action"]) -> PyTree:
        """A state that `dynamics` gave for actions that came late, with those that were asked for.

        For tasks whose state remembers the last action; by default the state as it is.
        """
        return state

    def report(self, state: PyTree) -> dict[str, Array]:
        """Figures of a batch's running episodes (envs,) by `report_names`; by default none."""
        return {}

    def markers(self, state: PyTree) -> dict[str, Marker]:
        """What pictures of a batch show beside the robot, such as goals; by default nothing."""
        return {}

    def reset(self, key: Array, num_envs: int) -> EnvState:
        """Starts `num_envs` episodes; environment i uses `fold_in(key, i)`."""
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}, must be at least 1")
        state: EnvState = run_compiled(self, "_reset", _typed_key(key), num_envs, static=(1,))
        return state

    def step(
        self, state: EnvState, action: Float[Array, "envs action"]
    ) -> tuple[EnvState, Transition]:
        """One control step of every environment; see `Env.step`."""
        following: tuple[EnvState, Transition] = run_compiled(self, "_step", state, action)
        return following

    def _reset(self, key: Array, num_envs: int) -> EnvState:
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(num_envs))
        return self._start(jax.random.key_data(keys))

    def _step(
        self, state: EnvState, action: Float[Array, "envs action"]
    ) -> tuple[EnvState, Transition]:
        action = clip_action(action)
        variation, acting = state.variation.delayed(action)
        env = self._of(variation)
        physics = env.dynamics(state.physics, acting)
        if acting is not action:
            physics = env.commanded(physics, action)
        observation = env._measure(env.observe(physics), state.key, state.step_count, 1)
        reward = env.reward(state.physics, action, physics)

        non_finite = env.diverged(physics) | ~_finite(observation) | ~_finite(reward)
        step_count = state.step_count + 1
        terminated = env.is_terminal(physics) | non_finite
        truncated = (step_count >= self.spec.episode_length) & ~terminated
        ended = terminated | truncated

        stepped = EnvState(physics, observation, step_count, state.key, variation)
        following = select(ended, self._restart(stepped, ended), stepped)
        return following, Transition(
            observation=following.observation,
            reward=jnp.where(non_finite, 0, reward),
            terminated=terminated,
            truncated=truncated,
            final_observation=select(non_finite, jnp.zeros_like(observation), observation),
            info={"non_finite": non_finite} | env.report(physics),
        )

    def _start(self, key: UInt32[Array, "envs 2"]) -> EnvState:
        """New episodes from each environment's raw key, which is replaced by a fresh one."""
        both = jax.vmap(jax.random.split)(_typed_key(key))
        physics = jax.vmap(self.initial_state)(both[:, 0])
        variation = self._draw(both)
        observation = self._of(variation).observe(physics)
        step_count = jnp.zeros(len(key), jnp.int32)
        following = jax.random.key_data(both[:, 1])
        observation = self._measure(observation, following, step_count, 0)
        return EnvState(physics, observation, step_count, following, variation)

    def _draw(self, both: Array) -> Variation:
        """What new episodes have, from the keys of their starts, the first of these pairs."""
        if not (self.randomization.factors or self.randomization.delays):
            return Variation()
        sizes = (self.num_bodies, self.spec.action_size)
        drawn: Variation = jax.vmap(lambda key: self.randomization.draw(key, *sizes))(both[:, 0])
        return drawn

    def _of(self: E, variation: Variation) -> E:
        """The task with the factors of a batch of episodes, for its equations to find."""
        if not jax.tree.leaves(variation.factors):
            return self
        return _changed(self, factors=variation.factors)

    def _measure(self, observation: Array, key: Array, step_count: Array, later: int) -> Array:
        """What the policy sees `later` steps after `step_count`: the observation and its noise."""
        if "observation_noise" not in self.randomization.active:
            return observation
        return self.randomization.measured(observation, _typed_key(key), step_count + later)

    def _restart(self, state: EnvState, ended: Bool[Array, " envs"]) -> EnvState:
        """New episodes if any has ended, otherwise zeros that nobody reads.

        Random numbers cost as much as several substeps, so they are drawn only when needed. The
        branches see nothing but integers: no gradient can cross.
        """

        zeros: EnvState = jax.tree.map(jnp.zeros_like, state)

        def start(key: Array) -> EnvState:
            fresh: EnvState = jax.tree.map(
                lambda new, old: new.astype(old.dtype), self._start(key), zeros
            )
            # Selecting makes constants of the start vary over the same mapped axes as the state.
            return select(ended, fresh, zeros)

        restarted: EnvState = lax.cond(ended.any(), start, lambda _: zeros, state.key)
        return restarted


def _changed(env: E, **fields: Any) -> E:
    """A copy with other fields, whatever the constructor of the task is like."""
    other = copy.copy(env)
    for name, value in fields.items():
        object.__setattr__(other, name, value)
    return other


def clip_action(action: Array) -> Array:
    """Clips to [-1, 1]; the derivative is one inside and *at* the bounds, zero beyond them."""
    return jnp.where(jnp.abs(action) <= 1, action, jnp.sign(action))


def select(condition: Bool[Array, " envs"], chosen: T, otherwise: T) -> T:
    """Per environment the leaves of `chosen` where `condition` holds, else of `otherwise`."""

    def leaf(x: Array, y: Array) -> Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (x.ndim - 1)), x, y)

    chosen_tree: Any = chosen
    result: T = jax.tree.map(leaf, chosen_tree, otherwise)
    return result


def _typed_key(key: Array) -> Array:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    typed: Array = jax.random.wrap_key_data(key, impl="threefry2x32")
    return typed


def _batch_size(state: PyTree) -> int:
    size: int = jax.tree.leaves(state)[0].shape[0]
    return size


def _finite(values: Array) -> Bool[Array, " envs"]:
    return jnp.isfinite(values).reshape(len(values), -1).all(axis=1)
