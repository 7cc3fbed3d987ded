"""Program run by `test_devices.py`: trains on one device and split over two, and compares.

It is a program of its own because the number of virtual CPU devices is fixed when JAX starts.
"""

import json
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rpo import algorithms
from tests.algorithms.probe_environments import Poisoned, Wanderer

ITERATIONS = 3
OWN = {
    # with rates at which regression and PPO have to be repeated
    "gippo": {"ppo_minibatches": 2, "alpha_steps": 4, "actor_learning_rate": 0.1}
    | {"ppo_learning_rate": 0.3, "ppo_epochs": 3}
    | {"critic_passes": 2, "critic_minibatches": 2},
    "ppo": {"epochs": 2, "minibatches": 2},
    "sac": {"warmup_steps": 6, "batch_size": 16, "gradient_steps": 3, "n_step": 3}
    | {"replay_capacity": 96},
}
# two methods have an environment that bounds act on
POISONED = {
    "rpo": lambda: Poisoned(paid=1e3),
    "sapo": lambda: Poisoned(slope=1e4, seen=1e4),
}


def main() -> None:
    results = {}
    for name in sys.argv[1:]:
        config = algorithms.config_class(name)(
            num_envs=8,
            horizon=6,
            total_steps=10_000,
            actor_hidden_sizes=(8,),
            critic_hidden_sizes=(8,),
            **OWN.get(name, {"critic_passes": 2, "critic_minibatches": 2}),
        )
        results[name] = compare(name, config)
    print(json.dumps(results))


def compare(name, config):
    env = POISONED[name]() if name in POISONED else Wanderer()
    whole = algorithms.make(name, config)
    split = algorithms.make(name, config, axis="devices")
    mesh = jax.make_mesh((2,), ("devices",))
    start = jax.jit(lambda key: whole.init(env, key))(jax.random.PRNGKey(0))

    one = start
    step = jax.jit(lambda s: whole.update(env, s))
    for _ in range(ITERATIONS):
        one, metrics_one = step(one)

    specs = split.partition(start)
    two = jax.device_put(start, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs))
    step = jax.jit(
        jax.shard_map(
            lambda s: split.update(env, s),
            mesh=mesh,
            in_specs=(specs,),
            out_specs=(specs, PartitionSpec()),
            check_vma=False,
        )
    )
    for _ in range(ITERATIONS):
        two, metrics_two = step(two)

    def difference(x, y):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return float(np.max(np.abs(x - y), initial=0.0))

    return {
        "devices": len(two.environments.state.observation.sharding.device_set),
        "moved": max(jax.tree.leaves(jax.tree.map(difference, start.policy, one.policy))),
        "state": max(jax.tree.leaves(jax.tree.map(difference, one, two))),
        "metrics": {
            key: difference(np.nan_to_num(value), np.nan_to_num(metrics_two[key]))
            for key, value in metrics_one.items()
        },
        "clipped": {
            key: float(value) for key, value in metrics_two.items() if "clip_fraction" in key
        },
        "episodes": int(one.episodes.count),
    }


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
