"""Environments split over two devices, and seeds mapped by vmap, change nothing."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rpo import algorithms
from tests.algorithms.probe_environments import Poisoned, Wanderer
from tests.marks import nightly, rest_nightly

METHODS = ("rpo", "sapo", "gippo", "ppo", "sac")
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
ACTED = {"rpo": "value_target_clip_fraction", "sapo": "action_gradient_clip_fraction"}
CPUS = jax.devices("cpu")


def difference(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return float(np.max(np.abs(x - y), initial=0.0))


def largest_difference(tree, other):
    return max(jax.tree.leaves(jax.tree.map(difference, tree, other)))


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two devices")
@pytest.mark.parametrize("name", rest_nightly(METHODS))
def test_two_devices_give_the_parameters_of_one(name):
    config = algorithms.config_class(name)(
        num_envs=8,
        horizon=6,
        total_steps=10_000,
        actor_hidden_sizes=(8,),
        critic_hidden_sizes=(8,),
        **OWN.get(name, {"critic_passes": 2, "critic_minibatches": 2}),
    )
    whole = algorithms.make(name, config)
    split = algorithms.make(name, config, axis="devices")
    mesh = jax.make_mesh((2,), ("devices",), devices=CPUS[:2])
    with jax.enable_x64(True), jax.default_device(CPUS[0]):
        env = POISONED[name]() if name in POISONED else Wanderer()
        start = jax.jit(lambda key: whole.init(env, key))(jax.random.PRNGKey(0))
        one, step = start, jax.jit(lambda state: whole.update(env, state))
        for _ in range(ITERATIONS):
            one, metrics = step(one)
        specs = split.partition(start)
        two = jax.device_put(start, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs))
        step = jax.jit(
            jax.shard_map(
                lambda state: split.update(env, state),
                mesh=mesh,
                in_specs=(specs,),
                out_specs=(specs, PartitionSpec()),
                check_vma=False,
            )
        )
        for _ in range(ITERATIONS):
            two, metrics_of_two = step(two)

    assert len(two.environments.state.observation.sharding.device_set) == 2
    assert largest_difference(start.policy, one.policy) > 1e-4
    assert int(one.episodes.count) > 10
    if name in ACTED:
        assert float(metrics_of_two[ACTED[name]]) > 0
    assert largest_difference(one, two) < 1e-9
    assert metrics.keys() == metrics_of_two.keys()
    for key, value in metrics.items():
        assert difference(np.nan_to_num(value), np.nan_to_num(metrics_of_two[key])) < 1e-7, key


@nightly
def test_a_seed_alone_gives_what_it_gives_among_others():
    env = Wanderer()
    config = algorithms.RPOConfig(
        num_envs=8,
        horizon=4,
        total_steps=10_000,
        actor_hidden_sizes=(8,),
        critic_hidden_sizes=(8,),
        actor_epochs=2,
        critic_passes=2,
        critic_minibatches=2,
    )
    algorithm = algorithms.make("rpo", config)

    def train(key):
        state = algorithm.init(env, key)
        return jax.lax.scan(lambda s, _: algorithm.update(env, s), state, length=3)

    keys = jax.vmap(jax.random.PRNGKey)(np.arange(3))
    together = jax.jit(jax.vmap(train))(keys)
    alone = jax.jit(train)(keys[1])
    for many, one in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(many[1], one, rtol=2e-3, atol=2e-5)
    first = jax.tree.leaves(together[0].policy)[0]
    assert not np.allclose(first[0], first[1])
