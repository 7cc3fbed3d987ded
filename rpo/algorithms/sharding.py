"""One run's environments split over devices, gradients averaged by XLA."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rpo.algorithms.base import Algorithm, Metrics, TrainState
from rpo.envs.base import Env


def shard_state(
    algorithm: Algorithm, state: TrainState, mesh: Mesh, *, seeds: bool = False
) -> TrainState:
    """Places a state on the devices of `mesh`: environments split, everything else on all.

    Args:
        algorithm: with `axis` naming the mesh axis.
        state: from `init`, or mapped over seeds.
        mesh: one-dimensional.
        seeds: whether every leaf leads with a seed axis.

    Raises:
        ValueError: if the number of environments is not a multiple of the number of devices.
    """
    _check(algorithm, mesh)
    partition = algorithm.partition(state, batch_axes=int(seeds))
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), partition)
    placed: TrainState = jax.device_put(state, shardings)
    return placed


def sharded_update(
    algorithm: Algorithm, env: Env, state: TrainState, mesh: Mesh, *, seeds: bool = False
) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
    """`algorithm.update` over the devices of `mesh`; compile it with `jax.jit`.

    Args:
        algorithm: with `axis` naming the mesh axis.
        env: the task.
        state: shapes of the states to come.
        mesh: one-dimensional.
        seeds: whether states lead with a seed axis, over which the update is then mapped.

    Raises:
        ValueError: if the number of environments is not a multiple of the number of devices.
    """
    _check(algorithm, mesh)
    partition = algorithm.partition(state, batch_axes=int(seeds))

    def update(state: TrainState) -> tuple[TrainState, Metrics]:
        return algorithm.update(env, state)

    # The update averages gradients over devices itself, in one vector per step; with check_vma JAX
    # would insert a sum of its own for every parameter.
    return jax.shard_map(
        jax.vmap(update) if seeds else update,
        mesh=mesh,
        in_specs=(partition,),
        out_specs=(partition, PartitionSpec()),
        check_vma=False,
    )


def _check(algorithm: Algorithm, mesh: Mesh) -> None:
    if algorithm.axis is None or mesh.axis_names != (algorithm.axis,):
        raise ValueError(
            f"the algorithm's axis is {algorithm.axis!r}, but the mesh has {mesh.axis_names}"
        )
    num_envs = algorithm.config.num_envs
    if num_envs % mesh.size:
        raise ValueError(f"num_envs is {num_envs}, must be a multiple of {mesh.size} devices")
