"""Are a task's gradients right? Automatic differentiation beside finite differences, in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree
from numpy.typing import NDArray

from rpo.envs.base import Env, EnvState, select

Floats = NDArray[np.float64]
Function: TypeAlias = Callable[[EnvState, Array], Array]
"""A batch of environments and a row of inputs for each to a row of outputs for each."""

STEP = 1e-6
"""Perturbation of the finite differences."""
KINK = 1e-3
"""One-sided differences that disagree by more than this share mark a sample as not smooth."""
SMALLEST_COSINE, LARGEST_ERROR = 0.9999, 1e-3
"""What a correct gradient reaches at every smooth sample (cosine), and at nine of ten (error)."""
MAX_DIRECTIONS = 32
"""A return's gradient by more actions than this is compared along random directions."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Gradients of one kind over all samples.

    Args:
        quantity: which gradient.
        cosine: between both gradients, flattened, at each sample (samples,).
        error: norm of the difference relative to the finite differences' norm (samples,).
        smooth: whether both one-sided differences agree (samples,); judged are these only.
        finite: whether automatic differentiation gave finite numbers (samples,).
    """

    quantity: str
    cosine: Floats
    error: Floats
    smooth: NDArray[np.bool_]
    finite: NDArray[np.bool_]

    @property
    def passed(self) -> bool:
        """Finite everywhere, and right where the derivative exists."""
        if not self.finite.all() or not self.smooth.any():
            return False
        error = np.quantile(self.error[self.smooth], 0.9)
        return bool(self.cosine[self.smooth].min() >= SMALLEST_COSINE and error <= LARGEST_ERROR)


@dataclasses.dataclass(frozen=True)
class GradientCheck:
    """Result of `check_gradients`.

    Args:
        task: name of the environment.
        samples: random states that were tried.
        ended: how many of them were left out because an episode ended in a step.
        comparisons: one per kind of gradient.
    """

    task: str
    samples: int
    ended: int
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """Whether all gradients are right."""
        return all(comparison.passed for comparison in self.comparisons)

    def table(self) -> str:
        """The figures as text."""
        head = (
            f"{'gradient':34}{'cosine':>10}{'error':>10}{'worst':>10}"
            f"{'not smooth':>12}{'not finite':>12}"
        )
        lines = [
            f"{self.task}: automatic differentiation against central differences, float64, "
            f"{self.samples} random states ({self.ended} left out: their episode ended)",
            head,
        ]
        for c in self.comparisons:
            judged = c.smooth & c.finite
            cosine = c.cosine[judged].min() if judged.any() else np.nan
            error = c.error[judged] if judged.any() else np.array([np.nan])
            lines.append(
                f"{c.quantity:34}{cosine:10.6f}{np.median(error):10.1e}{error.max():10.1e}"
                f"{int((~c.smooth).sum()):12d}{int((~c.finite).sum()):12d}"
                f"{'' if c.passed else '  WRONG'}"
            )
        lines.append("cosine: smallest; error: median and worst relative error; both where smooth.")
        return "\n".join(lines)


def check_gradients(
    env: Env,
    *,
    samples: int = 16,
    horizon: int = 8,
    warm_up: int = 64,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> GradientCheck:
    """Compares gradients of an environment with finite differences at random states.

    The states lie on random trajectories. Compared are the Jacobians of one step (next state and
    reward, by state and by action) and the gradient of the return of a few steps by the first state
    and by the actions. Samples whose one-sided differences disagree sit on a kink, where no
    derivative exists; they are counted and not judged.

    Args:
        env: any environment; its state's floating-point leaves are what is perturbed.
        samples: number of random states.
        horizon: steps of the return; 0 compares one step only.
        warm_up: a state lies at most so many random actions behind a random start.
        seed: of the random states, actions and directions.
        progress: told what is being done, one line at a time.

    Raises:
        ValueError: if a number is out of range, or every sample's episode ended.
    """
    require_sampling(samples=samples, horizon=horizon, warm_up=warm_up, seed=seed)
    with jax.enable_x64(True):
        env = jax.tree.map(_widen, env)
        state_key, action_key, direction_key = jax.random.split(jax.random.key(seed), 3)
        progress(f"walking to {samples} random states of {env.spec.name}")
        state = random_states(env, state_key, samples, warm_up)
        shape = (samples, max(horizon, 1), env.spec.action_size)
        actions = jax.random.uniform(action_key, shape, minval=-0.9, maxval=0.9)
        kept = _unended(env, state, actions)
        if not kept.any():
            raise ValueError("the episode of every sample ended: nothing left to compare")
        chosen = np.flatnonzero(kept)
        state, actions = jax.jit(lambda tree: jax.tree.map(lambda x: x[chosen], tree))(
            (state, actions)
        )
        progress("comparing the derivatives of one step")
        comparisons = compare_step(env, state, actions[:, 0])
        if horizon:
            progress(f"comparing the derivatives of a return of {horizon} steps")
            comparisons += compare_return(env, state, actions, direction_key)
    ended = samples - int(kept.sum())
    return GradientCheck(env.spec.name, samples, ended, comparisons)


def require_sampling(*, samples: int, horizon: int, seed: int, warm_up: int = 64) -> None:
    """Refuses numbers with which nothing can be compared; see `check_gradients`.

    Raises:
        ValueError: by name and range.
    """
    for name, value, low, high in (
        ("samples", samples, 1, 10_000),
        ("warm_up", warm_up, 1, 10_000),
        ("horizon", horizon, 0, 1_000),
        ("seed", seed, 0, 2**31 - 1),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}, must lie between {low} and {high:,}")


def compare_step(env: Env, state: EnvState, action: Array) -> tuple[Comparison, ...]:
    """Jacobians of one step at given states, by state and by action. Needs float64 enabled."""
    flat = jax.jit(_flat)(state.physics)
    inputs = np.concatenate([flat, action], axis=1)
    directions = np.eye(inputs.shape[1])
    return _compare("one step", _step_function(env), state, inputs, directions, flat.shape[1])


def compare_return(env: Env, state: EnvState, actions: Array, key: Array) -> tuple[Comparison, ...]:
    """Gradient of the return of `actions` (samples, horizon, A), by first state and by actions."""
    flat = jax.jit(_flat)(state.physics)
    inputs = np.concatenate([flat, np.reshape(actions, (len(actions), -1))], axis=1)
    directions = _directions(key, flat.shape[1], inputs.shape[1])
    horizon = actions.shape[1]
    label, function = f"return of {horizon} steps", _return_function(env, horizon)
    return _compare(label, function, state, inputs, directions, flat.shape[1])


def random_states(env: Env, key: Array, samples: int, warm_up: int) -> EnvState:
    """States after between zero and `warm_up` random actions from a random start."""

    @jax.jit
    def walk(key: Array) -> EnvState:
        start_key, length_key, action_key = jax.random.split(key, 3)
        start = env.reset(start_key, samples)
        lengths = jax.random.randint(length_key, (samples,), 0, warm_up + 1)

        def one(state: EnvState, inputs: tuple[Array, Array]) -> tuple[EnvState, None]:
            index, step_key = inputs
            shape = (samples, env.spec.action_size)
            action = jax.random.uniform(step_key, shape, minval=-1.0, maxval=1.0)
            return select(index < lengths, env.step(state, action)[0], state), None

        keys = jax.random.split(action_key, warm_up)
        end: EnvState = lax.scan(one, start, (jnp.arange(warm_up), keys))[0]
        return end

    states: EnvState = walk(key)
    return states


def _step_function(env: Env) -> Function:
    """(state, action) to (next state, reward)."""

    def function(state: EnvState, inputs: Array) -> Array:
        state, rest = _with_inputs(state, inputs)
        following, transition = env.step(state, rest)
        return jnp.concatenate([_flatten(following.physics)[0], transition.reward[:, None]], 1)

    return function


def _return_function(env: Env, horizon: int) -> Function:
    """(state, actions) to the sum of the rewards."""

    def function(state: EnvState, inputs: Array) -> Array:
        state, rest = _with_inputs(state, inputs)
        actions = rest.reshape(len(inputs), horizon, -1).transpose(1, 0, 2)
        return lax.scan(env.step, state, actions)[1].reward.sum(axis=0)[:, None]

    return function


def _compare(
    label: str,
    function: Function,
    state: EnvState,
    inputs: Floats,
    directions: Floats,
    states: int,
) -> tuple[Comparison, ...]:
    """Derivatives along `directions` (D, inputs): each entry of the state, then of the actions.

    What is not the environment's is computed in NumPy, which compiles nothing.
    """
    jacobian = _reverse_jacobian(function, state, inputs)
    by_action = jacobian[..., states:] @ directions[states:, states:].T
    exact = np.concatenate([jacobian[..., :states], by_action], axis=-1)
    forward, backward = _one_sided(function, state, inputs, directions)
    parts = {"state": slice(0, states), "actions": slice(states, None)}
    return tuple(
        _judge(f"{label} by {by}", exact[..., part], forward[..., part], backward[..., part])
        for by, part in parts.items()
    )


def _judge(quantity: str, exact: Floats, forward: Floats, backward: Floats) -> Comparison:
    rows = [x.reshape(len(x), -1) for x in (exact, forward, backward)]
    ours, expected = rows[0], 0.5 * (rows[1] + rows[2])
    norm = np.linalg.norm(expected, axis=1)
    tiny = np.finfo(float).tiny
    with np.errstate(invalid="ignore"):
        cosine = (ours * expected).sum(1) / np.maximum(norm * np.linalg.norm(ours, axis=1), tiny)
        error = np.linalg.norm(ours - expected, axis=1) / np.maximum(norm, tiny)
        kink = np.linalg.norm(rows[1] - rows[2], axis=1) / np.maximum(norm, tiny)
    both_zero = (norm == 0) & (np.abs(ours).max(axis=1) == 0)
    return Comparison(
        quantity=quantity,
        cosine=np.where(both_zero, 1.0, cosine),
        error=np.where(both_zero, 0.0, error),
        smooth=kink <= KINK,
        finite=np.asarray(np.isfinite(ours).all(axis=1)),
    )


def _reverse_jacobian(function: Function, state: EnvState, inputs: Floats) -> Floats:
    """(samples, outputs, inputs), by reverse mode as in training: one environment per output."""
    outputs = jax.eval_shape(function, state, inputs).shape[1]
    chosen = np.tile(np.eye(outputs), (len(inputs), 1))

    @jax.jit
    def gradient(state: EnvState, inputs: Array) -> Array:
        state, inputs = _repeated((state, inputs), outputs)
        by_inputs: Array = jax.grad(lambda x: (chosen * function(state, x)).sum())(inputs)
        return by_inputs

    return np.asarray(gradient(state, inputs)).reshape(-1, outputs, inputs.shape[1])


def _repeated(tree: Any, count: int) -> Any:
    """Every environment so many times, one after the other."""
    return jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), tree)


def _one_sided(
    function: Function, state: EnvState, inputs: Floats, directions: Floats
) -> tuple[Floats, Floats]:
    """Forward and backward differences (samples, outputs, directions)."""
    count, samples = len(directions), len(inputs)
    moves = np.concatenate([STEP * directions, -STEP * directions, 0 * directions[:1]])
    moved = (inputs[:, None] + moves).reshape(-1, inputs.shape[1])
    evaluate = jax.jit(lambda state, inputs: function(_repeated(state, len(moves)), inputs))
    values = np.asarray(evaluate(state, moved)).reshape(samples, len(moves), -1).transpose(0, 2, 1)
    center = values[..., -1:]
    return (values[..., :count] - center) / STEP, (center - values[..., count:-1]) / STEP


def _directions(key: Array, states: int, inputs: int) -> Floats:
    """Every direction of the state; of the actions every one, or some random orthonormal ones."""
    actions = inputs - states
    chosen = np.eye(actions)
    if actions > MAX_DIRECTIONS:
        chosen = np.linalg.qr(np.asarray(jax.random.normal(key, (actions, MAX_DIRECTIONS))))[0].T
    by_state = np.concatenate([np.eye(states), np.zeros((states, actions))], axis=1)
    by_action = np.concatenate([np.zeros((len(chosen), states)), chosen], axis=1)
    return np.concatenate([by_state, by_action])


def _unended(env: Env, state: EnvState, actions: Array) -> NDArray[np.bool_]:
    """Samples whose episode goes on throughout (a reset cuts the gradient, and a jump has none)."""
    steps = jax.jit(lambda s, a: lax.scan(env.step, s, a)[1])(state, actions.swapaxes(0, 1))
    return ~np.asarray((steps.terminated | steps.truncated).any(axis=0))


def _flatten(physics: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """The floating-point leaves of a state as one row per environment, and the way back."""
    floating, rest = eqx.partition(physics, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(floating)
    sizes = [int(np.prod(leaf.shape[1:])) for leaf in leaves]

    def unflatten(rows: Array) -> Any:
        pieces = jnp.split(rows, np.cumsum(sizes)[:-1], axis=1)
        shaped = [p.reshape(-1, *x.shape[1:]) for p, x in zip(pieces, leaves, strict=True)]
        return eqx.combine(jax.tree.unflatten(structure, shaped), rest)

    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1), unflatten


def _flat(physics: PyTree) -> Array:
    return _flatten(physics)[0]


def _with_inputs(state: EnvState, inputs: Array) -> tuple[EnvState, Array]:
    """A state whose physics are the first of the inputs, and the inputs that are left."""
    flat, unflatten = _flatten(state.physics)
    count = flat.shape[1]
    physics = unflatten(inputs[:, :count])
    return dataclasses.replace(state, physics=physics), inputs[:, count:]


def _widen(leaf: Any) -> Any:
    return leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf
