"""SAC's own equations, on numbers worked out by hand."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rpo.algorithms import SAC, SACConfig
from rpo.algorithms.replay import Windows
from rpo.algorithms.sac import Learner, smoothed
from rpo.algorithms.temperature import Temperature, target_entropy
from rpo.nets import Gaussian
from tests.algorithms.probe_environments import Wanderer
from tests.marks import nightly

SMALL = SACConfig(
    num_envs=8,
    horizon=6,
    actor_hidden_sizes=(8,),
    critic_hidden_sizes=(8,),
    warmup_steps=9,
    batch_size=16,
    gradient_steps=2,
    n_step=3,
    replay_capacity=8 * 13,
)


class Fixed(eqx.Module):
    """A policy whose mean is the observation's first two features and a learned offset."""

    offset: jax.Array

    def __call__(self, observation):
        mean = observation[..., :2] + self.offset
        return Gaussian(mean, jnp.full_like(mean, -0.5))

    @staticmethod
    def squash(pre_squash):
        return jnp.tanh(pre_squash)


class Linear(eqx.Module):
    """Two critics that are linear in observation and action, one row of weights each."""

    weight: jax.Array

    def __call__(self, inputs):
        return jnp.moveaxis(inputs @ self.weight.T, -1, 0)


ALPHA = 0.3
NEXT = np.array([[[0.1, -0.4], [0.7, 0.2]]])
NOISE = np.array([[[-0.5, 1.0], [1.5, 0.3]]])
WEIGHT = np.array([[1.0, 2.0, -1.0, 0.5], [0.5, 1.0, 2.0, -2.0]])


def learner():
    return Learner(
        policy=Fixed(jnp.zeros(2)),
        critics=Linear(jnp.asarray(WEIGHT)),
        target_critics=Linear(jnp.asarray(2 * WEIGHT)),
        temperature=Temperature(jnp.log(ALPHA), None),
        actor_optimizer=None,
        critic_optimizer=None,
    )


def sampled_by_hand(weight):
    """Per sample: the smaller of two action values, and minus the log density of the action."""
    std = np.exp(-0.5)
    u = NEXT + std * NOISE
    values = np.concatenate([NEXT, np.tanh(u)], axis=-1) @ weight.T
    log_prob = -0.5 * NOISE**2 - np.log(std * np.sqrt(2 * np.pi)) - np.log(1 - np.tanh(u) ** 2)
    # each critic is the smaller one once, so that a mean or the first one would be noticed
    assert set(values.argmin(axis=-1).ravel()) == {0, 1}
    return values.min(axis=-1), -log_prob.sum(axis=-1)


def test_critic_target_by_hand():
    with jax.enable_x64(True):
        windows = Windows(
            observation=jnp.full((1, 2, 2), jnp.nan),
            action=jnp.full((1, 2, 2), jnp.nan),
            reward=jnp.array([[1.5, -2.0]]),
            discount=jnp.array([[0.81, 0.0]]),  # the second one terminated
            final_observation=jnp.asarray(NEXT),
        )
        target = SAC(SMALL).critic_target(learner(), windows, jnp.asarray(NOISE))
        value, entropy = sampled_by_hand(2 * WEIGHT)
        first = 1.5 + 0.81 * (value[0, 0] + ALPHA * entropy[0, 0])
        np.testing.assert_allclose(target, [[first, -2.0]], rtol=1e-10)


def test_actor_loss_and_gradient_by_hand():
    with jax.enable_x64(True):
        loss, metrics = SAC(SMALL).actor_loss(
            learner().policy, learner(), jnp.asarray(NEXT), jnp.asarray(NOISE)
        )
        value, entropy = sampled_by_hand(WEIGHT)
        np.testing.assert_allclose(loss, -(value + ALPHA * entropy).mean(), rtol=1e-10)
        np.testing.assert_allclose(metrics["entropy"], entropy.mean(), rtol=1e-10)
        np.testing.assert_allclose(metrics["std"], np.exp(-0.5), rtol=1e-10)

        gradient, _ = jax.jit(jax.grad(SAC(SMALL).actor_loss, has_aux=True))(
            learner().policy, learner(), jnp.asarray(NEXT), jnp.asarray(NOISE)
        )
        action = np.tanh(NEXT + np.exp(-0.5) * NOISE)
        slope = 1 - action**2
        smaller = (np.concatenate([NEXT, action], axis=-1) @ WEIGHT.T).argmin(axis=-1)
        # d value / d offset through the action; d entropy / d offset = -2 tanh(u)
        by_offset = WEIGHT[smaller][..., 2:] * slope - ALPHA * 2 * action
        np.testing.assert_allclose(gradient.offset, -by_offset.mean(axis=(0, 1)), rtol=1e-10)


@pytest.mark.parametrize(
    ("entropy", "moved"),
    [(-1.5, 0.0), (-1.4, -5e-3), (3.0, -5e-3), (-1.6, 5e-3)],
)
def test_temperature_moves_entropy_to_minus_half_the_action_size(entropy, moved):
    """Three actions: the target is -1.5. AdamW's first step has the length of the rate."""
    algorithm = SAC(dataclasses.replace(SMALL, weight_decay=0.0))
    start = Temperature(jnp.array(0.2), algorithm.optimizer.init(jnp.array(0.2)))
    excess = jnp.array(entropy) - target_entropy(3)
    after = start.step(excess, algorithm.optimizer, algorithm.config.temperature_learning_rate)
    np.testing.assert_allclose(after.log_alpha, 0.2 + moved, atol=1e-6)


def test_polyak_averaging():
    old, new = {"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([3.0, -2.0])}
    np.testing.assert_allclose(smoothed(old, new, 0.25)["a"], [1.5, 1.0])


@nightly  # values that stood still would not come to the known ones of the probes
def test_target_critics_follow():
    env, algorithm = Wanderer(), SAC(dataclasses.replace(SMALL, gradient_steps=1, warmup_steps=0))

    @jax.jit
    def begin_and_update():
        state = algorithm.init(env, jax.random.PRNGKey(0))
        return state, algorithm.update(env, state)[0]

    state, after = begin_and_update()
    for target, start, critics in zip(
        *map(jax.tree.leaves, (after.method.target_critics, state.critics, after.critics)),
        strict=True,
    ):
        assert not np.array_equal(start, critics)
        np.testing.assert_allclose(target, 0.4 * start + 0.6 * critics, rtol=1e-5, atol=1e-7)


@nightly
def test_warm_up_acts_uniformly_at_random_and_does_not_learn():
    """Nine steps of warm-up: the first iteration, and half of the second one, which cannot learn
    before its first step is past the warm-up either."""
    env, algorithm = Wanderer(), SAC(SMALL)
    update = jax.jit(lambda s: algorithm.update(env, s))
    collect = jax.jit(lambda s: algorithm.collect(env, s, jax.random.PRNGKey(1)))
    states = [algorithm.init(env, jax.random.PRNGKey(0))]
    metrics = []
    for _ in range(3):
        state, values = update(states[-1])
        states.append(state)
        metrics.append(values)

    for leaf, start in zip(
        *map(jax.tree.leaves, (states[2].policy, states[0].policy)), strict=True
    ):
        np.testing.assert_array_equal(leaf, start)
    assert np.isnan(metrics[1]["value_loss"])
    assert all(np.isfinite(value) for value in metrics[2].values())
    assert not np.array_equal(states[3].policy.mean_head.bias, states[0].policy.mean_head.bias)
    # 13 steps per environment do not fit whole iterations; 12 do
    replay = states[3].method.replay
    assert (replay.capacity, int(replay.written)) == (12, 18)

    # the same noise acts through the policy in the second half of the second iteration
    (_, first), (_, second) = collect(states[0]), collect(states[1])
    np.testing.assert_allclose(second.action[:3], first.action[:3], rtol=1e-5, atol=1e-6)
    assert not np.allclose(second.action[3:], first.action[3:], atol=1e-2)


def test_warm_up_actions_are_uniform():
    env = Wanderer()
    algorithm = SAC(dataclasses.replace(SMALL, horizon=500, warmup_steps=500, replay_capacity=4000))

    @jax.jit
    def act():
        state = algorithm.init(env, jax.random.PRNGKey(0))
        return algorithm.collect(env, state, jax.random.PRNGKey(1))[1]

    experience = act()
    counts, _ = np.histogram(experience.action, bins=10, range=(-1, 1))
    assert counts.sum() == 500 * 8 * 2
    np.testing.assert_allclose(counts / counts.sum(), 0.1, atol=0.015)


@pytest.mark.parametrize("batch_axes", [0, 1])
def test_the_replay_is_split_with_its_environments(batch_axes):
    algorithm = SAC(SMALL, axis="devices")
    state = jax.eval_shape(lambda: algorithm.init(Wanderer(), jax.random.PRNGKey(0)))
    partition = algorithm.partition(state, batch_axes)
    whole, split = PartitionSpec(), PartitionSpec(*[None] * (batch_axes + 1), "devices")
    assert set(jax.tree.leaves(partition.method.replay.steps)) == {split}
    assert partition.method.replay.written == whole
    assert set(jax.tree.leaves(partition.method.target_critics)) == {whole}
    environments = PartitionSpec(*[None] * batch_axes, "devices")
    assert set(jax.tree.leaves(partition.environments)) == {environments}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_step": 33}, "n_step is 33, must not exceed the horizon"),
        ({"n_step": 0}, "n_step is 0, must be at least 1"),
        ({"batch_size": 100}, "batch_size is 100, must be a multiple of num_envs"),
        ({"replay_capacity": 4000}, "replay_capacity is 4000, must hold one iteration"),
        ({"target_smoothing": 1.5}, "target_smoothing is 1.5"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"initial_temperature": 0.0}, "initial_temperature is 0.0"),
        ({"total_steps": 0}, "total_steps is 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        SACConfig(**settings)
    assert "\n" not in str(error.value)
