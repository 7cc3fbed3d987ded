"""The compiled training step of all seeds, on one device or several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from rpo import algorithms
from rpo.algorithms import Metrics, TrainState
from rpo.nets import GaussianPolicy, Normalizer
from rpo.training import processes
from rpo.training.errors import SettingsError
from rpo.training.settings import Resolved

AXIS = "devices"


class Actor(eqx.Module):
    """What acts: a policy and the observation statistics it was trained with."""

    policy: GaussianPolicy
    normalizer: Normalizer


class Progressing(eqx.Module):
    """A training state, and the best actor so far.

    Args:
        train: the whole truth about the training of a seed.
        best: the actor at the iteration whose mean over a full window of finished episodes was
            highest; before the window is full, the newest.
        best_return: that mean; minus infinity before.
    """

    train: TrainState
    best: Actor
    best_return: Float[Array, ""]


class Program:
    """One compiled program that advances every seed by one iteration.

    With several processes each of them makes the same calls in the same order, and holds the
    environments of its own devices.

    Seeds are mapped with `vmap` on an accelerator. On a CPU, where batched products of small
    matrices are slow, the same compiled step runs for one seed after the other; a seed among others
    then gives bit for bit what it gives alone.

    A state is a list of "lanes": one per seed, or a single one whose arrays lead with the seed.
    """

    def __init__(self, resolved: Resolved) -> None:
        """Prepares the program; nothing is compiled yet.

        Args:
            resolved: all settings.

        Raises:
            SettingsError: if the devices are too few, or the environments cannot be split so.
        """
        run = resolved.run_settings
        self.env = resolved.env
        self.seeds = list(range(run.seed, run.seed + run.seeds))
        self.mapped = jax.default_backend() != "cpu"
        self.mesh = _mesh(run.devices, resolved.config.num_envs)
        axis = AXIS if self.mesh else None
        self.algorithm = algorithms.make(resolved.algorithm, resolved.config, axis=axis)
        self._compiled: Any = None

    def init(self) -> list[Progressing]:
        """Fresh states."""
        keys = [jax.random.key_data(jax.random.key(seed)) for seed in self.seeds]
        if self.mapped:
            return [self._place(jax.jit(jax.vmap(self._init))(jnp.stack(keys)))]
        init = jax.jit(self._init)
        return [self._place(init(key)) for key in keys]

    def compile(self, lanes: list[Progressing]) -> None:
        """Compiles the step for states like these."""
        train = lanes[0].train
        update: Callable[[TrainState], tuple[TrainState, Metrics]] = self._single_update
        if self.mesh:
            update = algorithms.sharded_update(
                self.algorithm, self.env, train, self.mesh, seeds=self.mapped
            )
        elif self.mapped:
            update = jax.vmap(update)

        def step(state: Progressing) -> tuple[Progressing, Metrics]:
            train, metrics = update(state.train)
            keep = jax.vmap(_keep_best) if self.mapped else _keep_best
            return keep(state, train, metrics["episode_return"]), metrics

        self._compiled = jax.jit(step, donate_argnums=0).lower(lanes[0]).compile()

    def update(self, lanes: list[Progressing]) -> tuple[list[Progressing], dict[str, np.ndarray]]:
        """One iteration of every seed; the given states are used up.

        Returns:
            new states, and metrics by name with one value per seed.
        """
        following, rows = [], []
        for lane in lanes:
            state, metrics = self._compiled(lane)
            following.append(state)
            # Between processes one program at a time: each must meet the partner it belongs to.
            rows.append(metrics if jax.process_count() == 1 else jax.device_get(metrics))
        host = jax.device_get(rows)
        if self.mapped:
            return following, host[0]
        return following, {name: np.stack([row[name] for row in host]) for name in host[0]}

    def to_host(self, lanes: list[Progressing]) -> Progressing:
        """All seeds, whole, in one pytree of numpy arrays that lead with the seed."""
        host = processes.gather(lanes)
        stacked: Progressing = (
            host[0] if self.mapped else jax.tree.map(lambda *leaves: np.stack(leaves), *host)
        )
        return stacked

    def from_host(self, stacked: Progressing) -> list[Progressing]:
        """The inverse of `to_host`; of several processes only the first one's argument counts."""
        # A copy, because the step reuses its argument's memory.
        if self.mapped:
            return [self._place(jax.tree.map(lambda x: jnp.array(x, copy=True), stacked))]
        return [
            self._place(jax.tree.map(lambda x, k=k: jnp.array(x[k], copy=True), stacked))
            for k in range(len(self.seeds))
        ]

    def shapes(self) -> Progressing:
        """Shapes and types of what `to_host` returns, without computing anything."""
        keys = jax.ShapeDtypeStruct((len(self.seeds), 2), jnp.uint32)
        shapes: Progressing = jax.eval_shape(jax.vmap(self._init), keys)
        return shapes

    def _init(self, key: Array) -> Progressing:
        train = self.algorithm.init(self.env, key)
        return Progressing(
            train=train,
            # Buffers of its own: the step reuses the memory of its argument, each only once.
            best=jax.tree.map(jnp.copy, Actor(train.policy, train.normalizer)),
            best_return=jnp.full((), -jnp.inf, train.episodes.returns.dtype),
        )

    def _single_update(self, train: TrainState) -> tuple[TrainState, Metrics]:
        return self.algorithm.update(self.env, train)

    def _place(self, state: Progressing) -> Progressing:
        if not self.mesh:
            return state
        if jax.process_count() > 1:
            return self._contribute(state, self.mesh)
        whole = NamedSharding(self.mesh, PartitionSpec())
        train = algorithms.shard_state(self.algorithm, state.train, self.mesh, seeds=self.mapped)
        best, best_return = jax.device_put((state.best, state.best_return), whole)
        return Progressing(train, best, best_return)

    def _contribute(self, state: Progressing, mesh: Mesh) -> Progressing:
        """Places the parts of the first process's state that belong on this one's devices."""
        # Machines may round differently: all start from the same bits.
        host = processes.share_arrays(jax.device_get(state), state)
        whole = jax.tree.map(lambda _: PartitionSpec(), state)
        partition = self.algorithm.partition(state.train, batch_axes=int(self.mapped))

        def place(x: np.ndarray, spec: PartitionSpec) -> Array:
            # A copy for each device, because the step reuses its argument's memory.
            return jax.make_array_from_callback(
                x.shape, NamedSharding(mesh, spec), lambda part: jnp.array(x[part], copy=True)
            )

        placed: Progressing = jax.tree.map(
            place, host, Progressing(partition, whole.best, whole.best_return)
        )
        return placed


def _keep_best(
    old: Progressing, train: TrainState, episode_return: Float[Array, ""]
) -> Progressing:
    full = train.episodes.count >= train.episodes.returns.shape[0]
    score = jnp.where(full, episode_return, -jnp.inf).astype(old.best_return.dtype)
    # Strictly: while no episode ends, nothing is known about a newer policy.
    better = (score > old.best_return) | ~full
    best = jax.tree.map(
        lambda new, kept: jnp.where(better, new, kept),
        Actor(train.policy, train.normalizer),
        old.best,
    )
    return Progressing(train, best, jnp.where(better, score, old.best_return))


def _mesh(devices: int | None, num_envs: int) -> Mesh | None:
    """The devices of a run, equally many of each process; None where there is one device."""
    count = jax.process_count()
    if devices is None or devices == count == 1:
        return None
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
    if num_envs % devices:
        raise SettingsError(f"num_envs is {num_envs}, must be a multiple of devices = {devices}")
    of_each = [[d for d in available if d.process_index == number] for number in range(count)]
    chosen = [device for mine in of_each for device in mine[: devices // count]]
    return Mesh(np.array(chosen), (AXIS,))
