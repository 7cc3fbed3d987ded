"""Networks against their formula written out, and their initialisation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.nets import (
    MLP,
    Actor,
    ClippedGaussianPolicy,
    CriticEnsemble,
    Linear,
    TanhGaussianPolicy,
    new_normalizer,
)
from rpo.nets.policy import bounded_log_std


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 3), (3, 5), (4, 4)])
def test_weights_are_orthogonal_with_the_gain_and_biases_zero(inputs, outputs):
    linear = Linear(inputs, outputs, jax.random.key(0), gain=1.5)
    weight = np.asarray(linear.weight)
    small = weight.T @ weight if inputs >= outputs else weight @ weight.T
    np.testing.assert_allclose(small, 1.5**2 * np.eye(min(inputs, outputs)), atol=1e-12)
    assert not np.any(linear.bias)


def test_hidden_layers_are_linear_then_layer_norm_then_silu():
    network = MLP(3, (4,), 2, jax.random.key(1))
    x = np.asarray(jax.random.normal(jax.random.key(2), (6, 3)))
    z = x @ np.asarray(network.trunk.linears[0].weight)
    z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)
    expected = (z / (1 + np.exp(-z))) @ np.asarray(network.head.weight)
    np.testing.assert_allclose(network(x), expected, rtol=1e-12)
    # one sample gives what it gives among others, and any number of batch axes is allowed
    np.testing.assert_allclose(network(x[0]), expected[0], rtol=1e-12)
    np.testing.assert_allclose(network(x.reshape(2, 3, 3)), expected.reshape(2, 3, 2), rtol=1e-12)


def test_layers_have_different_weights():
    network = MLP(4, (4, 4), 4, jax.random.key(1))
    first, second = network.trunk.linears
    assert not np.allclose(first.weight, second.weight)
    assert not np.allclose(first.weight, network.head.weight)


def test_critics_have_different_weights_and_values():
    critics = CriticEnsemble(3, (8, 8), 2, jax.random.key(0))
    one, two = critics.members
    for left, right in zip(one.trunk.linears, two.trunk.linears, strict=True):
        assert not np.allclose(left.weight, right.weight)
    values = critics(jax.random.normal(jax.random.key(1), (5, 3)))
    assert values.shape == (2, 5)
    assert np.all(np.abs(values[0] - values[1]) > 1e-3)


def test_number_of_critics_is_free():
    assert CriticEnsemble(3, (8,), 3, jax.random.key(0))(jnp.ones((4, 3))).shape == (3, 4)


def test_log_std_depends_on_the_state_and_is_clamped():
    policy = TanhGaussianPolicy(3, 2, (8,), jax.random.key(0))
    observation = jax.random.normal(jax.random.key(1), (5, 3))
    assert np.ptp(np.asarray(policy(observation).log_std), axis=0).min() > 1e-3

    def shifted(bias):
        head = policy.log_std_head
        head = jax.tree.map(lambda x: x, head)
        object.__setattr__(head, "bias", head.bias + bias)
        changed = jax.tree.map(lambda x: x, policy)
        object.__setattr__(changed, "log_std_head", head)
        return changed(observation).log_std

    np.testing.assert_array_equal(shifted(100.0), 2.0)
    np.testing.assert_array_equal(shifted(-100.0), -5.0)


def test_an_action_is_the_squashed_mean_or_a_squashed_sample():
    policy = TanhGaussianPolicy(3, 2, (8,), jax.random.key(0))
    normalizer = new_normalizer(3).update(5 + jax.random.normal(jax.random.key(1), (50, 3)))
    observation = 5 + jax.random.normal(jax.random.key(2), (4, 3))
    distribution = policy(normalizer(observation))
    deterministic = Actor(policy, normalizer)(observation)
    np.testing.assert_allclose(deterministic, np.tanh(distribution.mean), rtol=1e-12)

    repeated = jnp.broadcast_to(observation[0], (4000, 3))
    sample = Actor(policy, normalizer)(repeated, jax.random.key(3))
    noise = (np.arctanh(sample) - distribution.mean[0]) / distribution.std[0]
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.06)
    np.testing.assert_allclose(noise.std(0), 1, atol=0.06)


def test_the_clipped_policy_starts_near_zero_and_bounds_mean_and_std():
    policy = ClippedGaussianPolicy(3, 2, (64, 32), jax.random.key(0))
    observation = jax.random.normal(jax.random.key(1), (500, 3))
    start = policy(observation)
    # std at an input of zero: 0.9 / (1 + exp(-2)) + 0.1
    np.testing.assert_allclose(start.std, 0.9 / (1 + np.exp(-2)) + 0.1, atol=0.01)
    assert 0 < np.abs(start.mean).max() < 0.1

    far = jax.tree.map(lambda x: 1e4 * x, policy)(observation)
    np.testing.assert_allclose(np.abs(far.mean).max(), 1.0)
    np.testing.assert_allclose([far.std.min(), far.std.max()], [0.1, 1.0], rtol=1e-5)
    beyond = jnp.array([-3.0, 0.5, 2.0])
    np.testing.assert_array_equal(policy.squash(beyond), beyond)


def test_hidden_layers_of_the_clipped_policy_have_gain_root_two():
    trunk = ClippedGaussianPolicy(8, 2, (8,), jax.random.key(0)).trunk
    weight = np.asarray(trunk.linears[0].weight)
    np.testing.assert_allclose(weight @ weight.T, 2 * np.eye(8), atol=1e-5)
    critics = CriticEnsemble(8, (8,), 1, jax.random.key(0), gain=2.0)
    weight = np.asarray(critics.members[0].trunk.linears[0].weight)
    np.testing.assert_allclose(weight @ weight.T, 4 * np.eye(8), atol=1e-5)


def test_default_precision_is_single():
    with jax.enable_x64(False):
        policy = TanhGaussianPolicy(3, 2, (8,), jax.random.PRNGKey(0))
        assert {leaf.dtype for leaf in jax.tree.leaves(policy)} == {np.dtype("float32")}


def test_log_std_returns_from_beyond_its_bounds_and_goes_no_further():
    features = jax.random.normal(jax.random.key(0), (5, 4))
    head = Linear(4, 3, jax.random.key(1), gain=0.1)
    head = eqx.tree_at(lambda x: x.bias, head, jnp.array([-9.0, 0.0, 9.0]))  # below, inside, above

    def loss(head, features, sign):
        return sign * jnp.sum(bounded_log_std(head, features))

    plain = jax.jit(jax.grad(lambda head: jnp.sum(head(features))))(head)
    slopes = jax.jit(jax.grad(loss, argnums=(0, 1)))
    for sign, passes in ((1.0, [False, True, True]), (-1.0, [True, True, False])):
        by_head, by_features = slopes(head, features, sign)
        np.testing.assert_allclose(by_head.bias, sign * np.where(passes, plain.bias, 0))
        np.testing.assert_allclose(by_head.weight, sign * np.where(passes, plain.weight, 0))
        # the derivative through states is that of the clipped value
        exact = np.broadcast_to(sign * np.asarray(head.weight)[:, 1], (5, 4))
        np.testing.assert_allclose(by_features, exact, rtol=1e-12)


@pytest.mark.parametrize(("start", "end"), [(-9.0, -5.0), (9.0, 2.0)])
def test_a_policy_that_left_the_range_learns_the_standard_deviation_again(start, end):
    policy = TanhGaussianPolicy(3, 2, (8,), jax.random.key(0))
    policy = eqx.tree_at(lambda p: p.log_std_head.bias, policy, jnp.full(2, start))
    observation = jax.random.normal(jax.random.key(1), (5, 3))
    np.testing.assert_array_equal(policy(observation).log_std, end)

    def step(policy, _):
        gradient = jax.grad(lambda p: jnp.mean((p(observation).log_std + 1.0) ** 2))(policy)
        return jax.tree.map(lambda p, g: p - 0.2 * g, policy, gradient), None

    policy, _ = jax.jit(lambda p: jax.lax.scan(step, p, length=100))(policy)
    np.testing.assert_allclose(policy(observation).log_std, -1.0, atol=0.3)


def test_a_smaller_start_has_small_means_and_deviations_that_are_alike():
    observation = jax.random.normal(jax.random.key(1), (50, 5))
    usual, small = (
        TanhGaussianPolicy(5, 3, (16, 8), jax.random.key(0), initial_std=std)(observation)
        for std in (1.0, 0.1)
    )
    np.testing.assert_allclose(small.mean, 0.1 * usual.mean, rtol=1e-12)
    np.testing.assert_allclose(small.log_std, np.log(0.1) + 0.1 * usual.log_std, rtol=1e-12)
