"""The hand beside a recording of the published task (Rewarped): constants, steps, gradients.

The recording's own gradients are wrong by a factor that grows with the substeps; it also holds them
repaired, and those of an independent implementation in float64. Contacts that barely touch are
decided by rounding in single precision, so steps are judged by their median error, and by their
smallest, which rounding does not reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from rpo.envs.hand import Hand, HandState
from rpo.envs.hand_model import JOINTS
from rpo.envs.registry import make
from rpo.physics.attachments import quaternion_matrix

from .walkers import Measurement, measure, measurements, merge

Floats = NDArray[np.floating]

MEDIAN_COORDINATE, MEDIAN_VELOCITY = 1.3e-4, 3.5e-2
"""What an independent implementation in float64 reaches against the recording (m, rad; per s)."""
QUIET_COORDINATE, QUIET_VELOCITY = 1e-7, 2e-5
"""The same where no contact is decided by rounding."""


class Recording:
    """A file of reference data and the environment that replays it.

    Raises:
        OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile: if it is no such file.
    """

    def __init__(self, path: Path, **settings: Any) -> None:
        with path.open("rb") as file, np.load(file) as data:
            self.data = {key: data[key] for key in data.files}
        self.name = path.stem
        if "goal_init_pose" not in self.data:
            raise ValueError(f"{path}: no recording of the hand")
        env = make("hand", substeps=int(self.data["substeps"]), **settings)
        assert isinstance(env, Hand)
        self.env = env

    @cached_property
    def before(self) -> HandState:
        """State before each recorded step, steps and environments merged, as float32."""
        q = np.concatenate([self.data["init_joint_q"][None], self.data["step_joint_q"][:-1]])
        qd = np.concatenate([self.data["init_joint_qd"][None], self.data["step_joint_qd"][:-1]])
        goal = np.concatenate([self.data["goal"][None], self.data["step_goal_after"][:-1]])
        state = self.env.state(*to_ours(merge(q), merge(qd)))
        turn = jnp.asarray(merge(goal)[:, [6, 3, 4, 5]])
        return dataclasses.replace(state, goal=turn)

    @cached_property
    def actions(self) -> Array:
        """Clipped actions of the recorded steps (samples, 16)."""
        return jnp.asarray(merge(np.clip(self.data["actions"], -1, 1)))

    @cached_property
    def after(self) -> HandState:
        """Recorded state after each step, with the goal of that step."""
        q, qd = to_ours(merge(self.data["step_joint_q"]), merge(self.data["step_joint_qd"]))
        return dataclasses.replace(self.before, q=q, qd=qd, last_action=self.actions)


def to_ours(q: Any, qd: Any) -> tuple[Array, Array]:
    """Recorded coordinates (..., 23) and velocities (..., 22) in our order.

    There the cube's quaternion is x y z w, and its velocity the angular one first, then that of the
    point at the world's origin.
    """
    q, qd = jnp.asarray(q), jnp.asarray(qd)
    angular, linear = qd[..., JOINTS : JOINTS + 3], qd[..., JOINTS + 3 :]
    linear = linear + jnp.cross(angular, q[..., JOINTS : JOINTS + 3])
    q = jnp.concatenate([q[..., :19], q[..., 22:], q[..., 19:22]], axis=-1)
    return q, jnp.concatenate([qd[..., :JOINTS], linear, angular], axis=-1)


def to_recorded(q: Array, qd: Array) -> tuple[Array, Array]:
    """Inverse of `to_ours`."""
    linear, angular = qd[..., JOINTS : JOINTS + 3], qd[..., JOINTS + 3 :]
    linear = linear - jnp.cross(angular, q[..., JOINTS : JOINTS + 3])
    q = jnp.concatenate([q[..., :19], q[..., 20:], q[..., 19:20]], axis=-1)
    return q, jnp.concatenate([qd[..., :JOINTS], angular, linear], axis=-1)


def compare_constants(recording: Recording) -> Iterator[Measurement]:
    """Constants of the model, relative to the largest of their kind."""
    data, model = recording.data, recording.env.model
    child = data["joint_child"]
    turns = np.stack([quaternion_matrix(q) for q in model.joint_quaternion])
    frames = np.roll(data["joint_X_p"][:, 3:].astype(float), 1, axis=1)
    pairs = {
        "masses": (model.mass, data["body_mass"][child]),
        "centres of mass": (model.center_of_mass, data["body_com"][child]),
        "inertias": (model.inertia, data["body_inertia"][child]),
        "joint places": (model.joint_position[:JOINTS], data["joint_X_p"][:JOINTS, :3]),
        "joint turns": (turns[:JOINTS], [quaternion_matrix(q) for q in frames[:JOINTS]]),
        "joint axes": (model.joint_axis[:JOINTS], data["joint_axis"]),
        "armature": (model.armature, data["joint_armature"]),
        "lower limits": (model.limit_lower[:JOINTS], data["joint_limit_lower"]),
        "upper limits": (model.limit_upper[:JOINTS], data["joint_limit_upper"]),
        "limit springs": (model.limit_stiffness[:JOINTS], data["joint_limit_ke"]),
        "limit dampers": (model.limit_damping_beyond[:JOINTS], data["joint_limit_kd"]),
    }
    for quantity, (ours, theirs) in pairs.items():
        yield measure("constants", quantity, ours, theirs, 5e-6)
    yield from _compare_shapes(recording)


def _compare_shapes(recording: Recording) -> Iterator[Measurement]:
    """Sizes, places and materials of the shapes, and which pairs may touch."""
    data, geoms = recording.data, recording.env.model.geoms
    link = {int(body): joint for joint, body in enumerate(data["joint_child"])} | {-1: -1}
    solid = [k for k in range(len(data["shape_type"])) if data["shape_type"][k] < 2]
    theirs = {(link[int(data["shape_body"][k])], int(data["shape_type"][k])): k for k in solid}
    index = [theirs[int(geoms.link[k]), int(geoms.is_box[k])] for k in range(len(geoms.names))]
    scale = data["shape_scale"][index]
    extents = np.where(geoms.is_box[:, None], scale, 0.0)
    yield measure("constants", "shape sizes", geoms.half_extents, extents, 5e-6)
    radius = np.where(geoms.is_box, 0.0, scale[:, 0])
    yield measure("constants", "shape radii", geoms.radius, radius, 5e-6)
    place = data["shape_transform"][index, :3]
    yield measure("constants", "shape places", geoms.position, place, 5e-6)
    names = ("ke", "kd", "kf", "mu")
    fields = ("stiffness", "damping", "friction_stiffness", "friction_coefficient")
    expected = np.stack([data[f"shape_{name}"][index] for name in names])
    ours = np.stack([getattr(geoms, field) for field in fields])
    yield measure("constants", "contact materials", ours / expected, np.ones_like(ours), 5e-6)
    allowed = {frozenset(map(int, pair)) for pair in data["contact_pairs"]}
    found = {frozenset(index[k] for k in pair) for pair in geoms.pairs}
    differing = float(len(allowed ^ found))
    yield Measurement("constants", "pairs that differ", differing, differing, differing, 0.0)


def compare_observations(recording: Recording) -> Iterator[Measurement]:
    """Observations of the recorded states."""
    ours = recording.env.observe(recording.after)
    yield measure("observations", "observations", ours, merge(recording.data["step_obs"]), 1e-5)


def compare_rewards(recording: Recording) -> Iterator[Measurement]:
    """Rewards of the recorded steps."""
    ours = recording.env.reward(recording.before, recording.actions, recording.after)
    yield measure("rewards", "rewards", ours, merge(recording.data["step_reward"]), 1e-5)


def compare_step(recording: Recording) -> Iterator[Measurement]:
    """One control step from every recorded state; errors of a sample are its largest."""
    end = jax.jit(recording.env.dynamics)(recording.before, recording.actions)
    expected = recording.after
    for quantity, ours, theirs, median, quiet in (
        ("coordinates", end.q, expected.q, MEDIAN_COORDINATE, QUIET_COORDINATE),
        ("velocities", end.qd, expected.qd, MEDIAN_VELOCITY, QUIET_VELOCITY),
    ):
        error = np.abs(np.asarray(ours) - np.asarray(theirs)).max(axis=1)
        largest = float(error.max())
        relative = largest / float(jnp.abs(theirs).max())
        for label, judged, bound in (
            ("median", float(np.median(error)), median),
            ("smallest", float(error.min()), quiet),
        ):
            name = f"{quantity}, {label}"
            yield Measurement("step", name, judged, relative, judged, bound)


REFERENCES = {"f64": ("float64", 1e-3), "fixed": ("repaired", 5e-3), "shipped": ("shipped", np.inf)}
"""Gradients in the recording, what to call them, and the bound on the median relative error."""


def compare_gradients(recording: Recording) -> Iterator[Measurement]:
    """Gradients of a random linear function of the next state, in float64, sample by sample."""
    with jax.enable_x64(True):
        gradients = _check_gradients(recording)
    for reference, (label, bound) in REFERENCES.items():
        for name, ours in gradients.items():
            theirs = merge(recording.data[f"check_{name}_{reference}"].astype(float))
            if name == "gq":
                turn = merge(recording.data["check_q"])[:, 19:].astype(float)
                ours, theirs = (_without_radial(g, turn) for g in (ours, theirs))
            error = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
            quantity = {"gq": "coordinates", "gqd": "velocities", "ga": "actions"}[name]
            yield Measurement(
                "gradients",
                f"{label}, {quantity}, median",
                float(np.median(np.linalg.norm(ours - theirs, axis=1))),
                float(np.median(error)),
                float(np.median(error)),
                bound,
            )


def _check_gradients(recording: Recording) -> dict[str, Floats]:
    data, env = recording.data, recording.env
    count = len(data["check_t"])
    w_q, w_qd = (jnp.tile(jnp.asarray(data[key], float), (count, 1)) for key in _WEIGHTS)

    @jax.jit
    @jax.grad
    def gradient(inputs: tuple[Array, Array, Array]) -> Array:
        q, qd, action = inputs
        end = env.dynamics(env.state(*to_ours(q, qd)), jnp.clip(action, -1, 1))
        q, qd = to_recorded(end.q, end.qd)
        return (w_q * q).sum() + (w_qd * qd).sum()

    keys = ("check_q", "check_qd", "check_a")
    q, qd, action = (jnp.asarray(merge(data[key]), float) for key in keys)
    result = gradient((q, qd, action))
    return dict(zip(("gq", "gqd", "ga"), map(np.asarray, result), strict=True))


_WEIGHTS = ("check_wq", "check_wqd")


def _without_radial(gradient: Floats, turn: Floats) -> Floats:
    """Without the quaternion's radial part, which the next normalisation annihilates."""
    gradient = gradient.copy()
    radial = (gradient[:, 19:] * turn).sum(axis=1, keepdims=True)
    gradient[:, 19:] -= radial * turn
    return gradient


COMPARISONS: dict[str, Callable[[Recording], Iterator[Measurement]]] = {
    "constants": compare_constants,
    "observations": compare_observations,
    "rewards": compare_rewards,
    "step": compare_step,
    "gradients": compare_gradients,
}
"""Comparisons by name, cheapest first."""


def compare(recording: Recording, only: Iterable[str] = ()) -> Iterator[Measurement]:
    """Runs the comparisons (all, or only those named) and yields what they measure.

    Raises:
        ValueError: if a comparison is unknown.
    """
    return measurements(COMPARISONS, recording, only)
