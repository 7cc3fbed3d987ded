"""Is another package's derivative of any use? A verdict in one line, before a training starts.

`rpo.envs.gradient_check` asks whether every entry of a task's Jacobians is exact. A foreign state
has thousands of entries, and nobody promises exactness: asked here is only whether the gradient
that first-order methods follow, of a return by the actions, points where finite differences do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from rpo.envs.base import Env, EnvState
from rpo.envs.gradient_check import random_states
from rpo.errors import one_line

STEPS = (1e-2, 1e-3)
"""Perturbations of the finite differences, which are in single precision."""
DIRECTIONS = 8
"""Random directions per state, along which the derivatives are compared."""
SMALLEST_COSINE = 0.9
"""Between both derivatives along the directions, in half of the states, of a useful gradient."""

Kind = Literal["useful", "rough", "wrong", "zero", "not finite", "missing"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a task's derivative is worth.

    Args:
        task: its name.
        kind: `missing` if JAX cannot differentiate the task at all; `rough` if finite differences
            of two sizes disagree with one another as well.
        detail: in words.
    """

    task: str
    kind: Kind
    detail: str

    @property
    def useful(self) -> bool:
        """Whether methods that follow the derivative can be expected to work."""
        return self.kind == "useful"

    def __str__(self) -> str:
        if self.useful:
            return f"derivative of {self.task}: useful ({self.detail})"
        remedy = "use a method that needs none: --algorithm ppo or --algorithm sac"
        return f"derivative of {self.task}: {self.kind} ({self.detail}); {remedy}"


def judge(
    env: Env, task: str, *, samples: int = 8, horizon: int = 8, warm_up: int = 16, seed: int = 0
) -> Verdict:
    """Compares the gradient of a return by its actions with finite differences.

    Args:
        env: the task.
        task: its name.
        samples: random states.
        horizon: steps of the return.
        warm_up: a state lies at most so many random actions behind a random start.
        seed: of the states, actions and directions.
    """
    missing = obstacle(env, horizon)
    if missing is not None:
        return Verdict(task, "missing", missing)
    state_key, action_key, direction_key = jax.random.split(jax.random.key(seed), 3)
    state = random_states(env, state_key, samples, warm_up)
    shape = (horizon, samples, env.spec.action_size)
    actions = jax.random.uniform(action_key, shape, minval=-0.9, maxval=0.9)
    directions = jax.random.normal(direction_key, (DIRECTIONS, *shape))
    returns = _returns(env)
    gradient = jax.jit(jax.grad(lambda a, s: returns(a, s).sum()))(actions, state)
    ours = np.asarray(jnp.einsum("hsa,dhsa->sd", gradient, directions), float)
    value = jax.jit(returns)

    def difference(step: float) -> Float[np.ndarray, "states directions"]:
        moved = [
            np.asarray(value(actions + step * d, state) - value(actions - step * d, state), float)
            for d in directions
        ]
        return np.array(moved).T / (2 * step)

    return _judge(task, ours, [difference(step) for step in STEPS], horizon)


def obstacle(env: Env, horizon: int = 2) -> str | None:
    """Why JAX cannot differentiate a task in reverse, in words; None if it can. Nothing is run."""
    state = jax.eval_shape(lambda: env.reset(jax.random.key(0), 2))
    action = jnp.zeros((horizon, 2, env.spec.action_size))
    try:
        jax.eval_shape(jax.grad(lambda a, s: _returns(env)(a, s).sum()), action, state)
    except (ValueError, TypeError, NotImplementedError) as error:
        if "while_loop" in str(error) or "fori_loop" in str(error):
            return "its solver loops until it has converged, which JAX cannot differentiate back"
        return one_line(error)[:200]
    return None


def _returns(env: Env) -> Callable[[Array, EnvState], Array]:
    """(actions (horizon, states, A), states) to the sum of the rewards (states,)."""

    return lambda actions, state: lax.scan(env.step, state, actions)[1].reward.sum(axis=0)


def _judge(
    task: str,
    ours: Float[np.ndarray, "states directions"],
    differences: list[Float[np.ndarray, "states directions"]],
    horizon: int,
) -> Verdict:
    count = len(ours)
    over = f"in {count} random states, {horizon} steps ahead"
    finite = np.isfinite(ours).all(axis=1)
    if finite.sum() <= count / 2:
        return Verdict(task, "not finite", f"{int((~finite).sum())} of {count} gradients, {over}")
    if not ours[finite].any():
        moved = any(expected.any() for expected in differences)
        told = "though the return changes" if moved else "the return does not change"
        return Verdict(task, "zero", f"{told} with the actions {over}")
    cosines = [_cosine(ours[finite], expected[finite]) for expected in differences]
    cosine, between = max(cosines), _cosine(*(expected[finite] for expected in differences))
    detail = f"cosine {cosine:.3f} with finite differences, median {over}"
    if not finite.all():
        detail += f"; {int((~finite).sum())} gradients not finite"
    if cosine >= SMALLEST_COSINE:
        return Verdict(task, "useful", detail)
    if between >= SMALLEST_COSINE:
        return Verdict(task, "wrong", detail)
    steps = " and ".join(map(str, STEPS))
    detail += f"; {between:.3f} between those of {steps}: the return jumps or bends"
    return Verdict(task, "rough", detail)


def _cosine(
    x: Float[np.ndarray, "states directions"], y: Float[np.ndarray, "states directions"]
) -> float:
    """Median over states of the cosine between two derivatives; states that diverged count 0."""
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    cosines = (x * y).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    return float(np.median(np.nan_to_num(cosines)))
