"""Cached action gradients, and the policy gradients made from them, against plain differentiation.

The reference here is a loop over time with its own bookkeeping of returns. It shares no code with
the library beyond the networks and the environment.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.algorithms import RPO, SAPO, SHAC, RPOConfig, SAPOConfig, SHACConfig
from rpo.algorithms.chunks import largest_divisor
from rpo.algorithms.devices import environment_keys, environment_noise
from rpo.algorithms.surrogate import actor_gradient, make_actor_batch
from rpo.nets import Gaussian, TanhGaussianPolicy
from tests.algorithms.probe_environments import Diverging, Wanderer
from tests.marks import nightly

ENVS, HORIZON, DISCOUNT, ALPHA = 12, 5, 0.9, 0.3
ENV = Wanderer()
SMALL = {
    "num_envs": ENVS,
    "horizon": HORIZON,
    "total_steps": 10_000,
    "discount": DISCOUNT,
    "actor_hidden_sizes": (8, 8),
    "critic_hidden_sizes": (8,),
    "block_size": 4,
    "critic_minibatches": 1,
}
RPO_ONE_EPOCH = RPO(RPOConfig(**SMALL, actor_epochs=1, entropy_coefficient=ALPHA))


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


@functools.cache
def prepared(algorithm, env=ENV):
    """A state with observation statistics unlike the identity, and its rollout and batch."""
    # Two programs, whose keys are arguments: the first serves all algorithms with such a state, and
    # XLA need not draw random numbers while it compiles.

    @jax.jit
    def start(key, data_key):
        state = algorithm.init(env, key)
        data = 1 + 2 * jax.random.normal(data_key, (50, env.spec.observation_size))
        return dataclasses.replace(state, normalizer=state.normalizer.update(data))

    @jax.jit
    def roll(state, key):
        rollout = algorithm.rollout(env, state, key)
        observation = state.normalizer(rollout.segment.observation)
        return rollout, make_actor_batch(rollout, observation, DISCOUNT)

    key = jax.random.PRNGKey(5)
    state = start(jax.random.PRNGKey(3), jax.random.PRNGKey(4))
    return state, *roll(state, key), key


def reference_returns(env, state, policy, key, perturbation, coefficient):
    """Each environment's return by a plain loop over time, and its rewards."""
    keys = environment_keys(key, jnp.arange(ENVS))
    noise = environment_noise(keys, (2, HORIZON, env.spec.action_size))

    def value(observation):
        normalized = state.normalizer(observation)
        return sum(member(normalized)[:, 0] for member in state.critics.networks.members) / 2

    def one(carried, step):
        env_state, total, weight = carried
        noise, fresh_noise, moved, last = step
        distribution = policy(state.normalizer(env_state.observation))
        std = jnp.exp(distribution.log_std)
        u = distribution.mean + std * noise + moved
        fresh = distribution.mean + std * fresh_noise
        log_density = jax.scipy.stats.norm.logpdf(fresh, distribution.mean, std) - jnp.log(
            1 - jnp.tanh(fresh) ** 2
        )
        target = env.spec.action_size / 2
        bonus = (-log_density.sum(-1) + target) / (2 * target)
        env_state, transition = env.step(env_state, jnp.tanh(u))
        total += weight * (transition.reward + coefficient * bonus)
        weight *= DISCOUNT
        final = value(transition.final_observation)
        cut = jnp.where(last, ~transition.terminated, transition.truncated)
        total += jnp.where(cut, weight * final, 0)
        weight = jnp.where(transition.terminated | transition.truncated, 1.0, weight)
        return (env_state, total, weight), transition.reward

    last = np.arange(HORIZON) == HORIZON - 1
    start = state.environments.state, jnp.zeros(ENVS), jnp.ones(ENVS)
    (_, total, _), rewards = jax.lax.scan(one, start, (*noise, perturbation, last))
    return total, rewards


def parameters_of(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def surrogate_gradient(loss, policy, batch):
    gradient = jax.jit(lambda policy, batch: actor_gradient(loss, policy, batch, None)[0])
    return parameters_of(gradient(policy, batch))


@functools.cache
def reference_gradients(algorithm, coefficient):
    """Gradients of the summed returns by the policy and by the perturbation of the actions."""
    state, rollout, _, key = prepared(algorithm)

    def objective(policy, perturbation):
        return reference_returns(ENV, state, policy, key, perturbation, coefficient)[0].sum()

    zero = np.zeros_like(rollout.action_gradient)
    return jax.jit(jax.grad(objective, argnums=(0, 1)))(state.policy, zero)


def bptt_gradient(algorithm, coefficient):
    """Gradient of the mean return per step with respect to the policy's parameters."""
    return parameters_of(reference_gradients(algorithm, coefficient)[0]) / (ENVS * HORIZON)


def test_cached_action_gradients_equal_direct_differentiation():
    _, rollout, _, _ = prepared(RPO_ONE_EPOCH)
    # the case must hold every kind of episode end, or it would test less than it says
    assert np.any(rollout.segment.terminated)
    assert np.any(rollout.segment.truncated)

    direct = reference_gradients(RPO_ONE_EPOCH, ALPHA)[1]
    np.testing.assert_allclose(rollout.action_gradient, direct, rtol=1e-9, atol=1e-12)
    assert np.abs(direct).max() > 0.1


def test_one_epoch_of_rpo_is_the_bptt_gradient():
    state, _, batch, _ = prepared(RPO_ONE_EPOCH)
    expected = bptt_gradient(RPO_ONE_EPOCH, ALPHA)
    from_rpo = -surrogate_gradient(RPO_ONE_EPOCH.loss, state.policy, batch)
    np.testing.assert_allclose(from_rpo, expected, rtol=1e-8, atol=1e-11)
    assert np.linalg.norm(expected) > 1e-2


@nightly
def test_sapo_at_a_fixed_temperature_has_the_bptt_gradient():
    sapo = SAPO(SAPOConfig(**SMALL, initial_temperature=ALPHA, temperature_learning_rate=0.0))
    state, _, batch, _ = prepared(sapo)
    expected = bptt_gradient(RPO_ONE_EPOCH, ALPHA)
    from_sapo = -surrogate_gradient(sapo.loss(state), state.policy, batch)
    np.testing.assert_allclose(from_sapo, expected, rtol=1e-8, atol=1e-11)


@nightly
def test_without_entropy_the_surrogate_alone_is_the_bptt_gradient_and_that_of_shac():
    shac = SHAC(SHACConfig(**SMALL))
    state, _, batch, _ = prepared(shac)
    expected = bptt_gradient(shac, 0.0)
    rpo = RPO(RPOConfig(**SMALL, entropy_coefficient=0.0))
    from_rpo = -surrogate_gradient(rpo.loss, state.policy, batch)
    np.testing.assert_allclose(from_rpo, expected, rtol=1e-8, atol=1e-11)
    from_shac = -surrogate_gradient(shac.loss, state.policy, batch)
    np.testing.assert_allclose(from_shac, expected, rtol=1e-8, atol=1e-11)


def test_results_do_not_depend_on_the_block_size():
    one_block = RPO(dataclasses.replace(RPO_ONE_EPOCH.config, block_size=ENVS))
    whole = jax.tree.leaves(prepared(one_block)[1])
    blocks = jax.tree.leaves(prepared(RPO_ONE_EPOCH)[1])
    for one, other in zip(whole, blocks, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_no_gradient_crosses_an_episode_end():
    state, rollout, _, key = prepared(RPO_ONE_EPOCH)
    ended = np.asarray(rollout.segment.terminated | rollout.segment.truncated)
    step, index = (int(i[0]) for i in np.nonzero(ended[:-1]))
    assert step + 1 < HORIZON

    def rewards_after(perturbation):
        rewards = reference_returns(ENV, state, state.policy, key, perturbation, 0.0)[1]
        return rewards[step + 1 :, index].sum()

    gradient = np.asarray(jax.jit(jax.grad(rewards_after))(np.zeros((HORIZON, ENVS, 2))))
    assert np.abs(gradient[step + 1 :, index]).max() > 0
    np.testing.assert_array_equal(gradient[: step + 1, index], 0)


@nightly
def test_a_diverging_environment_loses_its_gradient_and_leaves_the_others_theirs():
    env = Diverging()
    state, rollout, batch, _ = prepared(RPO_ONE_EPOCH, env)
    bad = ~rollout.gradient_finite
    assert 0 < int(bad.sum()) < ENVS
    np.testing.assert_array_equal(rollout.action_gradient[:, bad], 0)
    kept = rollout.action_gradient[:, ~bad]
    assert bool(jnp.isfinite(kept).all())
    assert bool((jnp.abs(kept).sum(axis=(0, 2)) > 0).all())
    assert np.isfinite(surrogate_gradient(RPO_ONE_EPOCH.loss, state.policy, batch)).all()


def test_regenerated_actions_are_the_recorded_ones():
    state, rollout, batch, _ = prepared(RPO_ONE_EPOCH)

    @jax.jit
    def regenerate(state, batch):
        other = TanhGaussianPolicy(3, 2, (8,), jax.random.key(77))
        distribution: Gaussian = other(batch.observation)
        keys = environment_keys(jax.random.PRNGKey(5), jnp.arange(ENVS))
        return (
            distribution.sample(distribution.noise_of(batch.action)),
            state.policy(batch.observation).noise_of(batch.action),
            environment_noise(keys, (2, HORIZON, 2))[0],
        )

    regenerated, same, noise = regenerate(state, batch)
    np.testing.assert_allclose(regenerated, rollout.segment.action, rtol=1e-9, atol=1e-10)
    # the recorded noise is recovered by the policy that acted
    np.testing.assert_allclose(same, noise, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("count", "limit", "expected"), [(128, 128, 128), (100, 64, 50), (7, 4, 1), (12, 100, 12)]
)
def test_block_is_the_largest_divisor_within_the_limit(count, limit, expected):
    assert largest_divisor(count, limit) == expected
