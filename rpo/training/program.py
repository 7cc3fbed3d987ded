"""The compiled training step of all trainings of a run, on one device or several."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree, UInt32

from rpo import algorithms
from rpo.algorithms import Metrics, TrainState
from rpo.algorithms.base import FinishedEpisodes
from rpo.algorithms.chunks import largest_divisor
from rpo.errors import SettingsError
from rpo.nets import Actor, GaussianPolicy
from rpo.training import processes
from rpo.training.memory import require_room_to_run
from rpo.training.selection import Selection
from rpo.training.settings import Resolved

T = TypeVar("T")
TRAININGS = "trainings"
ENVIRONMENTS = "environments"
Rows = dict[str, Float[Array, " trainings"]]
"""Metrics by name, one value per training."""


class Progressing(eqx.Module):
    """A training state, and the best actor so far.

    Args:
        train: the whole truth about a training.
        best: the actor at the iteration whose mean over a full window of finished episodes was
            highest; before the window is full, the newest.
        best_return: that mean; minus infinity before.
        average: of the policies so far (`policy_average`), None without.
    """

    train: TrainState
    best: Actor
    best_return: Float[Array, "*trainings"]
    average: GaussianPolicy | None

    @property
    def actor(self) -> Actor:
        """What the training has come to: the average of its policies if there is one."""
        policy = self.train.policy if self.average is None else self.average
        return Actor(policy, self.train.normalizer)


class Standing(eqx.Module):
    """Of several trainings, all arrays leading with them: what acts, and how well.

    Args:
        last: the newest actors.
        best: the best actors so far.
        episodes: the latest finished ones.
    """

    last: Actor
    best: Actor
    episodes: FinishedEpisodes


def standing(states: Progressing) -> Standing:
    """The part of training states that policies are made of."""
    return Standing(states.actor, states.best, states.train.episodes)


class Program:
    """One compiled program that advances every training of a run by one iteration.

    There is one training per seed, or several candidates at first. With several processes each of
    them makes the same calls in the same order, and holds the environments of its own devices.

    On an accelerator trainings are mapped with `vmap`. On a CPU, where batched products of small
    matrices are slow, each core has a training of its own; a training among others then gives bit
    for bit what it gives without them on one device. Where there are more devices than trainings,
    the environments of each are split.

    A state is a list of "lanes", whose arrays lead with the trainings that advance together.
    """

    def __init__(self, resolved: Resolved) -> None:
        """Prepares the program; nothing is compiled yet.

        Args:
            resolved: all settings.

        Raises:
            SettingsError: if the devices are too few, or the environments cannot be split so, or
                there are more candidates than the run's steps allow.
        """
        run, config = resolved.run_settings, resolved.config
        candidates = run.candidates or 1
        self.env = resolved.env
        self.seeds = list(range(run.seed, run.seed + run.seeds))
        self.selection = Selection(
            candidates,
            config.total_iterations,
            run.selection_share,
            run.selection_start,
            run.selection_keep,
            run.selection_score,
        )
        if candidates > 1:  # learning rates follow the length of the training that is kept
            steps = self.selection.iterations * config.num_envs * config.horizon
            config = dataclasses.replace(config, total_steps=steps)
        self._method = (resolved.algorithm, config)
        self.algorithm = algorithms.make(*self._method)
        self.mapped = jax.default_backend() != "cpu"
        self._devices = _devices(run.devices, config.num_envs, run.seeds * candidates)
        self._mesh = Mesh(np.array(self._devices[:1])[None], (TRAININGS, ENVIRONMENTS))
        self._compiled: dict[tuple[int, ...], Any] = {}
        self.count = 0

    def init(self, generation: int = 0) -> list[Progressing]:
        """Fresh states.

        Args:
            generation: runs that led to this one; each has random numbers of its own.
        """
        keys = self._keys(generation)
        if self.mapped:
            stacked: Progressing = jax.jit(jax.vmap(self._init))(jnp.stack(keys))
        else:
            init = jax.jit(self._init)
            each = [jax.device_get(init(key)) for key in keys]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
        return self.from_host(stacked)

    def from_host(self, stacked: Progressing) -> list[Progressing]:
        """Places trainings on the devices.

        Args:
            stacked: arrays that lead with the trainings; of several processes only the first one's
                argument counts.
        """
        if jax.process_count() > 1:  # machines may round differently: all start from the same bits
            stacked = processes.share_arrays(jax.device_get(stacked), stacked)
        self.count = jax.tree.leaves(stacked)[0].shape[0]
        self._mesh = self._mesh_for(self.count)
        together = self.count if self.mapped else self._mesh.shape[TRAININGS]
        place, lanes = self._placing(stacked), []
        for first in range(0, self.count, together):
            # What is missing in the last lane is filled up with a copy, whose results are left out.
            rows = np.minimum(np.arange(first, first + together), self.count - 1)
            lane = jax.tree.map(lambda x, rows=rows: np.asarray(x)[rows], stacked)
            lanes.append(place(lane))
        return lanes

    def to_host(self, lanes: list[T]) -> T:
        """All trainings, whole, in one pytree of numpy arrays that lead with the training.

        With several processes all of them call it together.
        """
        parts = processes.gather(lanes)
        stacked: T = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: self.count], *parts)
        return stacked

    def standing(self, lanes: list[Progressing]) -> Standing:
        """What the trainings have come to, whole; cheap beside a copy of all that they are.

        With several processes all of them call it together.
        """
        return self.to_host([standing(lane) for lane in lanes])

    def keep(self, lanes: list[Progressing], kept: list[int]) -> list[Progressing]:
        """Goes on with the trainings of these numbers only."""
        host = self.to_host(lanes)
        return self.from_host(jax.tree.map(lambda x: x[np.array(kept)], host))

    def compile(self, lanes: list[Progressing]) -> None:
        """Compiles the step for states like these, unless that has been done."""
        key = self._shape
        if key in self._compiled:
            return
        split = self._mesh.shape[ENVIRONMENTS] > 1
        algorithm = algorithms.make(*self._method, axis=ENVIRONMENTS if split else None)

        def advance(state: Progressing) -> tuple[Progressing, Metrics]:
            train, metrics = algorithm.update(self.env, state.train)
            average = _averaged(state, train.policy, algorithm.config.policy_average)
            state = dataclasses.replace(state, train=train, average=average)
            return _keep_best(state, metrics["episode_return"]), metrics

        def step(states: Progressing) -> tuple[Progressing, Rows]:
            if states.best_return.shape[0] > 1:
                return jax.vmap(advance)(states)
            state, metrics = advance(jax.tree.map(lambda x: x[0], states))
            result: tuple[Progressing, Rows] = jax.tree.map(lambda x: x[None], (state, metrics))
            return result

        if self._mesh.size > 1:
            specs = self._specs(lanes[0])
            # The update averages gradients over devices itself, in one vector per step; with
            # check_vma JAX would insert a sum of its own for every parameter.
            step = jax.shard_map(
                step,
                mesh=self._mesh,
                in_specs=(specs,),
                out_specs=(specs, PartitionSpec(TRAININGS)),
                check_vma=False,
            )
        compiled = jax.jit(step, donate_argnums=0).lower(lanes[0]).compile()
        require_room_to_run(compiled, self._mesh.size, self.algorithm.config.num_envs)
        self._compiled[key] = compiled

    def update(self, lanes: list[Progressing]) -> tuple[list[Progressing], dict[str, np.ndarray]]:
        """One iteration of every training; the given states are used up.

        Returns:
            new states, and metrics by name with one value per training.
        """
        compiled = self._compiled[self._shape]
        following, rows = [], []
        for lane in lanes:
            state, metrics = compiled(lane)
            following.append(state)
            # Between processes one program at a time: each must meet the partner it belongs to.
            rows.append(metrics if jax.process_count() == 1 else processes.gather(metrics))
        whole: dict[str, np.ndarray] = jax.tree.map(
            lambda *values: np.concatenate(values)[: self.count], *jax.device_get(rows)
        )
        return following, whole

    def shapes(self, iteration: int = 0) -> Progressing:
        """Shapes and types of what `to_host` makes of the states after so many iterations."""
        count = len(self.seeds) * self.selection.alive(iteration)
        keys = jax.ShapeDtypeStruct((count, 2), jnp.uint32)
        shapes: Progressing = jax.eval_shape(jax.vmap(self._init), keys)
        return shapes

    @property
    def _shape(self) -> tuple[int, ...]:
        """What a compiled step depends on."""
        return (*self._mesh.devices.shape, self.count if self.mapped else 1)

    def _keys(self, generation: int) -> list[UInt32[Array, "2"]]:
        """Of all trainings: candidate 0 of a seed has the key of the seed."""
        keys = []
        for seed in self.seeds:
            key = jax.random.key(seed)
            if generation:  # numbers of candidates are far smaller
                key = jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), generation)
            others = [jax.random.fold_in(key, c) for c in range(1, self.selection.candidates)]
            keys += [jax.random.key_data(one) for one in (key, *others)]
        return keys

    def _init(self, key: Array) -> Progressing:
        train = self.algorithm.init(self.env, key)
        return Progressing(
            train=train,
            # Buffers of its own: the step reuses the memory of its argument, each only once.
            best=jax.tree.map(jnp.copy, Actor(train.policy, train.normalizer)),
            best_return=jnp.full((), -jnp.inf, train.episodes.returns.dtype),
            average=jax.tree.map(jnp.copy, train.policy)
            if self.algorithm.config.policy_average > 0
            else None,
        )

    def _mesh_for(self, count: int) -> Mesh:
        """Trainings side by side as far as the devices go, then environments split."""
        alone = self.mapped or jax.process_count() > 1
        together = 1 if alone else min(count, len(self._devices))
        num_envs = self.algorithm.config.num_envs
        each = largest_divisor(num_envs, len(self._devices) // together)
        chosen = np.array(self._devices[: together * each]).reshape(together, each)
        return Mesh(chosen, (TRAININGS, ENVIRONMENTS))

    def _specs(self, states: Progressing) -> PyTree[PartitionSpec]:
        """How each array is split."""
        whole = jax.tree.map(lambda _: PartitionSpec(), states)
        split = algorithms.make(*self._method, axis=ENVIRONMENTS)
        train = split.partition(states.train, batch_axes=1)
        specs: Progressing = eqx.tree_at(lambda x: x.train, whole, train)
        return jax.tree.map(
            lambda spec: PartitionSpec(TRAININGS, *spec[1:]),
            specs,
            is_leaf=lambda x: isinstance(x, PartitionSpec),
        )

    def _placing(self, states: Progressing) -> Callable[[Progressing], Progressing]:
        """What puts copies of such states on the devices: the step reuses its argument's memory."""
        shardings = jax.tree.map(
            lambda spec: NamedSharding(self._mesh, spec),
            self._specs(states),
            is_leaf=lambda x: isinstance(x, PartitionSpec),
        )
        copied = jax.jit(lambda x: jax.tree.map(jnp.copy, x), out_shardings=shardings)

        def on_devices(x: np.ndarray, place: NamedSharding) -> Array:
            return jax.make_array_from_callback(x.shape, place, x.__getitem__)

        # On a CPU an array may be the memory that it was made from.
        return lambda lane: copied(jax.tree.map(on_devices, lane, shardings))


def _averaged(state: Progressing, newest: GaussianPolicy, decay: float) -> GaussianPolicy | None:
    """The average with the newest policy in it; a plain mean until that would weigh `decay`."""
    if state.average is None:
        return None
    finished = state.train.iteration.astype(state.best_return.dtype)
    weight = jnp.minimum(decay, finished / (finished + 1))
    average: GaussianPolicy = jax.tree.map(
        lambda old, new: new + weight * (old - new), state.average, newest
    )
    return average


def _keep_best(state: Progressing, episode_return: Float[Array, ""]) -> Progressing:
    episodes = state.train.episodes
    full = episodes.count >= episodes.returns.shape[0]
    score = jnp.where(full, episode_return, -jnp.inf).astype(state.best_return.dtype)
    # Strictly: while no episode ends, nothing is known about a newer policy.
    better = (score > state.best_return) | ~full
    best = jax.tree.map(lambda new, kept: jnp.where(better, new, kept), state.actor, state.best)
    best_return = jnp.where(better, score, state.best_return)
    return dataclasses.replace(state, best=best, best_return=best_return)


def _devices(devices: int | None, num_envs: int, trainings: int) -> list[Any]:
    """The devices of a run, equally many of each process."""
    count = jax.process_count()
    devices = count if devices is None else devices
    available = jax.devices()
    if devices > len(available):
        raise SettingsError(
            f"devices is {devices}, but JAX sees only {len(available)} "
            "(on a CPU, RPO_CPU_DEVICES sets how many there are)"
        )
    if devices % count:
        raise SettingsError(
            f"devices is {devices}, must be a multiple of the number of processes, {count}"
        )
    if (trainings == 1 or count > 1) and num_envs % devices:
        raise SettingsError(f"num_envs is {num_envs}, must be a multiple of devices = {devices}")
    of_each = [[d for d in available if d.process_index == number] for number in range(count)]
    return [device for mine in of_each for device in mine[: devices // count]]
