"""Evaluation counts one full episode per environment, and nothing else."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rpo
from rpo.nets import Actor, TanhGaussianPolicy, new_normalizer
from rpo.training import (
    CheckpointError,
    Policy,
    Run,
    SettingsError,
    load_policies,
    load_policy,
    memory,
)
from rpo.training.evaluation import evaluate_policy
from tests.marks import nightly
from tests.training.fakes import TINY, Countdown, Echo


def policy_for(env: rpo.envs.Env) -> Policy:
    size = env.spec.observation_size
    network = TanhGaussianPolicy(size, env.spec.action_size, (4,), jax.random.key(0))
    return Policy(Actor(network, new_normalizer(size)), env)


def test_one_full_episode_per_environment() -> None:
    found = evaluate_policy(policy_for(Countdown()), episodes=64)
    lengths, returns = found.lengths[0], found.returns[0]
    np.testing.assert_allclose(returns, lengths * (lengths + 1) / 2)
    assert returns.shape == (64,)
    # Lengths are uniform on 1..300, cut at the time limit of 200: long episodes are not missed.
    assert (lengths == 200).sum() > 10
    assert lengths.min() < 60
    assert lengths.max() == 200


def test_more_episodes_than_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_for(Echo())
    for available, message in (
        (2**20, "100,000 episodes at once need about .* lower episodes"),
        (
            9 * 2**20,
            r"a step of so many episodes needs about .*; episodes of about [\d,]+ would fit",
        ),
    ):
        monkeypatch.setattr(memory, "available_bytes", lambda available=available: available)
        with pytest.raises(SettingsError, match=message):
            evaluate_policy(policy, episodes=100_000)


def test_the_seed_chooses_the_episodes() -> None:
    policy = policy_for(Countdown())
    first, again, other = (evaluate_policy(policy, episodes=16, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.returns, again.returns)
    assert not np.array_equal(first.returns, other.returns)


def test_deterministic_actions_are_the_squashed_mean() -> None:
    policy = policy_for(Echo())
    action = policy(jnp.ones((1, 1)))
    quiet = evaluate_policy(policy, episodes=8, deterministic=True)
    np.testing.assert_allclose(quiet.returns, 3 * float(action[0, 0]), rtol=1e-5)
    noisy = evaluate_policy(policy, episodes=8)
    assert len(np.unique(noisy.returns)) == 8
    assert not quiet.returns.std() > 1e-6


def test_std_is_over_seeds_or_over_episodes() -> None:
    policy = policy_for(Countdown())
    one = evaluate_policy(policy, episodes=16)
    assert one.std == pytest.approx(one.returns.std())
    returns = np.array([[1.0, 3.0], [5.0, 7.0]])
    two = dataclasses.replace(one, returns=returns, lengths=np.ones((2, 2), int))
    assert (two.mean, two.std) == (4.0, 2.0)


def test_it_says_how_the_task_is_randomised_and_can_turn_that_off() -> None:
    noise = rpo.envs.Randomization(observation_noise=(0.1,))
    policy, nominal = policy_for(Echo(randomization=noise)), policy_for(Echo())
    found = rpo.evaluate(policy, episodes=8, deterministic=True)
    assert str(found).endswith(", randomised: observation_noise 0.1")
    assert found.summary()["randomization"] == "observation_noise 0.1"
    assert len(np.unique(found.returns)) == 8  # the policy sees the noise
    off = rpo.evaluate(policy, episodes=8, deterministic=True, randomization=False)
    assert str(off).endswith(", without randomisation") and len(np.unique(off.returns)) == 1
    plain = rpo.evaluate(nominal, episodes=8, deterministic=True)
    np.testing.assert_array_equal(plain.returns, off.returns)
    assert str(plain).endswith(")") and plain.summary()["randomization"] == "off"


def test_policies_of_a_run(finished_run: Run) -> None:
    first, second = load_policies(finished_run)
    observation = jnp.array([[1.0, 0.0, 0.3]])
    assert not np.array_equal(first(observation), second(observation))
    np.testing.assert_array_equal(
        load_policy(finished_run, seed=1)(observation), second(observation)
    )
    sampled = second(observation, jax.random.key(0))
    assert not np.array_equal(sampled, second(observation))
    with pytest.raises(SettingsError, match="not of 5"):
        load_policy(finished_run, seed=5)


def test_evaluating_a_run_repeats_its_own_evaluation(finished_run: Run) -> None:
    found = rpo.evaluate(finished_run, episodes=4, deterministic=True)
    stored = finished_run.evaluation()
    assert stored is not None
    assert stored["deterministic"]["returns"] == found.returns.tolist()


@nightly
def test_best_policy_is_that_of_the_best_iteration(train_tiny) -> None:
    """Countdown's episodes end all the time, so the window of 100 is soon full."""
    observation = jnp.array([[0.2, 0.4]])
    # The same run, ended at that iteration: its last policy is the other's best one. Its rates
    # must not depend on the number of steps.
    constant = {"actor_learning_rate_schedule": "constant"}
    long = train_tiny(Countdown(), total_steps=64 * 250, **constant)
    table = long.metrics()
    full = table["episodes_finished"] >= 100
    assert 1 < full.sum() < len(full)
    best = int(table["iteration"][full][np.argmax(table["episode_return"][full])])
    short = train_tiny(Countdown(), total_steps=64 * best, **constant)
    np.testing.assert_array_equal(
        load_policy(long, checkpoint="best", env=Countdown())(observation),
        load_policy(short, env=Countdown())(observation),
    )


def test_no_checkpoint_yet(tmp_path, train_tiny) -> None:
    from rpo.training.settings import resolve
    from tests.training.fakes import PENDULUM

    run = Run.create(tmp_path / "run", resolve(PENDULUM, settings=TINY))
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        rpo.evaluate(run)
    with pytest.raises(SettingsError, match="episodes is 0"):
        evaluate_policy(policy_for(Echo()), episodes=0)
