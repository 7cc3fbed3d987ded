"""The setting `symmetric` of all methods."""

import dataclasses

import jax
import numpy as np
import pytest

from rpo import algorithms
from rpo.errors import SettingsError
from rpo.mirror import Mirror, SignedPermutation
from tests.algorithms.probe_environments import ThroughDynamics
from tests.marks import rest_nightly

BACK = SignedPermutation((0,), (-1,))
SETTINGS = {"num_envs": 4, "horizon": 4, "total_steps": 1000, "symmetric": True}
SETTINGS |= {"actor_hidden_sizes": (8,), "critic_hidden_sizes": (8,)}
SAC = {"n_step": 1, "warmup_steps": 1, "replay_capacity": 64, "batch_size": 16}


def make(name, **settings):
    config = algorithms.config_class(name)(**SETTINGS | (SAC if name == "sac" else {}) | settings)
    return algorithms.make(name, config)


@pytest.mark.parametrize("name", rest_nightly(["shac", "rpo", "ppo", "sac", "sapo", "gippo"]))
def test_a_trained_policy_is_still_symmetric(name):
    spec = dataclasses.replace(ThroughDynamics().spec, mirror=Mirror(BACK, BACK))
    env = ThroughDynamics(spec=spec)
    algorithm = make(name)
    with jax.enable_x64(True):
        start = state = jax.jit(lambda key: algorithm.init(env, key))(jax.random.key(0))
        update = jax.jit(algorithm.update)
        for _ in range(3):
            state, _ = update(env, state)
        x = np.linspace(0.1, 2.0, 9)[:, None]
        here, there = (state.policy(state.normalizer(sign * x)) for sign in (1, -1))
        np.testing.assert_allclose(there.mean, -np.asarray(here.mean), atol=1e-12)
        np.testing.assert_allclose(there.std, here.std, atol=1e-12)
        assert not np.allclose(here.mean, start.policy(state.normalizer(x)).mean)
        if name != "sac":
            values = [state.critics(state.normalizer(sign * x)) for sign in (1, -1)]
            np.testing.assert_allclose(*values, atol=1e-12)


def test_a_task_without_a_mirror_is_refused():
    with pytest.raises(SettingsError, match="through-dynamics says of no mirror"):
        make("rpo").init(ThroughDynamics(), jax.random.key(0))
