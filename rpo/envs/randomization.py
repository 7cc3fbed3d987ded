"""Domain randomisation: what differs from episode to episode, and how it is drawn.

Tobin et al. 2017 (arXiv 1703.06907) randomise what a simulator shows, Peng et al. 2018 (arXiv
1710.06537) its dynamics, latency included: a policy that copes with all of them copes with a robot
that none of them describes exactly. Everything is drawn at the start of an episode, from the
environment's own key, and is part of its state.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rpo.physics.factors import NOMINAL, Factors

LONGEST_LATENCY = 16
"""Control steps."""
LARGEST_FACTOR = 100.0
LARGEST_NOISE = 1e3
_DRAWS, _NOISE = 2**31 - 1, 2**31 - 2
"""Streams of a key, far from the small numbers that a task may fold into it or split it by."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Randomization:
    """What differs from episode to episode. By default nothing, at no cost.

    Ranges are those of uniform distributions. Factors have no unit; (1, 1) leaves a figure as it
    is. The equations are in `docs/domain-randomisation.md`.

    Raises:
        ValueError: in one line, if a figure is out of range.
    """

    mass_range: tuple[float, float] = (1.0, 1.0)
    """Factor on the mass of each body, and on its inertia with it: a denser body."""
    inertia_range: tuple[float, float] = (1.0, 1.0)
    """Factor on the inertia of each body about its centre of mass, beside that of its mass."""
    friction_range: tuple[float, float] = (1.0, 1.0)
    """Factor on the friction coefficient of all contacts together."""
    strength_range: tuple[float, float] = (1.0, 1.0)
    """Factor on what each actuator exerts."""
    gravity_range: tuple[float, float] = (1.0, 1.0)
    """Factor on gravity."""
    latency_range: tuple[float, float] = (0.0, 0.0)
    """Control steps, whole or not, by which actions act late."""
    observation_noise: tuple[float, ...] = (0.0,)
    """Standard deviation of the noise of every observation, in its units: one number for all of
    its entries, or one for each."""

    def __post_init__(self) -> None:
        for field in FIELDS:
            object.__setattr__(self, field, _numbers(field, getattr(self, field)))
        for field in (*_FACTOR_FIELDS, "latency_range"):
            _check_range(field, getattr(self, field))
        for noise in self.observation_noise:
            if not 0 <= noise <= LARGEST_NOISE:
                raise ValueError(
                    f"observation_noise is {noise}, must lie between 0 and {LARGEST_NOISE:g}"
                )

    @property
    def factors(self) -> tuple[str, ...]:
        """Names of the `Factors` that are drawn."""
        ranges = {name: getattr(self, f"{name}_range") for name in Factors._fields}
        return tuple(name for name, bounds in ranges.items() if bounds != (1.0, 1.0))

    @property
    def delays(self) -> bool:
        """Whether actions can act late."""
        return self.latency_range[1] > 0

    @property
    def active(self) -> dict[str, tuple[float, ...]]:
        """What is not off, by name."""
        found = {f"{name}_range": getattr(self, f"{name}_range") for name in self.factors}
        found |= {"latency_range": self.latency_range} if self.delays else {}
        noisy = any(self.observation_noise)
        return found | ({"observation_noise": self.observation_noise} if noisy else {})

    def require_possible(
        self, task: str, factor_names: tuple[str, ...], observation_size: int
    ) -> None:
        """Refuses what a task cannot have.

        Args:
            task: its name.
            factor_names: of the `Factors` that its dynamics heed.
            observation_size: length of one observation.

        Raises:
            ValueError: in one line.
        """
        for name in self.factors:
            if name not in factor_names:
                can = [f"{one}_range" for one in factor_names]
                can += ["latency_range", "observation_noise"]
                raise ValueError(f"{task} cannot randomise {name}_range, only {', '.join(can)}")
        noises = len(self.observation_noise)
        if noises not in (1, observation_size):
            raise ValueError(
                f"{task}: observation_noise has {noises} entries, must have 1 or {observation_size}"
            )

    def __str__(self) -> str:
        parts = (f"{name} {' '.join(f'{x:g}' for x in v)}" for name, v in self.active.items())
        return ", ".join(parts) or "off"

    def draw(self, key: Array, bodies: int, actions: int) -> Variation:
        """What one episode of one environment has, without a batch axis, where something is drawn.

        Args:
            key: typed JAX key of the episode's start. Each figure has a stream of its own, so none
                depends on which others are drawn.
            bodies: that have a mass.
            actions: of the task.
        """
        names = [*self.factors, *["latency"] * self.delays]
        every = (*Factors._fields, "latency")
        streams = jax.random.split(jax.random.fold_in(key, _DRAWS), len(every))
        shapes = {"mass": (bodies,), "inertia": (bodies,), "strength": (actions,)}
        sizes = [math.prod(shapes.get(name, ())) for name in names]

        # A stream begins alike however much of it is drawn: one draw of them all compiles sooner.
        def uniform(stream: Array, bounds: Array) -> Array:
            return jax.random.uniform(stream, (max(sizes),), minval=bounds[0], maxval=bounds[1])

        own = streams[np.array([every.index(name) for name in names])]
        ranges = jnp.array([getattr(self, f"{name}_range") for name in names])
        rows = zip(names, sizes, jax.vmap(uniform)(own, ranges), strict=True)
        drawn = {name: row[:size].reshape(shapes.get(name, ())) for name, size, row in rows}
        latency = drawn.pop("latency", None)
        factors = Factors(**drawn)
        if latency is None:
            return Variation(factors)
        steps = math.ceil(self.latency_range[1])
        return Variation(factors, latency, jnp.zeros((steps, actions), latency.dtype))

    def measured(
        self,
        observation: Float[Array, "envs observation"],
        key: Array,
        step_count: Int[Array, " envs"],
    ) -> Float[Array, "envs observation"]:
        """The observation with its noise: o + sigma n, n ~ N(0, 1) independent of everything.

        Args:
            observation: without noise.
            key: typed key of each environment's running episode.
            step_count: of the state that is observed.
        """

        def noise(key: Array, step: Array) -> Array:
            stream = jax.random.fold_in(jax.random.fold_in(key, _NOISE), step)
            return jax.random.normal(stream, observation.shape[1:], observation.dtype)

        deviation = jnp.asarray(self.observation_noise, observation.dtype)
        return observation + deviation * jax.vmap(noise)(key, step_count)


FIELDS = tuple(field.name for field in dataclasses.fields(Randomization))
_FACTOR_FIELDS = tuple(f"{name}_range" for name in Factors._fields)


class Variation(eqx.Module):
    """What the running episode has. Every leaf leads with the environments; off, there is none.

    Args:
        factors: on the model's figures.
        latency: control steps by which actions act late.
        past_actions: the latest ones, newest first; zero before the episode began.
    """

    factors: Factors = NOMINAL
    latency: Float[Array, "*envs"] | None = None
    past_actions: Float[Array, "*envs steps action"] | None = None

    def delayed(
        self, action: Float[Array, "envs action"]
    ) -> tuple[Variation, Float[Array, "envs action"]]:
        """The action that acts in this step, and what the next step will know.

        Actions are held for a control step. One that comes d = n + f steps late, 0 <= f < 1, finds
        the one before it at work for the share f of the step; what acts is their mean over the
        step, (1 - f) a[t - n] + f a[t - n - 1], which for whole d is the action itself.
        """
        if self.latency is None or self.past_actions is None:
            return self, action
        newest = action[:, None].astype(self.past_actions.dtype)
        known = jnp.concatenate([newest, self.past_actions], axis=1)
        age = jnp.arange(known.shape[1])
        weight = jnp.maximum(1 - jnp.abs(self.latency[:, None] - age), 0)
        acting = (weight[:, :, None] * known).sum(axis=1)
        return Variation(self.factors, self.latency, known[:, :-1]), acting.astype(action.dtype)


def scaled(value: Any, factor: Array | None) -> Any:
    """A figure of the nominal task with its factor, if there is one."""
    return value if factor is None else value * factor


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    """A setting as a tuple of numbers; it may be a list, or a lone number for a tuple of one."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if any(isinstance(x, bool) or not isinstance(x, int | float) for x in values):
        raise ValueError(f"{name} is {value!r}, must be numbers")
    return tuple(map(float, values))


def _check_range(name: str, bounds: tuple[float, ...]) -> None:
    shown = " ".join(f"{bound:g}" for bound in bounds)
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise ValueError(f"{name} is {shown}, must be two numbers, the lower one first")
    if name == "latency_range":
        low, high, unit = 0.0, float(LONGEST_LATENCY), " control steps"
    else:  # a body without mass or inertia has no acceleration
        low, high = (0.01 if name in ("mass_range", "inertia_range") else 0.0), LARGEST_FACTOR
        unit = ""
    if not all(low <= bound <= high for bound in bounds):
        raise ValueError(f"{name} is {shown}, must lie between {low:g} and {high:g}{unit}")


OFF = Randomization()
