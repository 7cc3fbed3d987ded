"""Environments split over two devices, and seeds mapped by vmap, change nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rpo import algorithms
from tests.algorithms.probe_environments import Wanderer
from tests.marks import nightly, rest_nightly

ROOT = Path(__file__).parents[2]
METHODS = ("rpo", "sapo", "gippo", "ppo", "sac")


@pytest.mark.parametrize("methods", rest_nightly([["rpo"], [*METHODS[1:]]]), ids="-".join)
def test_two_devices_give_the_parameters_of_one(methods):
    flags = "--xla_force_host_platform_device_count=2"
    finished = subprocess.run(
        [sys.executable, "-m", "tests.algorithms.split_over_devices", *methods],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads(finished.stdout.splitlines()[-1])
    acted = {"rpo": "value_target_clip_fraction", "sapo": "action_gradient_clip_fraction"}
    for name in acted.keys() & results.keys():
        assert results[name]["clipped"][acted[name]] > 0
    for result in results.values():
        assert result["devices"] == 2
        assert result["moved"] > 1e-4
        assert result["episodes"] > 10
        assert result["state"] < 1e-9
        assert max(result["metrics"].values()) < 1e-7


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
