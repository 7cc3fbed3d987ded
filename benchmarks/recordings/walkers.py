"""Our simulator beside recordings of the reference: errors of states, observations, gradients.

A recording holds states, actions, observations, rewards and gradients that the reference simulator
(DFlex) computed in float32, and the constants of its model. Everything is compared in our
coordinates, except gradients, which are compared in the reference's (by differentiating through the
mapping), quaternions in their tangent space.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from numpy.typing import ArrayLike, NDArray

from rpo.envs.base import clip_action
from rpo.envs.locomotion import LocomotionEnv, LocomotionSettings, RobotState
from rpo.envs.registry import make, names, settings_class
from rpo.physics.substep import Kernel

from .constants import constants_of_model, constants_of_recording
from .coordinates import BaseKind, state_from_reference, state_to_reference

Floats = NDArray[np.floating]
AnyArray = TypeVar("AnyArray", Array, Floats)
Recorded = TypeVar("Recorded")
"""A kind of recording."""

TOLERANCES = {
    "constants": 5e-6,
    "coordinates": 1e-5,
    "velocities": 1e-4,
    "open loop": 1e-3,
    "observations": 1e-5,
    "rewards": 1e-5,
    "one-step gradients": 1e-4,
    "one-step cosine": 1e-4,
    "8-step gradients": 1e-3,
}
"""Largest error that counts as parity; see each comparison for what it is relative to."""
SHARE_WITHIN = 0.95
"""Share of one-step gradients whose relative error must be within tolerance (cosine: of all)."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Error of one quantity.

    Args:
        comparison: the comparison it belongs to.
        quantity: what was compared.
        absolute: largest absolute error.
        relative: largest error relative to the quantity's scale (gradients: largest relative error
            of a sample).
        judged: the error that is held against the tolerance.
        tolerance: its bound.
    """

    comparison: str
    quantity: str
    absolute: float
    relative: float
    judged: float
    tolerance: float

    @property
    def within(self) -> bool:
        """Whether the error is a number and within tolerance."""
        return bool(self.judged <= self.tolerance)


class Recording:
    """A file of reference data and the environment that replays it.

    Args:
        path: of the file.
        dtype: precision of our side.
        kernel: what runs our side (`StepSettings`).

    Raises:
        OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile: if it is no such file.
    """

    def __init__(self, path: Path, dtype: type = np.float32, kernel: Kernel = "xla") -> None:
        with path.open("rb") as file, np.load(file) as data:
            self.data = {key: data[key] for key in data.files}
        self.name = path.stem
        self.dtype = dtype
        self.kernel = kernel
        coordinates = int(self.data["model_joint_coord_count"])
        size = coordinates + self.data["actions"].shape[-1]
        self.task = next((task for task in names() if _size(task) == size), None)
        if self.task is None:
            raise ValueError(f"{path}: no task has a robot with {coordinates} coordinates")

    @property
    def kind(self) -> BaseKind:
        """Kind of base."""
        return "planar" if self.task == "hopper" else "free"

    @cached_property
    def env(self) -> LocomotionEnv:
        """Our environment with the integration settings of the recording."""
        assert self.task is not None
        env = make(
            self.task,
            substeps=int(self.data["sim_substeps"]),
            mass_matrix_interval=int(self.data["MM_caching_frequency"]),
            kernel=self.kernel,
        )
        assert isinstance(env, LocomotionEnv)
        return env

    def array(self, key: str) -> Array:
        """A recorded array in the precision of the comparison."""
        return jnp.asarray(self.data[key], self.dtype)

    @cached_property
    def states(self) -> tuple[Array, Array]:
        """All recorded states in our coordinates: q (T+1, n, nq) and qd (T+1, n, nv)."""
        theirs = self.array("joint_q"), self.array("joint_qd")
        ours: tuple[Array, Array] = jax.jit(state_from_reference, static_argnums=2)(
            *theirs, self.kind
        )
        return ours

    def step(self, q: Array, qd: Array, action: Array) -> tuple[Array, Array]:
        """One control step of a batch in our coordinates, without any reset."""
        state = self.env.dynamics(self.env.state(q, qd), clip_action(action))
        return state.q, state.qd

    def step_reference(self, q: Array, qd: Array, action: Array) -> tuple[Array, Array]:
        """The same in the reference's coordinates."""
        q, qd = state_from_reference(q, qd, self.kind)
        return state_to_reference(*self.step(q, qd, action), self.kind)


def _size(task: str) -> int:
    """Number of coordinates and actions of a task's robot together."""
    settings = settings_class(task)()
    actions = len(settings.strengths) if isinstance(settings, LocomotionSettings) else 0
    return (3 if task == "hopper" else 7) + 2 * actions


def compare_constants(recording: Recording) -> Iterator[Measurement]:
    """Model constants, relative to the largest of their kind."""
    ours = constants_of_model(recording.env.model)
    theirs = constants_of_recording(recording.data)
    for quantity, expected in theirs.items():
        if ours[quantity].shape != expected.shape:
            yield Measurement("constants", quantity, np.inf, np.inf, np.inf, 0.0)
            continue
        yield measure("constants", quantity, ours[quantity], expected, TOLERANCES["constants"])


def compare_step(recording: Recording) -> Iterator[Measurement]:
    """One control step from every recorded state; coordinates in m and rad, velocities relative to
    the largest speed."""
    q, qd = recording.states
    steps = len(recording.data["actions"])
    flat = [merge(x) for x in (q[:steps], qd[:steps], recording.array("actions"))]
    q_next, qd_next = jax.jit(recording.step)(*flat)
    yield measure("step", "coordinates", q_next, merge(q[1:]), TOLERANCES["coordinates"], 1.0)
    yield measure("step", "velocities", qd_next, merge(qd[1:]), TOLERANCES["velocities"])


def compare_open_loop(recording: Recording) -> Iterator[Measurement]:
    """All recorded actions in a row from the first state."""

    @jax.jit
    def roll(q: Array, qd: Array, actions: Array) -> tuple[Array, Array]:
        def one(state: tuple[Array, Array], action: Array) -> tuple[tuple[Array, Array], None]:
            return recording.step(*state, action), None

        return lax.scan(one, (q, qd), actions)[0]

    q, qd = recording.states
    actions = recording.array("actions")
    q_end, qd_end = roll(q[0], qd[0], actions)
    bound, last = TOLERANCES["open loop"], len(actions)
    yield measure("open loop", f"coordinates after {last}", q_end, q[last], bound, 1.0)
    yield measure(
        "open loop", f"velocities after {last}", qd_end, qd[last], bound, float(abs(qd).max())
    )


def compare_observations(recording: Recording) -> Iterator[Measurement]:
    """Observations of every recorded state, each entry relative to its largest value."""
    q, qd = recording.states
    actions = clip_action(recording.array("actions"))
    shown = jnp.concatenate([jnp.zeros_like(actions[:1]), actions])[: len(q)]
    env = recording.env
    observe = jax.jit(env.observe)
    state = env.state(merge(q), merge(qd))
    yield _measure_observation("observations", observe(state), recording.data["obs"])
    if env.spec.observation_size > recording.data["obs"].shape[-1] or recording.kind == "planar":
        return
    shown_state = RobotState(state.q, state.qd, merge(shown))
    yield _measure_observation(
        "with last action", observe(shown_state), recording.data["obs_no_grad_mode"]
    )


def compare_rewards(recording: Recording) -> Iterator[Measurement]:
    """Rewards r(s_t, a_t) of every recorded step, relative to the largest."""
    q, qd = recording.states
    steps = len(recording.data["reward"])
    state = recording.env.state(merge(q[:steps]), merge(qd[:steps]))
    actions = clip_action(merge(recording.array("actions")))
    reward = jax.jit(recording.env.reward)(state, actions, state)
    yield measure("rewards", "rewards", reward, merge(recording.data["reward"]), 1e-5)


def compare_one_step_gradients(recording: Recording) -> Iterator[Measurement]:
    """Gradients of a random linear function of the next state, sample by sample."""
    w_q, w_qd = merge(recording.array("grad1_w_q")), merge(recording.array("grad1_w_qd"))

    @jax.jit
    @jax.grad
    def gradient(inputs: tuple[Array, Array, Array]) -> Array:
        q, qd = recording.step_reference(*inputs)
        return (w_q * q).sum() + (w_qd * qd).sum()

    times = recording.data["grad1_times"]
    inputs = [merge(recording.array(k)[times]) for k in ("joint_q", "joint_qd", "actions")]
    ours = gradient((inputs[0], inputs[1], inputs[2]))
    keys = ("grad1_grad_joint_q", "grad1_grad_joint_qd", "grad1_grad_action")
    theirs = [merge(recording.array(key)) for key in keys]
    q = inputs[0]
    yield from _measure_samples(
        "state", _state_gradient(recording, q, ours), _state_gradient(recording, q, theirs)
    )
    yield from _measure_samples("action", ours[2], theirs[2])


def compare_eight_step_gradients(recording: Recording) -> Iterator[Measurement]:
    """Gradients of eight rewards, and of a random linear function of the state after them."""
    env, kind = recording.env, recording.kind
    w_q, w_qd = recording.array("h8_term_w_q"), recording.array("h8_term_w_qd")

    @jax.jit
    @jax.grad
    def gradient(inputs: tuple[Array, Array, Array], share: Array) -> Array:
        q, qd, actions = inputs

        def one(state: RobotState, action: Array) -> tuple[RobotState, Array]:
            action = clip_action(action)
            following = env.dynamics(state, action)
            return following, env.reward(state, action, following).sum()

        start = env.state(*state_from_reference(q, qd, kind))
        end, rewards = lax.scan(one, start, actions)
        q, qd = state_to_reference(end.q, end.qd, kind)
        final = (w_q * q).sum() + (w_qd * qd).sum()
        return (1 - share) * rewards.sum() + share * final

    count = len(recording.data["h8_rewards"])
    inputs = [recording.array(k) for k in ("init_joint_q", "init_joint_qd", "actions")]
    start = (inputs[0], inputs[1], inputs[2][:count])
    for prefix, share in (("h8_reward", 0.0), ("h8_term", 1.0)):
        ours = gradient(start, jnp.asarray(share, recording.dtype))
        names_ = ("grad_init_joint_q", "grad_init_joint_qd", "grad_actions")
        theirs = [recording.array(f"{prefix}_{name}") for name in names_]
        label = {"h8_reward": "rewards", "h8_term": "final state"}[prefix]
        expected_state = _state_gradient(recording, inputs[0], theirs)
        pairs = {
            "by state": (_state_gradient(recording, inputs[0], ours), expected_state),
            "by actions": (_per_environment(ours[2]), _per_environment(theirs[2])),
        }
        for by, (value, expected) in pairs.items():
            error, scale = _norm(value - expected), _norm(expected)
            yield Measurement(
                "8-step gradients",
                f"{label} {by}",
                float(abs(value - expected).max()),
                float((error / scale).max()),
                float((error / scale).max()),
                TOLERANCES["8-step gradients"],
            )


COMPARISONS: dict[str, Callable[[Recording], Iterator[Measurement]]] = {
    "constants": compare_constants,
    "observations": compare_observations,
    "rewards": compare_rewards,
    "step": compare_step,
    "open-loop": compare_open_loop,
    "one-step-gradients": compare_one_step_gradients,
    "8-step-gradients": compare_eight_step_gradients,
}
"""Comparisons by name, cheapest first."""


def compare(recording: Recording, only: Iterable[str] = ()) -> Iterator[Measurement]:
    """Runs the comparisons (all, or only those named) and yields what they measure.

    Raises:
        ValueError: if a comparison is unknown.
    """
    return measurements(COMPARISONS, recording, only)


def measurements(
    comparisons: Mapping[str, Callable[[Recorded], Iterator[Measurement]]],
    recording: Recorded,
    only: Iterable[str] = (),
) -> Iterator[Measurement]:
    """What comparisons of a recording measure.

    Args:
        comparisons: by name.
        recording: that they are of.
        only: those to run, all if there are none.

    Raises:
        ValueError: if one of these is unknown.
    """
    chosen = tuple(only) or tuple(comparisons)
    for name in chosen:
        if name not in comparisons:
            raise ValueError(f"unknown comparison {name!r}; known: {', '.join(comparisons)}")
    for name in chosen:
        yield from comparisons[name](recording)


def merge(array: AnyArray) -> AnyArray:
    """Merges the axes of time and environments."""
    return array.reshape(-1, *array.shape[2:])


def _norm(rows: Array) -> Floats:
    return np.asarray(np.linalg.norm(np.asarray(rows, float), axis=-1))


def _per_environment(array: Array) -> Array:
    """(T, n, a) to (n, T a)."""
    return jnp.moveaxis(array, 1, 0).reshape(array.shape[1], -1)


def _state_gradient(recording: Recording, q: Array, gradients: Iterable[Array]) -> Array:
    """Gradient by coordinates and velocities, without the quaternion's radial part, which depends
    on where one normalises and is annihilated by the next normalisation."""
    by_q, by_qd, *_ = gradients
    if recording.kind == "free":
        quaternion, part = q[:, 3:7], by_q[:, 3:7]
        direction = quaternion / jnp.linalg.norm(quaternion, axis=1, keepdims=True)
        radial = (part * direction).sum(axis=1, keepdims=True) * direction
        by_q = jnp.concatenate([by_q[:, :3], part - radial, by_q[:, 7:]], axis=1)
    return jnp.concatenate([by_q, by_qd], axis=1)


def measure(
    comparison: str,
    quantity: str,
    ours: Array | ArrayLike,
    theirs: Array | ArrayLike,
    tolerance: float,
    scale: float | None = None,
) -> Measurement:
    """Largest error, absolute and relative to `scale` (default: the largest recorded value)."""
    expected = np.asarray(theirs, float)
    error = float(np.abs(np.asarray(ours, float) - expected).max())
    relative = error / (scale or float(np.abs(expected).max()) or 1.0)
    return Measurement(comparison, quantity, error, relative, relative, tolerance)


def _measure_observation(quantity: str, ours: Array, theirs: Floats) -> Measurement:
    """As `measure`, with a scale for each entry (entries that are always zero: 1)."""
    expected = np.asarray(theirs, float).reshape(ours.shape)
    error = np.abs(np.asarray(ours, float) - expected)
    scale = np.abs(expected).max(axis=0)
    relative = float((error / np.where(scale > 0, scale, 1.0)).max())
    bound = TOLERANCES["observations"]
    return Measurement("observations", quantity, float(error.max()), relative, relative, bound)


def _measure_samples(quantity: str, ours: Array, theirs: Array) -> Iterator[Measurement]:
    """Relative error that 95 % of the samples keep, and the worst cosine."""
    error, scale = _norm(ours - theirs), _norm(theirs)
    relative = error / scale
    absolute = float(abs(ours - theirs).max())
    kept = float(np.quantile(relative, SHARE_WITHIN, method="higher"))
    bound = TOLERANCES["one-step gradients"]
    yield Measurement(
        "one-step gradients", f"{quantity}, 95 % of samples", absolute, relative.max(), kept, bound
    )
    cosine = (np.asarray(ours, float) * np.asarray(theirs, float)).sum(-1) / (_norm(ours) * scale)
    worst = float((1 - cosine).max())
    bound = TOLERANCES["one-step cosine"]
    yield Measurement("one-step gradients", f"{quantity}, 1 - cosine", worst, worst, worst, bound)
