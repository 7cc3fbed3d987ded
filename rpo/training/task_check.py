"""Whether an environment gives what it promises: shapes before training, numbers when it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rpo.envs.base import Env, EnvSpec, EpisodicEnv
from rpo.envs.markers import Marker
from rpo.errors import TaskError

_REMEDY = "docs/custom-environment.md lists what each function gives."


def check_env(env: Env) -> None:
    """Refuses an environment whose functions give other shapes than `spec` says. Nothing is run.

    Errors that its own functions raise pass through.

    Raises:
        TaskError: naming the function, what it gives and what it should.
    """
    if not isinstance(getattr(env, "spec", None), EnvSpec):
        raise TaskError(f"{type(env).__name__} has no spec, an rpo.envs.EnvSpec")
    spec = env.spec
    for name in ("observation_size", "action_size", "episode_length"):
        value = getattr(spec, name)
        if isinstance(value, bool) or not isinstance(value, int) or value >= 2**31:
            raise TaskError(f"{spec.name}: {name} is {value!r}, must be a whole number\n{_REMEDY}")
    taken = {spec.observation_size, spec.action_size, 1}
    count = next(number for number in range(3, 9) if number not in taken)
    action = jax.ShapeDtypeStruct((count, spec.action_size), jax.dtypes.canonicalize_dtype(float))
    key = jax.eval_shape(lambda: jax.random.key(0))
    if isinstance(env, EpisodicEnv):
        _check_functions(env, key, action, count)
    state = jax.eval_shape(lambda k: env.reset(k, count), key)
    following, transition = jax.eval_shape(env.step, state, action)
    batch = (count,)
    seen = (count, spec.observation_size)
    for what, found, wanted in (
        ("reset: observation", state.observation, seen),
        ("step: observation", following.observation, seen),
        ("step: transition.observation", transition.observation, seen),
        ("step: transition.final_observation", transition.final_observation, seen),
        ("step: transition.reward", transition.reward, batch),
        ("step: transition.terminated", transition.terminated, batch),
        ("step: transition.truncated", transition.truncated, batch),
    ):
        _require(env, what, found, wanted)
    if "non_finite" not in transition.info:
        raise TaskError(f"{type(env).__name__}.step: transition.info must hold non_finite")
    _require(env, "step: transition.info['non_finite']", transition.info["non_finite"], batch)
    _require_same_state(env, "step", state, following)


def _check_functions(env: EpisodicEnv, key: Any, action: Any, count: int) -> None:
    spec = env.spec
    one = jax.eval_shape(env.initial_state, key)
    if not jax.tree.leaves(one):
        raise TaskError(f"{type(env).__name__}.initial_state gives no array")
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), one)
    following = jax.eval_shape(env.dynamics, batch, action)
    _require_same_state(env, "dynamics", batch, following)
    found = jax.eval_shape(env.observe, batch)
    _require(env, "observe", found, (count, spec.observation_size), "(envs, observation_size)")
    found = jax.eval_shape(env.reward, batch, action, batch)
    _require(env, "reward", found, (count,), "(envs,)")
    found = jax.eval_shape(env.is_terminal, batch)
    _require(env, "is_terminal", found, (count,), "(envs,)")
    if getattr(found, "dtype", None) != jnp.bool_:
        raise TaskError(
            f"{type(env).__name__}.is_terminal gives {found.dtype}, must give bool, one per "
            f"environment\n{_REMEDY}"
        )
    _check_markers(env, batch, count)


def _check_markers(env: EpisodicEnv, batch: Any, count: int) -> None:
    found = jax.eval_shape(env.markers, batch)
    if not isinstance(found, dict) or not all(isinstance(x, Marker) for x in found.values()):
        raise TaskError(
            f"{type(env).__name__}.markers gives {type(found).__name__}, must give an "
            f"rpo.envs.Marker by name\n{_REMEDY}"
        )
    for name, marker in found.items():
        for field, size in (("position", 3), ("quaternion", 4)):
            given, wanted = getattr(marker, field), (count, size)
            if given.shape != wanted[1:]:
                _require(
                    env, f"markers: {name!r}.{field}", given, wanted, f"({size},) or (envs, {size})"
                )


def _require_same_state(env: Env, what: str, before: Any, after: Any) -> None:
    old: Any = jax.tree.structure(before)
    new: Any = jax.tree.structure(after)
    if old != new:
        raise TaskError(
            f"{type(env).__name__}.{what} gives a state of another structure than it takes"
            f"\n  {new} instead of {old}\n{_REMEDY}"
        )
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            raise TaskError(
                f"{type(env).__name__}.{what} takes a state of {x.dtype}{list(x.shape)} and gives "
                f"{y.dtype}{list(y.shape)}, must give the same for {x.shape[0]} environments"
                f"\n{_REMEDY}"
            )


def _require(env: Env, what: str, found: Any, wanted: tuple[int, ...], words: str = "") -> None:
    shape = tuple(getattr(found, "shape", ("no array",)))
    if shape != wanted:
        words = f"{words} = " if words else ""
        raise TaskError(
            f"{type(env).__name__}.{what} gives the shape {shape} for {wanted[0]} environments, "
            f"must give {words}{wanted}\n{_REMEDY}"
        )


def broken_states(
    metrics: Mapping[str, np.ndarray], steps: int, seeds: Sequence[int], env: Env
) -> tuple[float, str]:
    """Whether an iteration's numbers are finite.

    Args:
        metrics: one value per seed.
        steps: of each seed.
        seeds: by row.
        env: the task.

    Returns:
        the largest share of a seed's steps that are not, and in words what is wrong if all are.
    """
    broken = metrics.get("non_finite_states")
    if broken is None or not broken.any():
        return 0.0, ""
    share = float(broken.max()) / steps
    if share < 1:
        return share, ""
    return share, (
        f"every step of seed {seeds[int(np.argmax(broken))]} gave a state, observation or reward "
        f"that is not finite, so there is nothing to learn from; {culprit(env)}"
    )


def culprit(env: Env) -> str:
    """Which of an environment's functions gives numbers that are not finite, in words.

    Takes a few steps from random starts; says so if all numbers are finite there.
    """
    key, episodes, steps = jax.random.key(0), 4, 3
    state = env.reset(key, episodes)
    if not isinstance(env, EpisodicEnv):
        return _first_bad(env, {"reset": state.observation}) or _FINITE
    physics = jax.vmap(env.initial_state)(jax.random.split(key, episodes))
    for step in range(steps):
        action = jax.random.uniform(
            jax.random.fold_in(key, step), (episodes, env.spec.action_size), minval=-1.0
        )
        following = env.dynamics(physics, action)
        numbers = {
            "initial_state" if step == 0 else "dynamics": physics,
            "observe": env.observe(physics),
            "reward": env.reward(physics, action, following),
        }
        found = _first_bad(env, numbers)
        if found:
            return found
        physics = following
    return _FINITE


_FINITE = "its first steps from random starts are finite"


def _first_bad(env: Env, numbers: dict[str, Any]) -> str:
    for name, given in numbers.items():
        for leaf in jax.tree.leaves(given):
            values = np.asarray(leaf)
            if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
                share = 1 - np.isfinite(values).mean()
                return f"{type(env).__name__}.{name} gives {share:.0%} numbers that are not finite"
    return ""
