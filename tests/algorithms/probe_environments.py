"""Tiny environments whose optimal behaviour, values or gradients are known on paper."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rpo.envs.base import EnvSpec, EnvState, EpisodicEnv, Transition


def spec(name: str, *, length: int, observation_size: int = 1, action_size: int = 1) -> EnvSpec:
    return EnvSpec(
        name=name,
        observation_size=observation_size,
        action_size=action_size,
        episode_length=length,
        control_dt=0.1,
    )


class OneStep(EpisodicEnv):
    """One step per episode, reward -(a - 0.3)^2."""

    spec: EnvSpec = eqx.field(static=True, default=spec("one-step", length=1))

    def initial_state(self, key: Array) -> Array:
        return jnp.zeros(1)

    def dynamics(self, state: Array, action: Array) -> Array:
        return state

    def observe(self, state: Array) -> Array:
        return state

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        return -jnp.sum((action - 0.3) ** 2, axis=-1)


class ThroughDynamics(EpisodicEnv):
    """x' = x + 0.5 a, reward -x^2 of the state *before* the step: actions pay only later."""

    spec: EnvSpec = eqx.field(static=True, default=spec("through-dynamics", length=16))

    def initial_state(self, key: Array) -> Array:
        return jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)

    def dynamics(self, state: Array, action: Array) -> Array:
        return state + 0.5 * action

    def observe(self, state: Array) -> Array:
        return state

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        return -jnp.sum(state**2, axis=-1)


class ConstantReward(EpisodicEnv):
    """Reward 1 at every step; episodes are cut after `length` steps. All observations are zero."""

    spec: EnvSpec = eqx.field(static=True)

    def __init__(self, length: int) -> None:
        self.spec = spec("constant-reward", length=length)

    def initial_state(self, key: Array) -> Array:
        return jnp.zeros((), jnp.int32)

    def dynamics(self, state: Array, action: Array) -> Array:
        return state + 1

    def observe(self, state: Array) -> Array:
        return jnp.zeros((state.shape[0], 1))

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        return 1.0 + 0.0 * action[:, 0]


class Wanderer(EpisodicEnv):
    """Non-linear two-dimensional system with random starts, terminations and time limits."""

    spec: EnvSpec = eqx.field(
        static=True, default=spec("wanderer", length=4, observation_size=3, action_size=2)
    )

    def initial_state(self, key: Array) -> Array:
        return jax.random.normal(key, (2,))

    def dynamics(self, state: Array, action: Array) -> Array:
        return 0.9 * state + 0.4 * jnp.sin(state[:, ::-1]) + 0.3 * action

    def observe(self, state: Array) -> Array:
        product = state[:, :1] * state[:, 1:]
        return jnp.concatenate([state, product], axis=-1)

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        return jnp.cos(next_state[:, 0]) - 0.1 * jnp.sum(action**2, axis=-1) * next_state[:, 1]

    def is_terminal(self, state: Array) -> Array:
        return state[:, 0] > 1.6


class Diverging(EpisodicEnv):
    """x' = x + 0.1 a; where the start is above zero, the derivative of the reward is not finite."""

    spec: EnvSpec = eqx.field(static=True, default=spec("diverging", length=100))

    def initial_state(self, key: Array) -> Array:
        return jax.random.normal(key, (1,))

    def dynamics(self, state: Array, action: Array) -> Array:
        return state + jnp.where(state > 0, 1e-3, 0.1) * action

    def observe(self, state: Array) -> Array:
        return jnp.tanh(state)

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        # sqrt has an infinite slope at 0, which the chain rule multiplies by 0: NaN, as in a
        # contact model without a guard
        zero = jnp.where(state > 0.0, 0.0, 1.0) * (1.0 + action**2)
        return -jnp.sum(jnp.sqrt(zero), axis=-1)


CHAIN, EVERY_SECOND_STEP_ENDS, ONE_STEP = range(3)


class Known(EpisodicEnv):
    """One of three problems whose answers are known: one compiled program serves them all.

    `CHAIN`: three steps with one-hot observations; only the last one pays, and it is terminal.
    `EVERY_SECOND_STEP_ENDS`: every step pays 1, every second one is terminal.
    `ONE_STEP`: the only step is terminal and pays -(a - 0.3)^2. Observations of both are zero.
    """

    problem: Array = eqx.field(default=CHAIN, converter=np.int32)
    spec: EnvSpec = eqx.field(static=True, default=spec("known", length=100, observation_size=3))

    def initial_state(self, key: Array) -> Array:
        return jnp.zeros((), jnp.int32)

    def dynamics(self, state: Array, action: Array) -> Array:
        return state + 1

    def observe(self, state: Array) -> Array:
        return jnp.where(self.problem == CHAIN, jax.nn.one_hot(state, 3), 0.0)

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        chain = jnp.where(next_state == 3, 1.0, 0.0)
        one_step = -((action[:, 0] - 0.3) ** 2)
        return jnp.stack([chain, jnp.ones_like(chain), one_step])[self.problem]

    def is_terminal(self, state: Array) -> Array:
        return state == jnp.array([3, 2, 1])[self.problem]


@jax.custom_jvp
def forward_only(x: Array) -> Array:
    """The identity, which refuses to be differentiated."""
    return x


@forward_only.defjvp
def _refuse(primals, tangents):
    raise TypeError("the environment was differentiated")


class ForwardOnly(ThroughDynamics):
    """`ThroughDynamics`, with a step that raises as soon as anybody differentiates it."""

    def dynamics(self, state: Array, action: Array) -> Array:
        return super().dynamics(forward_only(state), forward_only(action))

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        return super().reward(forward_only(state), action, next_state)


@jax.custom_vjp
def with_slope(x: Array, slope: Array) -> Array:
    """x, whose derivative is multiplied by `slope`."""
    return x


with_slope.defvjp(
    lambda x, slope: (x, slope),
    lambda slope, gradient: (gradient * slope, jnp.zeros_like(slope)),
)


def as_number(x: float | Array) -> Array:
    return jnp.asarray(x, float)  # with a type of its own: one compiled program for all


class Poisoned(Wanderer):
    """`Wanderer`, one of whose environments gives numbers that no simulation should.

    All fields but `index` are arrays, so that one compiled program serves all cases: the factor of
    that environment's derivatives by actions (0 silences it), and what its states, observations and
    rewards are replaced with (0: they are not).
    """

    slope: Array = eqx.field(default=1.0, converter=as_number)
    state: Array = eqx.field(default=0.0, converter=as_number)
    seen: Array = eqx.field(default=0.0, converter=as_number)
    paid: Array = eqx.field(default=0.0, converter=as_number)
    index: int = eqx.field(static=True, default=3)

    def initial_state(self, key: Array) -> dict[str, Array]:
        return {"x": super().initial_state(key), "marked": jnp.zeros(())}

    def reset(self, key: Array, num_envs: int) -> EnvState:
        marked = jnp.where(jnp.arange(num_envs) == self.index, 1.0, 0.0)
        return _marked(super().reset(key, num_envs), marked)

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, Transition]:
        following, transition = super().step(state, action)
        return _marked(following, state.physics["marked"]), transition

    def dynamics(self, state: dict[str, Array], action: Array) -> dict[str, Array]:
        # a larger factor would be taken to the power of the number of steps
        action = _with_slope(state, action, jnp.minimum(self.slope, 1.0))
        x = super().dynamics(state["x"], action)
        return {"x": _poisoned(state, self.state, x), "marked": state["marked"]}

    def observe(self, state: dict[str, Array]) -> Array:
        return _poisoned(state, self.seen, super().observe(state["x"]))

    def reward(self, state: dict[str, Array], action: Array, next_state: dict[str, Array]) -> Array:
        action = _with_slope(state, action, self.slope)
        reward = super().reward(state["x"], action, next_state["x"])
        return _poisoned(state, self.paid, reward)

    def is_terminal(self, state: dict[str, Array]) -> Array:
        return super().is_terminal(state["x"])


def _with_slope(state: dict[str, Array], action: Array, slope: Array) -> Array:
    return with_slope(action, jnp.where(state["marked"] > 0, slope, 1.0)[:, None])


def _poisoned(state: dict[str, Array], value: Array, x: Array) -> Array:
    chosen = (state["marked"] > 0) & (value != 0)
    return jnp.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), value, x)


def _marked(state: EnvState, marked: Array) -> EnvState:
    return dataclasses.replace(state, physics={"x": state.physics["x"], "marked": marked})
