"""Policies in one small file: everything that acting takes, and nothing else.

See `rpo.training.array_file` for the format.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np

from rpo.errors import CheckpointError, SettingsError
from rpo.nets import (
    Actor,
    ClippedGaussianPolicy,
    GaussianPolicy,
    TanhGaussianPolicy,
    new_normalizer,
)
from rpo.training.array_file import (
    Arrays,
    describe,
    named_arrays,
    read_arrays,
    reason,
    write_arrays,
)
from rpo.training.run_files import MAX_TEXT
from rpo.training.typed import typed

_KIND = "policies"
MAX_LAYERS = 102
"""Observation and action included."""

WhichCheckpoint = Literal["last", "best"]

_KINDS: dict[str, type[TanhGaussianPolicy | ClippedGaussianPolicy]] = {
    "tanh_gaussian": TanhGaussianPolicy,
    "clipped_gaussian": ClippedGaussianPolicy,
}


@dataclasses.dataclass(frozen=True)
class Network:
    """Sizes of a policy's network.

    Args:
        kind: `tanh_gaussian` or `clipped_gaussian`.
        observation_size: length of one observation.
        action_size: length of one action.
        hidden_sizes: widths of the hidden layers.
    """

    kind: str
    observation_size: int
    action_size: int
    hidden_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = (self.observation_size, self.action_size, *self.hidden_sizes)
        if self.kind not in _KINDS:
            raise ValueError(f"there are no policies of the kind {self.kind[:20]!r}")
        if len(sizes) > MAX_LAYERS or not all(1 <= size < 2**31 for size in sizes):
            raise ValueError("its network has sizes that cannot be")

    @classmethod
    def of(cls, policy: GaussianPolicy) -> Network:
        """The sizes of a policy, whose arrays may lead with the seeds."""
        kind = next(name for name, one in _KINDS.items() if isinstance(policy, one))
        widths = [linear.weight.shape[-2:] for linear in policy.trunk.linears]
        action_size = policy.mean_head.weight.shape[-1]
        return cls(kind, widths[0][0], action_size, tuple(width for _, width in widths))

    @functools.lru_cache(maxsize=16)  # noqa: B019  (tracing takes longer than reading the file)
    def shapes(self) -> Actor:
        """An actor of this kind whose leaves are mere shapes."""

        def make() -> Actor:
            sizes = (self.observation_size, self.action_size, self.hidden_sizes)
            policy = _KINDS[self.kind](*sizes, jax.random.key(0))
            return Actor(policy, new_normalizer(self.observation_size))

        shapes: Actor = eqx.filter_eval_shape(make)
        return shapes


@dataclasses.dataclass(frozen=True)
class PolicyFacts:
    """What a policy file says about its policies.

    Args:
        task: name of the task, or `file.py:Class` of a user's own.
        task_settings: every setting of the task.
        algorithm: name of the method.
        preset: the settings it started from.
        seeds: of the trainings, in the order of the arrays.
        iteration: finished iterations.
        total_iterations: of the whole run.
        env_steps: environment steps of each seed so far.
        episode_returns: mean of each seed's latest finished training episodes, None before any.
        network: sizes.
        observation_names, action_names: by entry; empty where the task does not say.
        observation_units, action_units: what a value of 1 means, by entry; empty likewise.
        control_dt: seconds between two actions.
        run: id of the run, None in files of earlier versions.
        task_sha256: of the file that the task is, if it is one; None in files of earlier versions.
    """

    task: str
    task_settings: dict[str, Any]
    algorithm: str
    preset: str
    seeds: tuple[int, ...]
    iteration: int
    total_iterations: int
    env_steps: int
    episode_returns: tuple[float | None, ...]
    network: Network
    observation_names: tuple[str, ...]
    observation_units: tuple[str, ...]
    action_names: tuple[str, ...]
    action_units: tuple[str, ...]
    control_dt: float
    run: str | None = None
    task_sha256: str | None = None

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> PolicyFacts:
        """The facts as they were stored, all of the right kind.

        Raises:
            ValueError: naming the first one that cannot be.
            TypeError: if there are more or fewer of them.
        """
        network = Network(**typed(Network, stored["network"]))
        facts = cls(**typed(cls, stored | {"network": network}))
        for name, holds in facts._holds().items():
            if not holds:
                raise ValueError(f"its {name} cannot be")
        return facts

    def _holds(self) -> dict[str, bool]:
        """By name, whether a fact can be."""
        observations, actions = self.network.observation_size, self.network.action_size
        return {
            "task": len(self.task) <= MAX_TEXT,
            "task_settings": isinstance(self.task_settings, dict),
            "seeds": len(set(self.seeds)) == len(self.seeds) > 0,
            "episode_returns": len(self.episode_returns) == len(self.seeds),
            "iteration": 0 <= self.iteration <= self.total_iterations,
            "total_iterations": self.total_iterations > 0,
            "env_steps": self.env_steps >= 0,
            "control_dt": self.control_dt > 0,
            "observation_names": len(self.observation_names) in (0, observations),
            "observation_units": len(self.observation_units) in (0, observations),
            "action_names": len(self.action_names) in (0, actions),
            "action_units": len(self.action_units) in (0, actions),
        }


@dataclasses.dataclass(frozen=True)
class PolicyFile:
    """Contents of a policy file.

    Args:
        facts: what the policies are.
        last: the newest actors; arrays lead with the seeds.
        best: those with the best training return, None in a file that keeps but one moment.
    """

    facts: PolicyFacts
    last: Actor
    best: Actor | None = None

    def actors(self, which: WhichCheckpoint = "last") -> list[Actor]:
        """One actor per seed.

        Raises:
            SettingsError: if `which` is neither last nor best.
            CheckpointError: if the best is asked for and not there.
        """
        if which not in ("last", "best"):
            raise SettingsError(f"checkpoint is {which!r}, must be 'last' or 'best'")
        stacked = self.last if which == "last" else self.best
        if stacked is None:
            raise CheckpointError("this policy file keeps one moment of a training, and no best")
        return [
            jax.device_put(jax.tree.map(lambda x, k=k: np.asarray(x)[k], stacked))
            for k in range(len(self.facts.seeds))
        ]

    def index(self, seed: int | None) -> int:
        """Place of a seed, the first one's for None.

        Raises:
            SettingsError: if there is no such seed.
        """
        seeds = list(self.facts.seeds)
        if seed is None:
            return 0
        if seed not in seeds:
            raise SettingsError(f"there are policies of the seeds {seeds}, not of {seed}")
        return seeds.index(seed)


def write_policy_file(path: Path, contents: PolicyFile) -> None:
    """Writes a policy file, at once or not at all.

    Raises:
        OSError: if it cannot be written; an older file of this name is untouched.
    """
    arrays = {"last/" + name: array for name, array in named_arrays(contents.last).items()}
    if contents.best is not None:
        arrays |= {"best/" + name: array for name, array in named_arrays(contents.best).items()}
    write_arrays(path, _KIND, dataclasses.asdict(contents.facts), arrays)


def read_policy_file(path: Path) -> PolicyFile:
    """Reads a policy file.

    Raises:
        CheckpointError: in one line, if it is missing, damaged, or of another program or version.
    """
    stored, arrays, _ = read_arrays(path, _KIND, "policy file")
    try:
        facts = PolicyFacts.from_json(stored)
        last = _rebuild(facts, arrays, "last")
        best = _rebuild(facts, arrays, "best") if any(n[:5] == "best/" for n in arrays) else None
    except CheckpointError as error:
        raise CheckpointError(f"policy file {path} is of no use: {error}") from None
    except Exception as error:  # whatever foreign facts come up with
        raise CheckpointError(
            f"policy file {path} is damaged or not one of ours: {reason(error)}"
        ) from error
    return PolicyFile(facts, last, best)


def _rebuild(facts: PolicyFacts, arrays: Arrays, which: str) -> Actor:
    shapes, found = facts.network.shapes(), []
    for name, (_, shape) in describe(shapes).items():
        array, expected = arrays[f"{which}/{name}"], (len(facts.seeds), *shape)
        if array.shape != expected:
            raise ValueError(f"{name} has shape {array.shape}, must be {expected}")
        if array.dtype.kind != "f":
            raise ValueError(f"{name} holds {array.dtype}, must hold numbers with a fraction")
        if not np.isfinite(array).all():
            raise CheckpointError(f"the policy's {name} holds numbers that are not finite")
        found.append(array)
    actor: Actor = jax.tree.unflatten(jax.tree.structure(shapes), found)
    return actor
