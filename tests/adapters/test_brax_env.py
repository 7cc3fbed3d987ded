"""Our tasks beneath Brax's wrappers and agents."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.errors import SettingsError
from rpo.training.task_files import load_task
from tests.training.fakes import PENDULUM, Countdown, Echo

brax_envs = pytest.importorskip("brax.envs")

from rpo.adapters.brax_env import BraxEnv, _replicated, complete_jax  # noqa: E402


def test_tasks_have_names_there() -> None:
    env = brax_envs.get_environment("rpo_hopper", episode_length=7)
    assert isinstance(env, BraxEnv)
    assert env.env.spec.episode_length == 7
    assert (env.observation_size, env.action_size) == (11, 3)


def test_only_braxs_own_time_limit_counts() -> None:
    env = BraxEnv(Echo())  # whose own limit is 3
    step, state = jax.jit(env.step), env.reset(jax.random.key(0))
    for _ in range(10):
        state = step(state, jnp.ones(1))
        assert (float(state.done), float(state.reward)) == (0.0, 1.0)


def test_episodes_end_by_themselves() -> None:
    env = brax_envs.training.wrap(BraxEnv(Countdown()), episode_length=1000)
    state = jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(0), 4))
    lengths, step = np.ceil(np.asarray(state.obs[:, 1]) * 300), jax.jit(env.step)
    ended = np.zeros(4)
    for k in range(1, 302):
        state = step(state, jnp.zeros((4, 1)))
        now = np.asarray(state.done) > 0
        np.testing.assert_array_equal(state.reward[now & (ended == 0)], k)
        ended[now & (ended == 0)] = k
    np.testing.assert_allclose(ended, lengths, atol=1)


def test_gradients_pass() -> None:
    pendulum = load_task(PENDULUM)
    env, key, actions = BraxEnv(pendulum), jax.random.key(3), jnp.full((5, 1), 0.3)

    def there(actions: Any) -> Any:
        _, rewards = jax.lax.scan(
            lambda state, action: ((following := env.step(state, action)), following.reward),
            env.reset(key),
            actions,
        )
        return rewards.sum()

    def here(actions: Any) -> Any:
        def step(state: Any, action: Any) -> Any:
            state, transition = pendulum.step(state, action[None])
            return state, transition.reward[0]

        return jax.lax.scan(step, pendulum.reset(key, 1), actions)[1].sum()

    found, expected = jax.jit(jax.grad(there))(actions), jax.jit(jax.grad(here))(actions)
    assert float(jnp.abs(expected).min()) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_mistakes_take_one_line() -> None:
    with pytest.raises(SettingsError, match="leave out episode_length"):
        BraxEnv(Echo(), episode_length=3)
    with pytest.raises(ValueError, match="unknown task 'antt'"):
        BraxEnv("antt")


def test_copies_on_devices_are_as_pmap_takes_them() -> None:
    devices = jax.local_devices()
    copies = _replicated({"a": np.arange(3.0)}, devices)
    np.testing.assert_array_equal(
        jax.pmap(lambda x: x["a"] + 1)(copies), [[1.0, 2.0, 3.0]] * len(devices)
    )


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # those of Brax
@pytest.mark.parametrize("agent", ["ppo", "apg"])
def test_braxs_agents_learn(agent: str) -> None:
    """That the action is the reward, up to 8 in 8 steps."""
    complete_jax()
    shared = {"num_evals": 2, "num_eval_envs": 16, "episode_length": 8, "max_devices_per_host": 1}
    seen: list[float] = []
    told = {"progress_fn": lambda _, metrics: seen.append(float(metrics["eval/episode_reward"]))}
    if agent == "ppo":
        from brax.training.agents.ppo.train import train

        amounts = {"num_timesteps": 20_000, "num_envs": 32, "learning_rate": 3e-3}
        batches = {"batch_size": 32, "num_minibatches": 4, "unroll_length": 8}
        train(BraxEnv(Echo()), **amounts, **batches, **shared, **told)
    else:
        from brax.training.agents.apg.train import train

        amounts = {"policy_updates": 60, "num_envs": 32, "learning_rate": 1e-2}
        train(BraxEnv(Echo()), horizon_length=8, **amounts, **shared, **told)
    assert len(seen) == 2
    assert seen[1] > max(seen[0] + 2, 4)
